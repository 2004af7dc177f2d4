"""Curves of perplexity over entropy, and the perplexity of each method as a ratio to that of GPT-2.

    python studies/frontier.py studies/results/frontier --scorers gpt2-small-books gpt2-small-wikipedia

reads the folder of scoreboard.py after a run with each of the scorers. Rows that differ in the seed alone
are one point, pooled prompt by prompt. Less varied text is likelier, so a point is compared with the curve
of the baseline at the same entropy: the factor is its perplexity divided by the baseline's there, with log
perplexity interpolated linearly in the entropy between the baseline's temperatures. Prompts are drawn again
for all rows and scorers together (95 %). The verdict is better or worse where the intervals of all scorers
lie on one side of 1. The models must share a tokenizer. frontier.json and frontier.png go into the folder.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from diffusion.cli.files import write_atomically, write_text
from diffusion.errors import UserError, run
from studies.board import metrics, report, results
from studies.board.metrics import Estimate
from studies.board.plotting import Plot, plain_log, png
from studies.board.rows import CONTROLS, Store
from studies.board.scorer import estimate_json

DRAWS = 2000


@dataclass
class Point:
    """One way of writing at one temperature; all arrays have one entry for each prompt."""

    model: str
    method: str
    settings: dict
    texts_of: dict = field(default_factory=dict)  # seed -> the file of its texts
    judged: set = field(default_factory=set)  # (seed, scorer)
    # name of a quantity -> (sum over the seeds, what to divide it by); see `add`
    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)

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
        return len(self.texts_of) * len(self.columns["rep_4"][0])

    def temperature(self) -> float:
        return self.settings.get("temperature", 1.0)

    def line(self) -> tuple:
        """What a point shares with those of other temperatures."""
        rest = {k: v for k, v in self.settings.items() if k != "temperature"}
        return self.model, json.dumps(rest, sort_keys=True)


def read(folder: Path, length: int, scorers: list[str]) -> list[Point]:
    """The points of a folder.

    Args:
        length: of a text that is whole; others do not count in the entropy.

    Raises:
        UserError: rows of several runs that do not belong together, or that a scorer has not judged.
    """
    store, points, prompts = Store(folder), {}, None
    for path in sorted((folder / "rows").glob("*.json")):
        row = store.read_row(path.stem)
        if "nats" not in row or not row["conditional"] or row.get("scorer") not in scorers:
            continue  # a likelihood, texts from nothing, another scorer
        key, seed, scorer = (row["model"], row["method"]), row["seed"], row["scorer"]
        point = points.setdefault(key, Point(*key, row["settings"]))
        new = seed not in point.texts_of
        same = point.texts_of.setdefault(seed, row["texts"]) == row["texts"]
        if (seed, scorer) in point.judged or not same:
            raise UserError(
                f"{folder} has rows of two runs for {': '.join(key)}, seed {seed}; delete those of the "
                "earlier one in rows/"
            )
        point.judged.add((seed, scorer))
        samples = store.read_texts(Path(row["texts"]).stem, row["samples"])
        prompts = prompts or [sample["prompt"] for sample in samples]
        if prompts != [sample["prompt"] for sample in samples]:
            raise UserError(
                f"{folder} has rows after other prompts; measure all with one --num_samples"
            )
        nats, tokens = np.array(row["nats"], float).T
        point.add(scorer, nats, tokens)
        if new:
            add_texts(point, samples, length)
    for point in points.values():
        if missing := {(s, name) for s in point.texts_of for name in scorers} - point.judged:
            seed, scorer = min(missing, key=str)
            raise UserError(
                f"{point.model}: {point.method}, seed {seed}, was not judged by {scorer}; run "
                f"scoreboard.py with that --scorer to its end"
            )
    return list(points.values())


def add_texts(point: Point, samples: list[dict], length: int) -> None:
    """What the texts of one seed are, whoever judges them."""
    ids = [sample["ids"] for sample in samples]
    whole = [len(text) >= length for text in ids]
    entropies = [
        metrics.entropy(text) if full else 0.0 for text, full in zip(ids, whole, strict=True)
    ]
    point.add("entropy", entropies, whole)
    repeats = np.array([metrics.repetition(text) for text in ids])
    point.add("rep_4", np.nan_to_num(repeats), ~np.isnan(repeats))
    if point.model not in CONTROLS:
        point.add("nfe", [sample["nfe"] for sample in samples], np.ones(len(ids)))


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
    worse, better = (
        [side(f) for f in factors] for side in (lambda f: f.low > 1, lambda f: f.high < 1)
    )
    if any(worse) and any(better):
        return "the scorers disagree"
    if not any(worse + better):
        return "indistinguishable"
    return "worse" if all(worse) else "better" if all(better) else "by one scorer only"


def measure(points: list[Point], baseline: str, scorers: list[str]) -> list[dict]:
    """Rows as those of a results.json, each with its factors and the verdict."""
    n = len(points[0].columns["rep_4"][0])
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
            draws = np.exp(point.means(scorer, weights))
            found[f"gen_ppl_{i}"] = interval(draws[0], draws[1:])
            if base and point not in base and point.model not in CONTROLS:
                factors.append(Curve(base, scorer, weights).factor(point, scorer, weights))
                if factors[-1] is not None:
                    found[f"factor_{i}"] = factors[-1]
        rows.append({
            "model": point.model, "method": point.method, "conditional": True,
            "settings": point.settings, "seeds": len(point.texts_of), "texts": point.texts(),
            "metrics": {name: estimate_json(value) for name, value in found.items()},
            "verdict": verdict(factors),
        })  # fmt: skip
    return rows


def figure(data: dict):
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
                plot.label(axes, f"{temperature:g}" if len(line) > 1 else "", *at)
        values = [results.measured(row, names[1]).value for row in data["rows"]]
        plain_log(axes.yaxis, min(values), max(values))
        axes.set_xlabel("entropy of a text's tokens, nats")
        axes.set_ylabel(f"generative perplexity ({scorer})")
    title = "Perplexity over entropy, by temperature (numbers); 95 % intervals"
    return plot.finish(f"{title}\n{results.machine_line(data)}")


def label_of(row: dict) -> str:
    hidden = ("temperature", "sampler")
    own = ", ".join(f"{k} {v}" for k, v in row["settings"].items() if k not in hidden)
    name = f"{row['model']}: {row['settings'].get('sampler', 'left to right')}"
    return row["model"] if row["model"] in CONTROLS else name + (f" ({own})" if own else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="The --output_dir of scoreboard.py.")
    parser.add_argument("--scorers", nargs="+", required=True, help="Those it was run with.")
    parser.add_argument("--baseline", default="gpt2-small-wikitext", help="Whose curve it is.")
    args = parser.parse_args()
    data = report.load(str(args.folder / "results.json"))
    points = read(args.folder, data["length"], args.scorers)
    if not any(p.model == args.baseline for p in points):
        raise UserError(
            f"{args.folder} has no rows of {args.baseline} by {' and '.join(args.scorers)}; run "
            "scoreboard.py with that --output_dir"
        )
    order = {(row["model"], row["method"]): i for i, row in enumerate(data["rows"])}
    points.sort(key=lambda p: order.get((p.model, p.method), len(order)))
    kept = {k: data[k] for k in ("command", "samples", "prompt_len", "length", "data", "hardware", "processor", "versions")}  # fmt: skip
    found = {"study": "frontier", **kept, "scorers": args.scorers,
             "baseline": args.baseline, "rows": measure(points, args.baseline, args.scorers)}  # fmt: skip
    write_text(args.folder / "frontier.json", json.dumps(results.plain(found), indent=1) + "\n")
    write_atomically(args.folder / "frontier.png", png(figure(found)))
    print(f"saved {args.folder / 'frontier.json'} and frontier.png")


if __name__ == "__main__":
    run(main)
