"""Quality against speed: models and samplers measured on the same text with the same code.

python scoreboard.py --quick --dataset_dir data --output_dir runs/quick    # minutes on two cores
python scoreboard.py --output_dir runs/board                               # about an hour
python scoreboard.py --settings grid.toml --scorer gpt2-large              # your own rows
python scoreboard.py --results runs/board/results.json --markdown RESULTS.md
accelerate launch scoreboard.py ...                                        # several GPUs

A run that was stopped goes on where it was when it is started again with the same flags. A file of
settings has a table for each row, and a list as a value makes a row of each element:

    [[row]]
    model = "roberta-small-wikitext"
    sampler = "confidence"
    n_steps = [8, 16, 32]
    temperature = [0.8, 1.0]

    [[row]]
    model = "gpt2-small-wikitext"
    conditional = false          # from nothing instead of after prompts
"""

import dataclasses
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from diffusion import report, writing
from diffusion.errors import UserError, run
from diffusion.flags import parse_flags
from diffusion.options import at_least
from diffusion.rows import REAL, SHUFFLED, Row, Store, check_distinct, digest, expand, read_grid

# torch and transformers' models take seconds to import; --help and mistakes need neither.

# What --quick and the default run measure, where a flag does not say otherwise.
SIZES = {
    True: {"num_samples": 64, "length": 32, "likelihood_blocks": 16},
    False: {"num_samples": 256, "length": 64, "likelihood_blocks": 128},
}
# A scorer should be none of the compared models, and better than them. gpt2-large takes longer
# than four minutes on two cores, so --quick has a stand-in, and every table says so.
SCORER, QUICK_SCORER = "gpt2-large", "gpt2-small-wikitext"
# More texts to compare with give a higher self-BLEU, so there are always so many if possible.
BLEU_REFERENCES = 63
ENOUGH_FOR_MAUVE = 1000


@dataclass
class ScoreOptions:
    model: str = field(
        default="roberta-small-wikitext",
        metadata={"help": "The masked LM: folder, name in weights/, or hub name."},
    )
    baseline: str = field(
        default="gpt2-small-wikitext",
        metadata={"help": "The causal LM: folder, name in weights/, or hub name such as gpt2."},
    )
    settings: str | None = field(
        default=None, metadata={"help": "A TOML file of rows, instead of the two models above."}
    )
    quick: bool = field(default=False, metadata={"help": "A few rows of few and short texts."})
    scorer: str | None = field(
        default=None,
        metadata={"help": "The causal LM that judges: folder or hub name. Default: gpt2-large; "
                  f"with --quick {QUICK_SCORER}."},
    )  # fmt: skip
    dataset: str = field(
        default="wikitext-2",
        metadata={"help": "Where prompts and real text come from, as in finetune.py."},
    )
    dataset_dir: str | None = field(
        default=None, metadata={"help": "Folder with local WikiText-2 files (else: the hub)."}
    )
    split: str = field(
        default="test",
        metadata={"help": "The split of prompts and likelihoods; what MAUVE compares with comes "
                  "from the other one.", "choices": ["validation", "test"]},
    )  # fmt: skip
    num_samples: int | None = field(
        default=None, metadata={"help": "Texts of each row; default 256, with --quick 64."}
    )
    prompt_len: int = field(default=16, metadata={"help": "Tokens of a prompt."})
    length: int | None = field(
        default=None,
        metadata={"help": "New tokens of a text, if it does not end before; default 64, with "
                  "--quick 32."},
    )  # fmt: skip
    clusters: int | None = field(
        default=None, metadata={"help": "Clusters of MAUVE; default a tenth of the texts."}
    )
    likelihood_blocks: int | None = field(
        default=None,
        metadata={"help": "Blocks of text for the likelihood; default 128, with --quick 16; 0: "
                  "leave it out."},
    )  # fmt: skip
    block_size: int = field(default=256, metadata={"help": "Tokens of such a block."})
    draws: int = field(default=4, metadata={"help": "Mask patterns a block in the bound."})
    estimator: str = field(
        default="fixed-count",
        metadata={"help": "Of the bound: fixed-count (less variance) or bernoulli (the definition).",
                  "choices": ["fixed-count", "bernoulli"]},
    )  # fmt: skip
    batch_size: int = field(default=16, metadata={"help": "Texts written or judged at once."})
    seed: int = field(default=0, metadata={"help": "Of rows that do not name one."})
    device: str = field(default="auto", metadata={"help": "auto: CUDA, then MPS, then CPU."})
    dtype: str = field(
        default="auto", metadata={"help": "float32, bfloat16, float16 or auto, as in inference.py."}
    )
    output_dir: str = field(
        default="runs/scoreboard", metadata={"help": "Folder for results, texts and pictures."}
    )
    results: str | None = field(
        default=None, metadata={"help": "Show the results.json of another run; measure nothing."}
    )
    markdown: str | None = field(
        default=None, metadata={"help": "Write the tables to this file, too, such as RESULTS.md."}
    )


def grid(args: ScoreOptions) -> list[dict]:
    """The rows that are measured without --settings."""
    masked, causal = {"model": args.model}, {"model": args.baseline}
    if args.quick:
        return [
            causal | {"temperature": [1.0, 0.8]},
            masked | {"sampler": "seed"},
            masked | {"sampler": "confidence", "n_steps": [8, 16], "alg_temp": 0.3},
            masked | {"temperature": [1.0, 0.8]},
            causal | {"conditional": False},
            masked | {"conditional": False, "sampler": "ancestral", "n_steps": 16},
        ]
    return [
        causal | {"temperature": [1.0, 0.85, 0.7]},
        masked | {"sampler": "seed", "n_steps": [10, 32]},
        masked | {"sampler": "ancestral", "n_steps": [16, 64]},
        masked | {"sampler": "confidence", "n_steps": [8, 16, 32], "alg_temp": 0.3},
        masked | {"sampler": "entropy-bound", "entropy_bound": 1.0},
        masked | {"temperature": [1.0, 0.85, 0.7]},
        causal | {"conditional": False},
        masked | {"conditional": False},
    ]


# ---------------------------------------------------------------- processes, progress


class Processes:
    """The processes that `accelerate launch` has started; mostly it is one."""

    def __init__(self, device: str):
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.device = device
        if self.world > 1:
            import torch
            from accelerate import PartialState

            PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
            if device == "auto" and torch.cuda.is_available():
                local = int(os.environ.get("LOCAL_RANK", 0))
                self.device = f"cuda:{local % torch.cuda.device_count()}"

    def spread(self, items: Sequence, work: Callable) -> list:
        """[work(item), ...] with each process doing its share; all get all. An item is done by one
        process whole, so how many there are changes no result."""
        mine = [(i, work(items[i])) for i in range(self.rank, len(items), self.world)]
        if self.world > 1:
            from accelerate.utils import gather_object

            mine = gather_object(mine)
        return [result for _, result in sorted(mine, key=lambda pair: pair[0])]

    def agree(self, value):
        """The value of the first process."""
        if self.world == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def say(self, message: str) -> None:
        if self.rank == 0:
            writing.say(message)

    def end(self) -> None:
        if self.world > 1:  # a process that just ends may take the others down with it
            import torch

            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


class Progress:
    """A bar with the time left, from the forward passes that are planned."""

    def __init__(self, total: float, quiet: bool):
        self.total, self.done, self.quiet = max(total, 1e-9), 0.0, quiet
        self.started = time.monotonic()

    def add(self, amount: float, what: str) -> None:
        self.done += amount
        if self.quiet or not sys.stderr.isatty():
            return
        share = min(1.0, self.done / self.total)
        left = (time.monotonic() - self.started) * (1 - share) / max(share, 1e-9)
        bar = "#" * int(24 * share)
        print(f"\r\x1b[K[{bar:24}] {share:4.0%}, {left / 60:.1f} min left, {what[:40]}", end="",
              file=sys.stderr, flush=True)  # fmt: skip

    def end(self) -> None:
        if not self.quiet and sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- what is measured


@dataclass
class Board:
    """Everything the rows share."""

    args: ScoreOptions
    processes: Processes
    writers: dict  # name of a model -> its writer
    digests: dict  # name of a model -> hash of its weights, config and tokenizer
    scorer: object
    scorer_digest: str
    passages: list  # of the split of prompts
    references: list  # of the other one
    documents: list  # of the split of prompts
    store: Store

    @property
    def tokenizer(self):
        """The one that counts tokens in all rows: that of the first model."""
        return next(iter(self.writers.values())).tokenizer

    def window(self, row: Row) -> int:
        """New tokens of a text, at most."""
        return self.args.length + (0 if row.conditional else self.args.prompt_len)

    def prompts(self, row: Row) -> list[str]:
        return [p.prompt if row.conditional else "" for p in self.passages]

    def batches(self) -> list[range]:
        n, size = self.args.num_samples, self.args.batch_size
        return [range(i, min(i + size, n)) for i in range(0, n, size)]

    def label(self, name: str) -> str:
        """A model's name, short where that says which."""
        short = Path(name).name
        return short if sum(Path(n).name == short for n in self.writers) < 2 else name


def with_room(board: Board, row: Row) -> Row:
    """The row with its options checked, and positions for prompt and new text."""
    from diffusion.canvas import prompt_ids
    from diffusion.options import GenerationOptions

    writer, options = board.writers[row.model], dataclasses.replace(row.options)
    longest = max(map(len, prompt_ids(writer.tokenizer, board.prompts(row), sys.maxsize)))
    if options.max_len == GenerationOptions().max_len:
        options.max_len = longest + max(board.window(row), options.length or 0)
    writer.check(options)
    return dataclasses.replace(row, options=options)


def keys(board: Board, row: Row) -> tuple[str, str]:
    """(key of the texts, key of the row): everything that determines them."""
    import sklearn
    import torch
    import transformers

    from diffusion import hardware, rows

    args = board.args
    texts = {
        "version": rows.VERSION,
        "model": board.digests.get(row.model, row.model),
        "options": {k: v for k, v in asdict(row.options).items() if v is not None}
        if row.options
        else None,
        "passages": [asdict(p) for p in board.passages],
        "tokenizer": sorted(board.tokenizer.get_vocab().items()),
        "conditional": row.conditional,
        "length": args.length,
        "batch_size": args.batch_size,
        "processor": hardware.processor(),
        "versions": [torch.__version__, transformers.__version__],
        "code": rows.code_digest("generation", "autoregressive", "scoring"),
    }
    if row.options:
        writer = board.writers[row.model]
        texts |= {"device": writer.device.type, "dtype": str(writer.dtype)}
    key = digest(texts)
    judged = {
        "texts": key,
        "scorer": board.scorer_digest,
        "references": [asdict(p) for p in board.references],
        "clusters": args.clusters,
        "sklearn": sklearn.__version__,
        "code": rows.code_digest("metrics"),
    }
    return key, digest(judged)


def write_batch(board: Board, row: Row, indices: range) -> list[dict]:
    """The texts of a batch: after each prompt what the row's model writes, or what real text is."""
    from diffusion.canvas import encode, prompt_ids, written_ids
    from diffusion.scoring import shuffled

    prompts, window = board.prompts(row), board.window(row)
    given = [prompts[i] for i in indices]
    common = [{"index": i, "prompt": prompt} for i, prompt in zip(indices, given, strict=True)]
    if row.options is None:
        for sample, i in zip(common, indices, strict=True):
            passage = board.passages[i]
            text = (
                passage.continuation if row.conditional else passage.prompt + passage.continuation
            )
            text = shuffled(text, i) if row.model == SHUFFLED else text
            ids = encode(board.tokenizer, text)[:window]
            sample |= {"text": text, "ids": ids, "finished": False, "nfe": 0, "seconds": 0.0}
        return common
    writer = board.writers[row.model]
    tokenizer = writer.tokenizer
    for step in writer.generate(given, row.options, list(indices)):
        last = step
    prefixes = prompt_ids(tokenizer, given, row.options.max_len)
    for number, (sample, prefix) in enumerate(zip(common, prefixes, strict=True)):
        new = written_ids(last, number)[len(prefix) :]
        finished = tokenizer.eos_token_id in new
        if finished:
            new = new[: new.index(tokenizer.eos_token_id)]
        finished, new = finished and len(new) <= window, new[:window]
        whole = tokenizer.decode(
            [*prefix[1:], *new], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        text = whole[len(sample["prompt"]) :]
        if not finished:
            text = text.rstrip("\ufffd")  # a character that the end of the canvas has cut
        sample |= {"text": text, "ids": new, "finished": finished}
        # A batch's time is that of all its texts; each gets its part.
        sample |= {"nfe": int(last.nfe[number]), "seconds": last.seconds / len(indices)}
    return common


def warm_up(board: Board, row: Row, batch: range) -> None:
    """Texts of two tokens that nobody keeps: what a model does once is not in a measured time."""
    options = dataclasses.replace(row.options, length=2)
    given = [board.prompts(row)[i] for i in batch]
    for _ in board.writers[row.model].generate(given, options, list(batch)):
        pass


def opinions(board: Board, texts: Sequence[tuple[str, str, bool]]) -> list:
    """What the scorer says of texts, in the same batches whatever the number of processes."""
    parts = [[texts[i] for i in batch] for batch in board.batches()]
    read = board.processes.spread(parts, lambda p: board.scorer.read(p, board.args.batch_size))
    return [opinion for part in read for opinion in part]


def judge(board: Board, row: Row, samples: list[dict], features) -> dict:
    """All numbers of a row; ``features`` (N, d) are those of the references."""
    import numpy as np

    from diffusion import metrics
    from diffusion.canvas import encode
    from diffusion.scoring import estimate_json

    said = opinions(board, [(s["prompt"], s["text"], s["finished"]) for s in samples])
    window, n = board.window(row), len(samples)
    ids = [s["ids"] for s in samples]
    if (
        row.options
        and board.writers[row.model].tokenizer.get_vocab() != board.tokenizer.get_vocab()
    ):
        ids = [encode(board.tokenizer, s["text"])[:window] for s in samples]
    nats, tokens = [o.nats for o in said], [o.tokens for o in said]
    full = [metrics.entropy(text) for text in ids if len(text) >= window]
    repeats = [metrics.repetition(text) for text in ids if len(text) >= 4]
    bleu = metrics.self_bleu(ids, min(BLEU_REFERENCES, n - 1))
    found = {
        "gen_ppl": metrics.bootstrap(metrics.perplexity, nats, tokens),
        "mauve": metrics.mauve(np.stack([o.feature for o in said]), features, board.args.clusters),
        "entropy": metrics.bootstrap(metrics.mean, full),
        "self_bleu": metrics.bootstrap(metrics.mean, [b for b in bleu if b == b]),
        **{f"distinct_{k}": metrics.distinct(ids, k) for k in (1, 2, 3)},
        "rep_4": metrics.bootstrap(metrics.mean, repeats),
        "length": metrics.bootstrap(metrics.mean, [len(text) for text in ids]),
    }
    if row.options is not None:
        found["unfinished"] = metrics.share(sum(not s["finished"] for s in samples), n)
        found["nfe"] = metrics.bootstrap(metrics.mean, [s["nfe"] for s in samples])
        # Texts of a batch share a clock: batches are what can be drawn again.
        seconds = [sum(samples[i]["seconds"] for i in batch) for batch in board.batches()]
        texts = [len(batch) for batch in board.batches()]
        written = [sum(len(ids[i]) for i in batch) for batch in board.batches()]
        for name, columns in {"seconds": (seconds, texts), "tokens_per_second": (written, seconds)}.items():  # fmt: skip
            found[name] = metrics.bootstrap(metrics.ratio, *columns)
            if len(seconds) < 4:  # too few to draw from
                found[name] = metrics.Estimate(found[name].value)
    return {
        "model": board.label(row.model),
        "method": method(row),
        "conditional": row.conditional,
        "settings": {k: v for k, v in row.settings().items() if k not in ("max_len", "seed")},
        "seed": row.options.seed if row.options else "",
        "samples": n,
        "full_length": len(full),
        "windowed": sum(o.windowed for o in said),
        "metrics": {name: estimate_json(value) for name, value in found.items()},
        "nats": list(zip(nats, tokens, strict=True)),
    }


def method(row: Row) -> str:
    """How a row writes, for people."""
    hidden = ("sampler", "max_len", "prefix_len", "seed")
    own = ", ".join(f"{k} {v}" for k, v in row.settings().items() if k not in hidden)
    name = (row.options.sampler or "left to right") if row.options else ""
    return f"{name} ({own})" if own else name


def likelihoods(board: Board) -> list[dict]:
    """The likelihood of every model, from the beginning of a block and after a prompt."""
    from diffusion import rows, scoring

    args = board.args
    if not args.likelihood_blocks:
        return []
    size = min(args.block_size, *(w.positions for w in board.writers.values()))
    settings = {"draws": args.draws, "batch_size": args.batch_size, "seed": args.seed,
                "estimator": args.estimator}  # fmt: skip
    jobs = []
    for name in board.writers:
        for prefix in dict.fromkeys((1, args.prompt_len)):
            what = {"model": board.digests[name], "documents": board.documents, "prefix": prefix,
                    "size": size, "blocks": args.likelihood_blocks, **settings,
                    "version": rows.VERSION, "code": rows.code_digest("scoring")}  # fmt: skip
            jobs.append((name, prefix, digest(what)))
    done = board.processes.agree({key for *_, key in jobs if board.store.has_row(key)})

    def measure(job):
        name, prefix, key = job
        if key in done:
            return board.store.read_row(key)
        entry = scoring.likelihood(
            board.writers[name], board.documents, size, prefix, args.likelihood_blocks, **settings
        )
        entry = {"model": board.label(name), **entry}
        board.store.write_row(key, entry)
        return entry

    board.processes.say("measuring likelihoods ...")
    return board.processes.spread(jobs, measure)


def generations(board: Board, rows: list[Row]) -> list[dict]:
    """Every row of the generation tables, from the store where it is there."""
    import numpy as np

    processes, store = board.processes, board.store
    pairs = [keys(board, row) for row in rows]
    check_distinct([key for _, key in pairs], [f"{r.model}, {method(r)}" for r in rows])
    written = processes.agree({key for key, _ in pairs if store.has_texts(key)})
    judged = processes.agree({key for _, key in pairs if store.has_row(key)})
    cost = [
        0 if row.options is None or texts in written or key in judged
        else (row.options.n_steps or board.window(row)) / (1 if row.options.sampler else 8)
        for row, (texts, key) in zip(rows, pairs, strict=True)
    ]  # fmt: skip
    bar = Progress(sum(cost) * len(board.batches()), processes.rank > 0)
    features, out, warm = None, [], set()
    for number, (row, (texts_key, key)) in enumerate(zip(rows, pairs, strict=True)):
        if key in judged:
            out.append(store.read_row(key))
            continue
        if texts_key in written:
            samples = store.read_texts(texts_key, board.args.num_samples)
        else:

            def work(batch, row=row, number=number):
                if row.options and row.model not in warm:
                    warm_up(board, row, batch)
                    warm.add(row.model)
                texts = write_batch(board, row, batch)
                bar.add(
                    cost[number] * processes.world, f"row {number + 1}/{len(rows)}: {method(row)}"
                )
                return texts

            parts = processes.spread(board.batches(), work)
            samples = [sample for part in parts for sample in part]
            if processes.rank == 0:
                store.write_texts(texts_key, samples)
        if features is None:
            real = opinions(board, [(p.prompt, p.continuation, False) for p in board.references])
            features = np.stack([opinion.feature for opinion in real])
        entry = judge(board, row, samples, features)
        entry["texts"] = f"generations/{texts_key}.jsonl"
        if processes.rank == 0:
            store.write_row(key, entry)
        out.append(entry)
        bar.end()
        processes.say(f"row {number + 1}/{len(rows)}: {row.model} {method(row)}".rstrip())
    return out


def paired(entries: list[dict]) -> tuple[str, list[dict]]:
    """(name of the row that all others after the same prompts are compared with, differences): the
    first that writes from left to right, else the first model's."""
    from diffusion import metrics
    from diffusion.scoring import estimate_json

    after = [e for e in entries if e["conditional"]]
    models = [e for e in after if e["model"] not in (REAL, SHUFFLED)]
    causal = [e for e in models if "sampler" not in e["settings"]]
    if len(after) < 2 or not models:
        return "", []
    first = (causal or models)[0]
    differences = [
        {
            "name": [e["model"], e["method"], str(e["seed"])],
            "difference": estimate_json(metrics.paired_difference(e["nats"], first["nats"])),
        }
        for e in after
        if e is not first
    ]
    return f"{first['model']}, {first['method']}, seed {first['seed']}", differences


# ---------------------------------------------------------------- the script


def check(args: ScoreOptions) -> None:
    """Everything that can be refused before a model is loaded; fills in sizes."""
    if args.results is not None:
        if args.settings or args.quick:
            raise UserError("--results measures nothing; leave out --settings and --quick")
        return
    if args.settings is not None and args.quick:
        raise UserError("--quick has rows of its own; leave out --quick or --settings")
    for name, value in SIZES[args.quick].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.scorer = args.scorer or (QUICK_SCORER if args.quick else SCORER)
    at_least("--num_samples", args.num_samples, 2)
    at_least("--length", args.length, 4)
    for name in ("prompt_len", "batch_size", "draws"):
        at_least(f"--{name}", getattr(args, name), 1)
    at_least("--likelihood_blocks", args.likelihood_blocks, 0)
    at_least("--block_size", args.block_size, 8)
    if args.prompt_len >= args.block_size:
        raise UserError(
            f"--prompt_len {args.prompt_len} must be below --block_size {args.block_size}"
        )
    if args.clusters is not None:
        at_least("--clusters", args.clusters, 2)
        if args.clusters > args.num_samples:
            raise UserError(
                f"--clusters {args.clusters} exceeds the {args.num_samples} texts of a row; use "
                "fewer clusters or a larger --num_samples"
            )
    from diffusion.checkpoints import check_output_dir

    # What is there already is what a stopped run has done.
    check_output_dir(args.output_dir, False, True, "")


def check_rows(rows: list[Row]) -> None:
    """What can be refused of the rows before a model is loaded."""
    from diffusion import checkpoints

    for row in rows:
        options = dataclasses.replace(row.options)
        masked = checkpoints.is_masked_lm(checkpoints.load_config(row.model))
        (options.check if masked else options.check_autoregressive)()


def load(args: ScoreOptions, rows: list[Row], processes: Processes) -> Board:
    """Models, scorer and text."""
    from diffusion import checkpoints, corpus, metrics, scoring
    from diffusion.autoregressive import load_causal_writer
    from diffusion.generation import load_writer
    from diffusion.rows import model_digest

    other = "validation" if args.split == "test" else "test"
    documents = corpus.load_documents(args.dataset, args.split, args.dataset_dir)
    more = corpus.load_documents(args.dataset, other, args.dataset_dir)
    if documents == more:  # a file is one split: no passage may be prompt and reference
        documents, more = documents[::2], documents[1::2]
    writers, digests = {}, {}
    for name in dict.fromkeys(row.model for row in rows):
        masked = checkpoints.is_masked_lm(checkpoints.load_config(name))
        loader = load_writer if masked else load_causal_writer
        processes.say(f"loading {name} ...")
        writer = loader(name, None, processes.device, args.dtype)
        writers[name] = writer
        digests[name] = model_digest(scoring.scored_model(writer), writer.tokenizer)
    processes.say(f"loading the scorer {args.scorer} ...")
    # In float32 whatever the models write in: its opinion is the measure.
    scorer = scoring.load_scorer(args.scorer, processes.device, "float32")
    tokenizer = next(iter(writers.values())).tokenizer
    found = {}
    for split, texts in ((args.split, documents), (other, more)):
        found[split] = scoring.passages(texts, tokenizer, args.prompt_len, args.length)
        if len(found[split]) < args.num_samples:
            raise UserError(
                f"--num_samples {args.num_samples}: the {split} text has only {len(found[split])} "
                f"passages of {args.prompt_len} + {args.length} tokens; use fewer or shorter texts"
            )
        found[split] = found[split][: args.num_samples]
    args.clusters = args.clusters or metrics.default_clusters(args.num_samples, args.num_samples)
    store = Store(Path(args.output_dir))
    return Board(
        args, processes, writers, digests, scorer, model_digest(scorer.model, scorer.tokenizer),
        found[args.split], found[other], documents, store,
    )  # fmt: skip


def measure(args: ScoreOptions, processes: Processes) -> dict:
    """The results, see `report`."""
    import sklearn
    import torch
    import transformers

    from diffusion import hardware

    tables = read_grid(args.settings) if args.settings else grid(args)
    rows = expand([{"seed": args.seed, **t} for t in tables], [args.model, args.baseline])
    check_rows(rows)
    board = load(args, rows, processes)
    kinds = dict.fromkeys(row.conditional for row in rows)
    real = [Row(name, kind) for kind in kinds for name in (REAL, SHUFFLED)]
    planned = real + [with_room(board, row) for row in rows]
    entries = generations(board, planned)
    name, differences = paired(entries)
    same = [board.label(n) for n, value in board.digests.items() if value == board.scorer_digest]
    writer = next(iter(board.writers.values()))
    return {
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "data": {
            "name": Path(args.dataset).name,
            "split": args.split,
            "reference_split": "validation" if args.split == "test" else "test",
        },
        "samples": args.num_samples,
        "prompt_len": args.prompt_len,
        "length": args.length,
        "clusters": args.clusters,
        "batch_size": args.batch_size,
        "scorer": {
            "name": Path(args.scorer).name,
            "hash": board.scorer_digest,
            "compared": ", ".join(same),
        },
        "notes": notes(board, entries),
        "likelihood": likelihoods(board),
        "rows": [{k: v for k, v in entry.items() if k != "nats"} for entry in entries],
        "paired_with": name,
        "paired": differences,
        "hardware": hardware.describe(writer.device, writer.dtype),
        "processor": hardware.processor(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }


def notes(board: Board, entries: list[dict]) -> list[str]:
    """What a reader of the numbers must know."""
    said, args = [], board.args
    if args.num_samples < ENOUGH_FOR_MAUVE:
        said.append(
            f"MAUVE of fewer than {ENOUGH_FOR_MAUVE} texts is too high and noisy; compare only rows "
            "of one table."
        )
    if windowed := sum(entry["windowed"] for entry in entries):
        said.append(
            f"{windowed} texts are longer than the {board.scorer.positions} positions of the "
            "scorer, which read them in windows that overlap by half."
        )
    if short := sum(args.num_samples - entry["full_length"] for entry in entries):
        said.append(
            f"{short} texts are shorter than the full length; the entropy, which depends on the "
            "length, leaves them out."
        )
    if args.num_samples - 1 < BLEU_REFERENCES:
        said.append(
            f"Self-BLEU against {args.num_samples - 1} others instead of {BLEU_REFERENCES}."
        )
    return said


def main() -> None:
    (args,) = parse_flags((ScoreOptions,), __doc__.split("\n")[0])
    check(args)
    writing.prepare_streams()
    if args.results is not None:
        data = report.load(args.results)
    else:
        import torch

        processes = Processes(args.device)
        try:
            data = measure(args, processes)
        except torch.OutOfMemoryError:
            raise UserError(
                f"the device ran out of memory with --batch_size {args.batch_size}; use a smaller "
                "one"
            ) from None
        if processes.rank == 0:
            for path in report.write_all(data, Path(args.output_dir)):
                writing.say(f"saved {path}")
        processes.end()
        if processes.rank > 0:
            return
    print(report.plain_text(data), flush=True)
    if args.markdown is not None:
        report.write_markdown(data, args.markdown)
        writing.say(f"saved {args.markdown}")


if __name__ == "__main__":
    run(main)
