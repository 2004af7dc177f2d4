"""How the rows of a scoreboard are written and judged.

A batch holds the same texts whichever process writes or judges it, so neither the number of processes
nor an interruption changes a result.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers

from diffusion import hardware
from diffusion.canvas import encode, prompt_ids, written_ids
from diffusion.cli.console import progress
from diffusion.cli.options import Access
from diffusion.data.corpus import load_documents
from diffusion.errors import UserError
from diffusion.models import loading
from diffusion.options import GenerationOptions
from diffusion.views.frames import Framer
from studies.board import metrics, rows, scorer
from studies.board.options import PASSAGES, ScoreOptions
from studies.board.processes import Processes
from studies.board.rows import CONTROLS, REAL, SHUFFLED, Row, Store, check_distinct, model_digest
from studies.board.scorer import Scorer, estimate_json, repeated, shuffled

# More references give a higher self-BLEU, so their number is fixed if possible.
BLEU_REFERENCES = 63
WINDOW = 16  # tokens in which the order of writing is looked at, where there are no blocks
ESTIMATES = ("draws", "batch_size", "seed")  # flags of the likelihood


@dataclass
class Board:
    """Everything the rows share."""

    args: ScoreOptions
    processes: Processes
    writers: dict  # name of a model -> its writer
    digests: dict  # name of a model -> hash of its weights, config and tokenizer
    scorer: Scorer
    scorer_digest: str
    passages: list  # of the split of prompts
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


def check_rows(rows: Sequence[Row], access: Access) -> None:
    """Refuse options that a row's model does not have, before it is loaded."""
    for row in rows:
        if _is_masked(row.model, access):
            row.options.check()
            noise = loading.noise_settings(loading.load_config(row.model, access), row.model)
            row.options.resolved(noise=noise["name"]).check()
        else:
            row.options.shared().check()
            if row.options != GenerationOptions(**vars(row.options.shared())):
                raise UserError(
                    f"the settings of {row.model} name options of diffusion, and it writes token by "
                    "token; leave them out"
                )


def _is_masked(name: str, access: Access) -> bool:
    return loading.is_masked_lm(loading.load_config(name, access))


def load_board(
    args: ScoreOptions,
    rows: Sequence[Row],
    processes: Processes,
    access: Access,
    *loaders: Callable,
) -> Board:
    """Models, scorer and text; ``loaders``: of a masked writer, and of a causal one.

    Raises:
        UserError: a text has too few passages for ``--num_samples``.
    """
    documents = load_documents(args.dataset, args.split, args.dataset_dir)
    writers, digests = {}, {}
    for name in dict.fromkeys(row.model for row in rows):
        processes.say(f"loading {name} ...")
        load = loaders[0 if _is_masked(name, access) else 1]
        writers[name] = writer = load(name, None, processes.device, args.dtype, access)
        digests[name] = model_digest(scorer.scored_model(writer), writer.tokenizer)
    processes.say(f"loading the scorer {args.scorer} ...")
    # In float32 whatever the models write in, because it measures them.
    judge = scorer.load_scorer(args.scorer, processes.device, "float32")
    tokenizer = next(iter(writers.values())).tokenizer
    if args.prompt_len:
        passages = scorer.passages(documents, tokenizer, args.prompt_len, args.length)
        what = f"passages of {args.prompt_len} + {args.length} tokens"
    else:
        passages = scorer.beginnings(documents, tokenizer, args.length)
        what = f"documents with a first sentence and {args.length} tokens after it"
    if len(passages) < args.num_samples:
        raise UserError(
            f"--num_samples {args.num_samples}: the {args.split} text has only {len(passages)} {what}; "
            "use fewer or shorter texts"
        )
    return Board(
        args, processes, writers, digests, judge, model_digest(judge.model, judge.tokenizer),
        passages[: args.num_samples], documents, Store(Path(args.output_dir)),
    )  # fmt: skip


def measure(board: Board, rows: Sequence[Row]) -> dict:
    """The results, see `results`, but for what they are called."""
    args = board.args
    kinds = dict.fromkeys(row.conditional for row in rows)
    real = [Row(name, kind) for kind in kinds for name in CONTROLS]
    planned = [(row, *keys(board, row)) for row in [*real, *(with_room(board, r) for r in rows)]]
    bounds = likelihood_jobs(board)
    wanted = [row_key for *_, row_key in planned] + [key for *_, key in bounds]
    if misfits := board.store.misfits(wanted):
        board.processes.say(f"note: {misfits}")
    entries = generations(board, planned)
    name, differences = paired(entries)
    same = [board.label(n) for n, value in board.digests.items() if value == board.scorer_digest]
    writer = next(iter(board.writers.values()))
    return {
        "data": {"name": Path(args.dataset).name, "split": args.split},
        "samples": args.num_samples,
        **{n: getattr(args, n) for n in ("prompt_len", "length", "batch_size")},
        "scorer": {
            "name": Path(args.scorer).name,
            "hash": board.scorer_digest,
            "compared": ", ".join(same),
        },
        "notes": notes(board, entries),
        "likelihood": likelihoods(board, bounds),
        "rows": [{k: v for k, v in entry.items() if k != "nats"} for entry in entries],
        "paired_with": name,
        "paired": differences,
        **hardware.record(writer.device, writer.dtype),
    }


def with_room(board: Board, row: Row) -> Row:
    """The row with its options checked, and positions for prompt and new text."""
    writer, options = board.writers[row.model], dataclasses.replace(row.options)
    longest = max(map(len, prompt_ids(writer.tokenizer, board.prompts(row), sys.maxsize)))
    if options.max_len == GenerationOptions().max_len:
        options.max_len = longest + max(board.window(row), options.length or 0)
    writer.check(options)
    return dataclasses.replace(row, options=writer.resolve(options))


def keys(board: Board, row: Row) -> tuple[str, str]:
    """(key of the texts, key of the row): everything that determines them."""
    args = board.args
    texts = {
        "version": rows.VERSION,
        "model": board.digests.get(row.model, row.model),
        "options": row.options and {k: v for k, v in asdict(row.options).items() if v is not None},
        "passages": [asdict(p) for p in board.passages],
        "tokenizer": sorted(board.tokenizer.get_vocab().items()),
        "conditional": row.conditional,
        "length": args.length,
        "batch_size": args.batch_size,
        "processor": hardware.processor(),
    }
    if row.options:
        writer = board.writers[row.model]
        texts |= {"device": writer.device.type, "dtype": str(writer.dtype)}
    written = rows.digest(
        texts
        | {
            "versions": [torch.__version__, transformers.__version__],
            "code": rows.code_digest(
                "diffusion.generate", "diffusion.autoregressive", "studies.board.scorer"
            ),
        }
    )
    judged = {"texts": written, "scorer": board.scorer_digest}
    return written, rows.digest(judged | {"code": rows.code_digest("studies.board.metrics")})


def write_batch(board: Board, row: Row, indices: range) -> list[dict]:
    """The texts of a batch: after each prompt what the row's model writes, or what real text is."""
    prompts, window = board.prompts(row), board.window(row)
    given = [prompts[i] for i in indices]
    common = [{"index": i, "prompt": prompt} for i, prompt in zip(indices, given, strict=True)]
    if row.options is None:
        for sample, i in zip(common, indices, strict=True):
            passage = board.passages[i]
            text = (
                passage.continuation if row.conditional else passage.prompt + passage.continuation
            )
            if row.model != REAL:
                text = shuffled(text, i) if row.model == SHUFFLED else repeated(text)
            ids = encode(board.tokenizer, text)[:window]
            sample |= {"text": text, "ids": ids, "finished": False, "nfe": 0, "seconds": 0.0}
        return common
    writer = board.writers[row.model]
    tokenizer = writer.tokenizer
    when = None  # (B, L) the step in which each position was written
    for last in writer.generate(given, row.options, list(indices)):
        if not writer.autoregressive:  # whose canvas grows
            when = torch.zeros_like(last.ids) if when is None else when
            when[last.revealed] = last.index
    prefixes = prompt_ids(tokenizer, given, row.options.max_len)
    framer = Framer(tokenizer)
    for number, (sample, prefix) in enumerate(zip(common, prefixes, strict=True)):
        new = written_ids(last, number)[len(prefix) :]
        finished = tokenizer.eos_token_id in new
        if finished:
            new = new[: new.index(tokenizer.eos_token_id)]
        finished, new = finished and len(new) <= window, new[:window]
        text = framer.frame(last, number).added(len(new))
        if not finished:
            text = text.rstrip("\ufffd")  # a character that the end of the canvas has cut
        sample |= {"text": text, "ids": new, "finished": finished}
        if when is not None:
            steps = when[number][(when[number] > 0)].tolist()[: len(new)]
            order = metrics.order(steps, row.options.block_length or WINDOW)
            sample["order"] = None if math.isnan(order) else order
        # A batch's time is that of all its texts; each gets its part.
        sample |= {"nfe": int(last.nfe[number]), "seconds": last.seconds / len(indices)}
    return common


def warm_up(board: Board, row: Row, batch: range) -> None:
    """Discard texts of two tokens, so that what a model does once is not timed."""
    options = dataclasses.replace(row.options, length=2)
    given = [board.prompts(row)[i] for i in batch]
    for _ in board.writers[row.model].generate(given, options, list(batch)):
        pass


def opinions(board: Board, texts: Sequence[tuple[str, str, bool]]) -> list:
    """The scorer's opinions of texts, in the same batches whatever the number of processes."""
    size = board.args.batch_size
    parts = [texts[i : i + size] for i in range(0, len(texts), size)]
    read = board.processes.spread(parts, lambda p: board.scorer.read(p, board.args.batch_size))
    return [opinion for part in read for opinion in part]


def judge(board: Board, row: Row, samples: list[dict]) -> dict:
    """All numbers of a row."""
    scored = opinions(board, [(s["prompt"], s["text"], s["finished"]) for s in samples])
    window, n = board.window(row), len(samples)
    ids = [s["ids"] for s in samples]
    own = board.writers[row.model].tokenizer if row.options else board.tokenizer
    if own.get_vocab() != board.tokenizer.get_vocab():
        ids = [encode(board.tokenizer, s["text"])[:window] for s in samples]
    nats, tokens = [o.nats for o in scored], [o.tokens for o in scored]
    full = [metrics.entropy(text) for text in ids if len(text) >= window]
    repeats = [metrics.repetition(text) for text in ids if len(text) >= 4]
    bleu = metrics.self_bleu(ids, min(BLEU_REFERENCES, n - 1))
    found = {
        "gen_ppl": metrics.bootstrap(metrics.perplexity, nats, tokens),
        "nats_per_char": metrics.bootstrap(metrics.ratio, nats, [o.characters for o in scored]),
        "entropy": metrics.bootstrap(metrics.mean, full),
        "self_bleu": metrics.bootstrap(metrics.mean, [b for b in bleu if b == b]),
        **{f"distinct_{k}": metrics.distinct(ids, k) for k in (1, 2, 3)},
        "rep_4": metrics.bootstrap(metrics.mean, repeats),
        "length": metrics.bootstrap(metrics.mean, [len(text) for text in ids]),
    }
    if row.options is not None:
        found["unfinished"] = metrics.share(sum(not s["finished"] for s in samples), n)
        found["nfe"] = metrics.bootstrap(metrics.mean, [s["nfe"] for s in samples])
        orders = [s["order"] for s in samples if s.get("order") is not None]
        found["order"] = metrics.bootstrap(metrics.mean, orders)
        # Texts of a batch share a clock: batches are what can be drawn again.
        seconds = [sum(samples[i]["seconds"] for i in batch) for batch in board.batches()]
        texts = [len(batch) for batch in board.batches()]
        written = [sum(len(ids[i]) for i in batch) for batch in board.batches()]
        for name, columns in {"seconds": (seconds, texts), "tokens_per_second": (written, seconds)}.items():  # fmt: skip
            found[name] = metrics.bootstrap(metrics.ratio, *columns)
            if len(seconds) < 4:  # too few to draw from
                found[name] = metrics.Estimate(found[name].value)
    # Real text may be copyrighted and is not shown.
    first = row.options and {name: samples[0][name] for name in ("prompt", "text", "finished")}
    return {
        "model": board.label(row.model),
        "first": first,
        "method": method(row),
        "conditional": row.conditional,
        "settings": {k: v for k, v in row.settings().items() if k not in ("max_len", "seed")},
        "seed": row.options.seed if row.options else "",
        "scorer": Path(board.args.scorer).name,
        "samples": n,
        "full_length": len(full),
        "windowed": sum(o.windowed for o in scored),
        "metrics": {name: estimate_json(value) for name, value in found.items()},
        "nats": list(zip(nats, tokens, strict=True)),
    }


def method(row: Row) -> str:
    """How a row writes, for people."""
    hidden = ("sampler", "max_len", "seed")
    own = ", ".join(f"{k} {v}" for k, v in row.settings().items() if k not in hidden)
    name = (row.options.sampler or "left to right") if row.options else ""
    return f"{name} ({own})" if own else name


def likelihood_jobs(board: Board) -> list[tuple[str, dict, str]]:
    """(model, settings, key) of every likelihood: of each model from the beginning of a block and
    after a prompt."""
    args, jobs = board.args, []
    size = min(args.block_size, *(w.positions for w in board.writers.values()))
    for name in board.writers if args.likelihood_blocks else ():
        for prefix in dict.fromkeys((1, args.prompt_len or 1)):
            what = {"size": size, "prefix": prefix, "blocks": args.likelihood_blocks,
                    **{k: getattr(args, k) for k in ESTIMATES}}  # fmt: skip
            given = {"model": board.digests[name], "dtype": str(board.writers[name].dtype),
                     "documents": board.documents, "version": rows.VERSION}  # fmt: skip
            code = rows.code_digest("studies.board.scorer", "diffusion.models.denoiser")
            key = rows.digest(what | given | {"code": code})
            jobs.append((name, what, key))
    return jobs


def likelihoods(board: Board, jobs: list[tuple[str, dict, str]]) -> list[dict]:
    """What `likelihood_jobs` asks for, from the store where it is there."""
    store = board.store
    done = board.processes.agree({key for *_, key in jobs if store.has_row(key)})

    def measure(job):
        name, what, key = job
        if key in done:
            return {**store.read_row(key), "model": board.label(name)}
        place = (what[k] for k in ("size", "prefix", "blocks"))
        settings = {k: what[k] for k in ESTIMATES}
        bound = scorer.likelihood(board.writers[name], board.documents, *place, **settings)
        entry = {"model": board.label(name), **bound}
        store.write_row(key, entry)
        return entry

    if jobs:
        board.processes.say("measuring likelihoods ...")
    entries = board.processes.spread(jobs, measure)
    return [compared(entry, entries) for entry in entries]


def compared(entry: dict, entries: list[dict]) -> dict:
    """An entry of the likelihood with ``more``: its nats per token minus those of the first model
    on the same blocks, block by block; nan where the tokens are others. Without the blocks."""
    first = next(other for other in entries if other["prefix_len"] == entry["prefix_len"])
    more = metrics.Estimate(math.nan)
    if entry is not first and entry["vocabulary"] == first["vocabulary"]:
        more = metrics.mean_difference(entry["by_block"], first["by_block"])
    kept = {k: v for k, v in entry.items() if k not in ("by_block", "vocabulary")}
    return {**kept, "more": estimate_json(more), "more_than": first["model"]}


def generations(board: Board, planned: list[tuple[Row, str, str]]) -> list[dict]:
    """Every row of the generation tables, from the store where it is there; ``planned``: each row
    with its `keys`."""
    processes, store, n = board.processes, board.store, board.args.num_samples
    pairs = [(key, row) for row, _, key in planned if row.options]
    check_distinct([key for key, _ in pairs], [f"{r.model}, {method(r)}" for _, r in pairs])
    written = processes.agree({key for _, key, _ in planned if store.has_texts(key)})
    judged = processes.agree({key for *_, key in planned if store.has_row(key)})
    # In forward passes over the canvas; with a cache they cost an eighth.
    cost = [
        0 if row.options is None or texts in written or key in judged
        else row.options.n_steps or board.window(row) // (1 if row.options.sampler else 8)
        for row, texts, key in planned
    ]  # fmt: skip
    out, warm = [], set()
    for number, (row, texts, key) in enumerate(planned):
        what = f"row {number + 1}/{len(planned)}: "
        if key in judged:
            out.append({**store.read_row(key), "model": board.label(row.model)})
            continue
        if texts in written:
            samples = store.read_texts(texts, n)
        else:

            def work(batch, row=row, number=number, what=what):
                if row.options and row.model not in warm:
                    warm_up(board, row, batch)
                    warm.add(row.model)
                samples = write_batch(board, row, batch)
                done = sum(cost[:number]) * n + cost[number] * batch.stop
                progress(done, sum(cost) * n, (what + method(row))[:40])
                return samples

            parts = processes.spread(board.batches(), work)
            samples = [sample for part in parts for sample in part]
            if processes.rank == 0:
                store.write_texts(texts, samples)
        entry = judge(board, row, samples)
        entry["texts"] = f"generations/{texts}.jsonl"
        if processes.rank == 0:
            store.write_row(key, entry)
        out.append(entry)
        processes.say(f"{what}{row.model} {method(row)}".rstrip())
    return out


def paired(entries: list[dict]) -> tuple[str, list[dict]]:
    """(name of the row that all others after the same prompts are compared with, differences): the
    first that writes from left to right, else the first model's."""
    after = [e for e in entries if e["conditional"]]
    models = [e for e in after if e["model"] not in CONTROLS]
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


def notes(board: Board, entries: list[dict]) -> list[str]:
    """What readers of the numbers must know."""
    found, args = [], board.args
    if args.dataset == PASSAGES:
        found.append(
            "The text is not WikiText-2 but the passages that were written for this project; do not "
            "compare these numbers with those of another text."
        )
    if windowed := sum(entry["windowed"] for entry in entries):
        found.append(
            f"{windowed} texts are longer than the {board.scorer.positions} positions of the "
            "scorer, which read them in windows that overlap by half."
        )
    if short := sum(args.num_samples - entry["full_length"] for entry in entries):
        found.append(
            f"{short} texts are shorter than the full length; the entropy, which depends on the "
            "length, leaves them out."
        )
    if args.num_samples - 1 < BLEU_REFERENCES:
        found.append(
            f"Self-BLEU against {args.num_samples - 1} others instead of {BLEU_REFERENCES}."
        )
    return found
