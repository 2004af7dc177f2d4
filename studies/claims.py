"""Claims about long texts, measured on the texts that a scoreboard has kept.

    python studies/scoreboard.py --settings studies/grids/long.toml --dataset_dir data --scorer gpt2-small-books \
        --num_samples 128 --length 239 --likelihood_blocks 0 --output_dir runs/long
    python studies/claims.py runs/long --output runs/claims.json

- Errors accumulate: perplexity under a scorer in each quarter of a text, and the nats per token of the last
  quarter minus those of the first ("growth"). A scorer predicts better with more context, so compare with
  real text, not with 0.
- The topic stays: cosine of the tf-idf vectors of the first and the last third of a text, minus the mean
  cosine with the last thirds of the other texts of the row. It ignores word order, and repetition raises it:
  read it with the perplexity and distinct-2.

Both are of texts that did not end before their full length. How many did, their length, distinct-2 and
self-BLEU are copied from the scoreboard. ± is half a 95 % interval over texts; differences from real text
are taken prompt by prompt.
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from diffusion.cli.console import progress
from diffusion.errors import UserError, run
from studies import common
from studies.board import metrics, report
from studies.board.results import METRICS, estimate, measured, plain
from studies.board.rows import REAL, Store
from studies.board.scorer import Scorer, estimate_json, load_scorer

QUARTERS = 4
COPIED = ("distinct_2", "self_bleu", "length", "unfinished")
COMPARED = {  # name -> head of the column
    "growth": "growth, nats",
    "topic": "topic, cosine",
}
HEADS = {f"ppl_{n}": f"PPL, quarter {n}" for n in range(1, QUARTERS + 1)} | COMPARED


# ---------------------------------------------------------------- measures of texts


def quarters(each: np.ndarray) -> np.ndarray:
    """(4, 2) nats and tokens of four parts of a text that are equal but for one token."""
    return np.array([(part.sum(), len(part)) for part in np.array_split(each, QUARTERS)])


def growth(parts: np.ndarray) -> np.ndarray:
    """(N,) nats per token of the last part of each text minus those of its first, from (N, 4, 2)."""
    nats, tokens = np.moveaxis(parts, -1, 0)
    per_token = nats / tokens
    return per_token[:, -1] - per_token[:, 0]


def thirds(text: str) -> tuple[str, str]:
    """The first and the last third of the words."""
    words = text.split()
    n = len(words) // 3
    return " ".join(words[:n]), " ".join(words[len(words) - n :])


def topic(texts: list[str], references: list[str]) -> np.ndarray:
    """(N,) how much more alike the thirds of a text are than its first and the last of others."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize

    # scikit-learn's stop words include some content words, such as "fire" and "mill".
    counter = CountVectorizer(stop_words="english", token_pattern=r"[^\W\d_]{3,}")
    counter.fit([*texts, *references])
    owners = np.asarray((counter.transform(references) > 0).sum(0)).ravel()
    # A word that is in no reference weighs as one that is in a single one.
    rarity = 1 + np.log((1 + len(references)) / (1 + np.maximum(1, owners)))
    first, last = (
        normalize(counter.transform(part).multiply(rarity).tocsr())
        for part in zip(*map(thirds, texts), strict=True)
    )
    alike = (first @ last.T).toarray()
    own = alike.diagonal()
    return own - (alike.sum(1) - own) / (len(texts) - 1)


# ---------------------------------------------------------------- rows


def measure(samples: list[dict], references: list[str], scorer: Scorer) -> dict:
    """What is measured of the texts of a row that did not end: ``at``: the numbers of their prompts;
    ``values``: name -> (N, 2) of what is summed and what it is divided by; ``windowed``: how many
    are longer than what the scorer sees at once."""
    at = [number for number, sample in enumerate(samples) if not sample["finished"]]
    kept = [(samples[number]["prompt"], samples[number]["text"]) for number in at]
    scored = scorer.read([(*pair, False) for pair in kept])
    # A text of fewer scored tokens has an empty part.
    whole = [i for i, opinion in enumerate(scored) if opinion.tokens >= QUARTERS]
    at, kept, scored = ([column[i] for i in whole] for column in (at, kept, scored))
    if len(at) < 2:
        return {"at": at, "values": {}, "windowed": 0}
    parts = np.stack([quarters(opinion.each) for opinion in scored])
    one = np.ones(len(at))
    values = {f"ppl_{n + 1}": parts[:, n] for n in range(QUARTERS)} | {
        "growth": np.stack([growth(parts), one], 1),
        "topic": np.stack([topic([text for _, text in kept], references), one], 1),
    }
    return {"at": at, "values": values, "windowed": sum(o.windowed for o in scored)}


def row(entry: dict, found: dict, real: dict) -> dict:
    """The numbers of a row, and what they are more than those of real text after the same prompts."""
    values, true = found["values"], real["values"]
    numbers = {
        name: metrics.bootstrap(metrics.perplexity if "ppl" in name else metrics.ratio, *pairs.T)
        for name, pairs in values.items()
    }
    numbers |= {name: measured(entry, name) for name in COPIED if name in entry["metrics"]}
    both = np.isin(found["at"], real["at"]), np.isin(real["at"], found["at"])
    more = {
        name: metrics.paired_difference(values[name][both[0]], true[name][both[1]])
        for name in COMPARED
        if name in values and name in true
    }
    return {
        "model": entry["model"],
        "method": entry["method"],
        "seed": entry["seed"],
        "texts": len(found["at"]),
        "windowed": found["windowed"],
        "numbers": {name: estimate_json(value) for name, value in numbers.items()},
        "more": {name: estimate_json(value) for name, value in more.items()},
    }


def label(entry: dict) -> str:
    seed = f", seed {entry['seed']}" if entry["seed"] else ""
    return f"{entry['model']}: {entry['method']}".rstrip(": ") + seed


def table(rows: list[dict], key: str, heads: dict[str, str]) -> str:
    lines = [["", *heads.values()], ["---"] * (1 + len(heads))]
    for entry in rows:
        numbers = (estimate(entry[key].get(name, [None] * 3)) for name in heads)
        lines.append([label(entry), *map(str, numbers)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def read(folder: Path) -> tuple[dict, list[tuple[dict, list[dict]]]]:
    """The results of a scoreboard, and its rows after prompts, each with its texts."""
    path = folder / "results.json"
    if not path.is_file():
        raise UserError(f"{folder} has no results.json; give the --output_dir of a scoreboard")
    data, store = report.load(str(path)), Store(folder)
    entries = [entry for entry in data["rows"] if entry["conditional"]]
    if all(entry["model"] != REAL for entry in entries):
        raise UserError(
            f"{folder} has no texts after prompts; give it a row with conditional = true"
        )
    found = []
    for entry in entries:
        key = Path(entry["texts"]).stem
        if not store.has_texts(key):
            raise UserError(
                f"{folder} has no texts of {label(entry)}; run studies/scoreboard.py with that --output_dir"
            )
        found.append((entry, store.read_texts(key, data["samples"])))
    return data, found


def main() -> None:
    parser = common.flags(__doc__)
    parser.add_argument("folder", type=Path, help="the --output_dir of scoreboard.py")
    parser.add_argument("--scorer", default="gpt2-small-books", help="a causal model")
    args = common.read(parser)
    if importlib.util.find_spec("sklearn") is None:
        raise UserError('this needs scikit-learn; pip install -e ".[studies]"')
    data, entries = read(args.folder)
    scorer = load_scorer(args.scorer)
    true = next(samples for entry, samples in entries if entry["model"] == REAL)
    references, found = [sample["text"] for sample in true], []
    for entry, samples in entries:
        found.append(measure(samples, references, scorer))
        progress(len(found), len(entries), label(entry)[:40])
    real = next(m for (entry, _), m in zip(entries, found, strict=True) if entry["model"] == REAL)
    rows = [row(entry, values, real) for (entry, _), values in zip(entries, found, strict=True)]
    print(table(rows, "numbers", HEADS | {name: METRICS[name][0] for name in COPIED}))
    print("Minus real text after the same prompts:\n")
    print(table(rows, "more", COMPARED), flush=True)
    about = {name: data[name] for name in ("data", "samples", "prompt_len", "length")}
    common.save(args, "claims", scorer.device, scorer.model.dtype, **plain(about | {"rows": rows}))


if __name__ == "__main__":
    run(main)
