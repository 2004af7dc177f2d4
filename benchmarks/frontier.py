"""Curves of perplexity over entropy, and by how much each way of writing misses that of GPT-2.

    python benchmarks/frontier.py docs/results/frontier --scorers gpt2-small-books gpt2-small-wikipedia

reads what scoreboard.py has kept in that folder, after a run with each of the scorers. Rows that differ
in the seed alone are one point, pooled prompt by prompt. A point of a temperature is likelier when it is
less varied, so it is held against the curve of the baseline at the same entropy: the factor is the
perplexity divided by that of the baseline there, between whose temperatures log perplexity is taken to be
linear in the entropy. Prompts are drawn again for all rows and scorers together (95 %). The verdict
is better or worse where the interval of every scorer is on one side of 1.

Written into the folder: frontier.json and frontier.png.
"""

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from diffusion.cli.files import write_atomically, write_text
from diffusion.errors import UserError, run
from diffusion.evaluation import metrics, results
from diffusion.evaluation.metrics import Estimate
from diffusion.evaluation.plotting import Plot, plain_log, png
from diffusion.evaluation.rows import REAL, SHUFFLED, Store
from diffusion.evaluation.scorer import estimate_json

DRAWS = 2000


@dataclass
class Point:
    """One way of writing at one temperature; all arrays have one entry for each prompt."""

    model: str
    method: str
    settings: dict
    seeds: set = field(default_factory=set)
    # name of a quantity -> (sum over the seeds, what to divide it by); see `add`
    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)
    mauve: dict[str, list] = field(
        default_factory=lambda: defaultdict(list)
    )  # scorer -> of each seed

    def add(self, name: str, total, count) -> None:
        """Add what one seed has measured of each prompt."""
        new = [np.asarray(total, float), np.asarray(count, float)]
        old = self.columns.get(name)
        self.columns[name] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

    def means(self, name: str, weights: np.ndarray) -> np.ndarray:
        """(D,) the pooled mean of a quantity for each of D draws of prompts, (D, N) their weights."""
        total, count = self.columns[name]
        return (weights @ total) / (weights @ count)

    def texts(self) -> int:
        return len(self.seeds) * len(self.columns["rep_4"][0])

    def temperature(self) -> float:
        return self.settings.get("temperature", 1.0)

    def line(self) -> tuple:
        """What a point shares with those of other temperatures."""
        rest = {k: v for k, v in self.settings.items() if k != "temperature"}
        return self.model, json.dumps(rest, sort_keys=True)


def read(folder: Path, length: int, scorers: list[str]) -> list[Point]:
    """The points of a folder, in the order in which its results.json has the rows.

    Args:
        length: of a text that is whole; others do not count in the entropy.
    """
    store, points, done = Store(folder), {}, set()
    for path in sorted((folder / "rows").glob("*.json")):
        row = store.read_row(path.stem)
        if "nats" not in row or not row["conditional"] or row.get("scorer") not in scorers:
            continue  # a likelihood, texts from nothing, another scorer
        key = row["model"], row["method"]
        point = points.setdefault(key, Point(*key, row["settings"]))
        nats, tokens = np.array(row["nats"], float).T
        point.add(row["scorer"], nats, tokens)
        point.mauve[row["scorer"]].append(row["metrics"]["mauve"])
        if (key, row["seed"]) in done:
            continue  # the same texts, by the other scorer
        done.add((key, row["seed"]))
        point.seeds.add(row["seed"])
        samples = store.read_texts(Path(row["texts"]).stem, row["samples"])
        ids = [sample["ids"] for sample in samples]
        whole = [len(text) >= length for text in ids]
        entropies = [metrics.entropy(text) if full else 0.0 for text, full in zip(ids, whole, strict=True)]  # fmt: skip
        point.add("entropy", entropies, whole)
        repeats = np.array([metrics.repetition(text) for text in ids])
        point.add("rep_4", np.nan_to_num(repeats), ~np.isnan(repeats))
        if point.settings or point.model not in (REAL, SHUFFLED):
            point.add("nfe", [sample["nfe"] for sample in samples], np.ones(len(ids)))
    return list(points.values())


def interval(value: float, draws: np.ndarray) -> Estimate:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(float(value), float(min(low, value)), float(max(high, value)))


class Curve:
    """Log perplexity of the baseline over entropy, by one scorer; row 0 of all draws is the data."""

    def __init__(self, points: list[Point], scorer: str, weights: np.ndarray):
        x = np.stack([p.means("entropy", weights) for p in points], -1)
        y = np.stack([p.means(scorer, weights) for p in points], -1)
        order = x.argsort(-1)
        self.x, self.y = (np.take_along_axis(a, order, -1) for a in (x, y))

    def factor(self, point: Point, scorer: str, weights: np.ndarray) -> Estimate | None:
        """The perplexity of a point divided by the baseline's at its entropy; None where the baseline
        has no point beyond it."""
        entropy = point.means("entropy", weights)
        if not self.x[0, 0] <= entropy[0] <= self.x[0, -1]:
            return None
        there = [np.interp(e, x, y) for e, x, y in zip(entropy, self.x, self.y, strict=True)]
        found = np.exp(point.means(scorer, weights) - np.array(there))
        return interval(found[0], found[1:])


def verdict(factors: list[Estimate | None]) -> str:
    """What all scorers say of a point."""
    if not factors or any(f is None for f in factors):
        return ""
    if all(f.low > 1 for f in factors):
        return "worse"
    return "better" if all(f.high < 1 for f in factors) else "not told apart"


def measure(points: list[Point], baseline: str, scorers: list[str]) -> list[dict]:
    """Rows as those of a results.json, each with its factors and the verdict."""
    numbers = {len(p.columns["rep_4"][0]) for p in points}
    if len(numbers) != 1:
        raise UserError(
            f"the rows have {sorted(numbers)} prompts; measure all with one --num_samples"
        )
    n = numbers.pop()
    again = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS)
    weights = np.concatenate([np.ones((1, n)), again])
    base = [p for p in points if p.model == baseline]
    rows = []
    for point in points:
        found = {
            name: interval(draws[0], draws[1:])
            for name in ("entropy", "rep_4", "nfe")
            if name in point.columns
            for draws in [point.means(name, weights)]
        }
        factors = []
        for i, scorer in enumerate(scorers, 1):
            if scorer not in point.columns:
                continue
            draws = np.exp(point.means(scorer, weights))
            found[f"gen_ppl_{i}"] = interval(draws[0], draws[1:])
            # Seeds share prompts and references, so their intervals are not narrower together.
            found[f"mauve_{i}"] = Estimate(*np.mean(point.mauve[scorer], 0).tolist())
            if base and point not in base and point.model not in (REAL, SHUFFLED):
                factors.append(Curve(base, scorer, weights).factor(point, scorer, weights))
                if factors[-1] is not None:
                    found[f"factor_{i}"] = factors[-1]
        rows.append({
            "model": point.model, "method": point.method, "conditional": True,
            "settings": point.settings, "seeds": len(point.seeds), "texts": point.texts(),
            "metrics": {name: estimate_json(value) for name, value in found.items()},
            "verdict": verdict(factors),
        })  # fmt: skip
    return rows


def picture(data: dict) -> bytes:
    """A panel for each scorer: perplexity over entropy, a line for each way of writing."""
    plot, lines = Plot(len(data["scorers"])), {}
    for row in data["rows"]:
        point = Point(row["model"], row["method"], row["settings"])
        lines.setdefault(point.line(), []).append((point.temperature(), row))
    for number, (axes, scorer) in enumerate(zip(plot.panels, data["scorers"], strict=True), 1):
        names = "entropy", f"gen_ppl_{number}"
        for i, line in enumerate(lines.values()):
            line.sort(key=lambda item: item[0])
            found = [[results.measured(row, name) for _, row in line] for name in names]
            errors = [
                [[e.value - e.low for e in one], [e.high - e.value for e in one]] for one in found
            ]
            x, y = ([e.value for e in one] for one in found)
            plot.series(axes, x, y, i, label_of(line[0][1]), errors, linewidth=1)
            for (temperature, _), *at in zip(line, x, y, strict=True):
                plot.label(axes, f"{temperature:g}" if len(line) > 1 else "", *at, i)
        values = [results.measured(row, names[1]).value for row in data["rows"]]
        plain_log(axes.yaxis, min(values), max(values))
        axes.set_xlabel("entropy of a text's tokens, nats")
        axes.set_ylabel(f"generative perplexity ({scorer})")
    title = "Perplexity over entropy, by temperature (numbers); 95 % intervals"
    return png(plot.finish(f"{title}\n{results.machine_line(data)}"))


def label_of(row: dict) -> str:
    hidden = ("temperature", "sampler")
    own = ", ".join(f"{k} {v}" for k, v in row["settings"].items() if k not in hidden)
    name = f"{row['model']}: {row['settings'].get('sampler', 'left to right')}"
    return row["model"] if row["model"] in (REAL, SHUFFLED) else name + (f" ({own})" if own else "")


def table(rows: list[dict], scorers: list[str]) -> str:
    """Markdown."""
    head = ["", "texts", "passes", "entropy"]
    names = ["nfe", "entropy"]
    for i, scorer in enumerate(scorers, 1):
        head += [f"PPL ({scorer})", "of GPT-2's", "MAUVE"]
        names += [f"gen_ppl_{i}", f"factor_{i}", f"mauve_{i}"]
    lines = [[*head, ""], ["---"] * (len(head) + 1)]
    for row in rows:
        values = [str(results.measured(row, name)) for name in names]
        lines.append([f"{row['model']}: {row['method']}".rstrip(": "), str(row["texts"]), *values, row["verdict"]])  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="The --output_dir of scoreboard.py.")
    parser.add_argument("--scorers", nargs="+", required=True, help="Those it was run with.")
    parser.add_argument("--baseline", default="gpt2-small-wikitext", help="Whose curve it is.")
    args = parser.parse_args()
    path = args.folder / "results.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{path} cannot be read; run scoreboard.py with that --output_dir"
        ) from None
    points = read(args.folder, data["length"], args.scorers)
    missing = [s for s in args.scorers if not any(s in p.columns for p in points)]
    if missing or not any(p.model == args.baseline for p in points):
        what = f"by the scorer {missing[0]}" if missing else f"of {args.baseline}"
        raise UserError(
            f"{args.folder} has no rows {what}; run scoreboard.py with that --output_dir"
        )
    order = {(row["model"], row["method"]): i for i, row in enumerate(data["rows"])}
    points.sort(key=lambda p: order.get((p.model, p.method), len(order)))
    kept = {k: data[k] for k in ("command", "samples", "prompt_len", "length", "data", "hardware", "processor", "versions")}  # fmt: skip
    found = {"benchmark": "frontier", **kept, "scorers": args.scorers,
             "baseline": args.baseline, "rows": measure(points, args.baseline, args.scorers)}  # fmt: skip
    write_text(args.folder / "frontier.json", json.dumps(found, indent=1) + "\n")
    write_atomically(args.folder / "frontier.png", picture(found))
    print(table(found["rows"], args.scorers))


if __name__ == "__main__":
    run(main)
