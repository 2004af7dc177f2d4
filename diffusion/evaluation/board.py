"""How the rows of a scoreboard are written and judged.

In every process the same batches hold the same texts, whichever process writes or judges them, so
neither their number nor an interruption changes a result.
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import sklearn
import torch
import transformers

from diffusion import hardware
from diffusion.canvas import encode, prompt_ids, written_ids
from diffusion.evaluation import metrics, rows, scorer
from diffusion.evaluation.processes import Processes, Progress
from diffusion.evaluation.rows import REAL, SHUFFLED, Row, Store, check_distinct, digest
from diffusion.evaluation.scorer import Scorer, estimate_json, shuffled
from diffusion.options import GenerationOptions

# More texts to compare with give a higher self-BLEU, so there are always so many if possible.
BLEU_REFERENCES = 63
ENOUGH_FOR_MAUVE = 1000


@dataclass
class Board:
    """Everything the rows share."""

    args: object  # the script's options
    processes: Processes
    writers: dict  # name of a model -> its writer
    digests: dict  # name of a model -> hash of its weights, config and tokenizer
    scorer: Scorer
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
        "code": rows.code_digest("generate", "models.causal", "evaluation.scorer"),
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
        "code": rows.code_digest("evaluation.metrics"),
    }
    return key, digest(judged)


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
            text = shuffled(text, i) if row.model == SHUFFLED else text
            ids = encode(board.tokenizer, text)[:window]
            sample |= {"text": text, "ids": ids, "finished": False, "nfe": 0, "seconds": 0.0}
        return common
    writer = board.writers[row.model]
    tokenizer = writer.tokenizer
    *_, last = writer.record(given, row.options, list(indices))
    prefixes = prompt_ids(tokenizer, given, row.options.max_len)
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    for number, (sample, prefix) in enumerate(zip(common, prefixes, strict=True)):
        new = written_ids(last, number)[len(prefix) :]
        finished = tokenizer.eos_token_id in new
        if finished:
            new = new[: new.index(tokenizer.eos_token_id)]
        finished, new = finished and len(new) <= window, new[:window]
        # Decoded with the prompt, because the first token of a text may lose its space.
        whole = tokenizer.decode([*prefix[1:], *new], **plain)
        text = whole[len(tokenizer.decode(prefix[1:], **plain)) :]
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
    for _ in board.writers[row.model].record(given, options, list(batch)):
        pass


def opinions(board: Board, texts: Sequence[tuple[str, str, bool]]) -> list:
    """What the scorer says of texts, in the same batches whatever the number of processes."""
    parts = [[texts[i] for i in batch] for batch in board.batches()]
    read = board.processes.spread(parts, lambda p: board.scorer.read(p, board.args.batch_size))
    return [opinion for part in read for opinion in part]


def judge(board: Board, row: Row, samples: list[dict], features) -> dict:
    """All numbers of a row; ``features`` (N, d) are those of the references."""
    said = opinions(board, [(s["prompt"], s["text"], s["finished"]) for s in samples])
    window, n = board.window(row), len(samples)
    ids = [s["ids"] for s in samples]
    own = board.writers[row.model].tokenizer if row.options else board.tokenizer
    if own.get_vocab() != board.tokenizer.get_vocab():
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
    # Real text is not ours to show.
    first = row.options and {name: samples[0][name] for name in ("prompt", "text", "finished")}
    return {
        "model": board.label(row.model),
        "first": first,
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
    args = board.args
    if not args.likelihood_blocks:
        return []
    size = min(args.block_size, *(w.positions for w in board.writers.values()))
    settings = {"draws": args.draws, "batch_size": args.batch_size, "seed": args.seed,
                "estimator": args.estimator}  # fmt: skip
    jobs = []
    for name in board.writers:
        for prefix in dict.fromkeys((1, args.prompt_len)):
            what = {"model": board.digests[name], "dtype": str(board.writers[name].dtype),
                    "documents": board.documents, "prefix": prefix,
                    "size": size, "blocks": args.likelihood_blocks, **settings,
                    "version": rows.VERSION, "code": rows.code_digest("evaluation.scorer")}  # fmt: skip
            jobs.append((name, prefix, digest(what)))
    done = board.processes.agree({key for *_, key in jobs if board.store.has_row(key)})

    def measure(job):
        name, prefix, key = job
        if key in done:
            return {**board.store.read_row(key), "model": board.label(name)}
        entry = scorer.likelihood(
            board.writers[name], board.documents, size, prefix, args.likelihood_blocks, **settings
        )
        entry = {"model": board.label(name), **entry}
        board.store.write_row(key, entry)
        return entry

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


def generations(board: Board, rows: list[Row]) -> list[dict]:
    """Every row of the generation tables, from the store where it is there."""
    processes, store = board.processes, board.store
    pairs = [keys(board, row) for row in rows]
    asked = [(key, row) for (_, key), row in zip(pairs, rows, strict=True) if row.options]
    check_distinct([key for key, _ in asked], [f"{r.model}, {method(r)}" for _, r in asked])
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
            out.append({**store.read_row(key), "model": board.label(row.model)})
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
