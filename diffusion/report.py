"""What a scoreboard shows: tables for the terminal and for RESULTS.md, a CSV, and pictures.

All of it is made from results.json alone.
"""

import csv
import io
import json
import math
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from .checkpoints import write_atomically, write_text
from .errors import UserError
from .metrics import Estimate, pareto
from .rows import REAL, SHUFFLED

FORMAT, VERSION = "roberta-diffusion scoreboard", 2

# name -> (head of the column, what it is); the first table is on quality, the second on the rest.
QUALITY = {
    "gen_ppl": ("gen. PPL", "perplexity under the scorer, pooled over tokens; lower is likelier, "
                "and repetition is likely: read it with the entropy"),
    "mauve": ("MAUVE", "likeness to other real text, 0 to 1"),
    "entropy": ("entropy", "of a text's token frequencies in nats, only of texts of full length"),
    "self_bleu": ("self-BLEU", "BLEU-4 of a text against others of its row; 1: all the same"),
    "length": ("tokens", "new tokens of a text"),
    "unfinished": ("unfinished", "share of texts that did not end by themselves"),
}  # fmt: skip
OTHERS = {
    "distinct_1": ("dist-1", "unique / all tokens of the row"),
    "distinct_2": ("dist-2", "the same of pairs"),
    "distinct_3": ("dist-3", "the same of triples"),
    "rep_4": ("rep-4", "repeated 4-grams of a text"),
    "nfe": ("NFE", "forward passes for a text"),
    "seconds": ("s/text", "seconds of model and sampler for a text, in a batch"),
    "tokens_per_second": ("tokens/s", "new tokens in a second of model and sampler, in a batch"),
}  # fmt: skip
METRICS = QUALITY | OTHERS


def load(path: str) -> dict:
    """The results that scoreboard.py wrote.

    Raises:
        UserError: it cannot be read, is damaged, or of another format or version.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--results {path} cannot be read ({error.strerror}); give the results.json "
                        "of a scoreboard") from None  # fmt: skip
    except ValueError:
        raise UserError(
            f"--results {path} is not complete JSON; run the scoreboard again"
        ) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"--results {path} is not of a scoreboard; give a results.json")
    if data.get("version") != VERSION:
        raise UserError(
            f"--results {path} is of version {data.get('version')!r}, and this program reads "
            f"version {VERSION}; run the scoreboard again"
        )
    try:
        markdown({path: data}), as_csv(data)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise UserError(f"--results {path} is damaged; run the scoreboard again") from None
    return data


def dump(data: dict) -> str:
    """The results as JSON text; what was not measured is null."""
    return json.dumps({"format": FORMAT, "version": VERSION, **_plain(data)}, indent=1) + "\n"


def _plain(value):
    """Without nan and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def estimate(values: Sequence[float | None]) -> Estimate:
    return Estimate(*(math.nan if v is None else float(v) for v in values))


# ---------------------------------------------------------------- tables


def likelihood_table(data: dict) -> list[list[str]]:
    head = [
        "model",
        "estimate",
        "prefix",
        "nats per token",
        "nats per byte",
        "PPL per token",
        "tokens",
    ]
    # A difference is there where two models have the same tokens.
    paired = any(entry["more"][0] is not None for entry in data["likelihood"])
    if paired:
        head.append(f"nats per token more than {data['likelihood'][0]['more_than']}")
    rows = []
    for entry in data["likelihood"]:
        kind = "exact NLL" if entry["estimator"] == "exact" else (
            f"bound, {entry['estimator']}, {entry['draws']} draws"
        )  # fmt: skip
        values = [
            str(estimate(entry[n])) for n in ("nats_per_token", "nats_per_byte", "perplexity")
        ]
        row = [entry["model"], kind, str(entry["prefix_len"]), *values, f"{entry['tokens']:,}"]
        rows.append([*row, str(estimate(entry["more"]))] if paired else row)
    return [head, *rows]


def generation_table(data: dict, conditional: bool, metrics: dict) -> list[list[str]]:
    head = ["model", "how", "seed", *(name for name, _ in metrics.values())]
    rows = []
    for row in data["rows"]:
        if row["conditional"] == conditional:
            values = [str(_value(row, m)) for m in metrics]
            rows.append([row["model"], row["method"], str(row["seed"]), *values])
    return [head, *rows]


def paired_table(data: dict) -> list[list[str]]:
    head = ["model", "how", "seed", f"nats per token more than {data['paired_with']}"]
    return [head, *([*p["name"], str(estimate(p["difference"]))] for p in data["paired"])]


def sections(data: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, sentences, table) of each part of the report."""
    texts, scorer = data["data"], data["scorer"]
    n, prompt, length = data["samples"], data["prompt_len"], data["length"]
    judged = f"Scorer: {scorer['name']}."
    if scorer["compared"]:
        judged += (
            f" It is one of the compared models ({scorer['compared']}), so these values favour it "
            "and what resembles it: do not compare it with the others by them."
        )
    notes = data["notes"]
    out = []
    if data["likelihood"]:
        out.append(
            (
                "Likelihood",
                [f"{texts['name']}, {texts['split']} split, in blocks; ± is half a 95 % interval "
                 "over blocks. The bound is an upper bound of the NLL; the first `prefix` tokens of "
                 "a block are given. Compare models of different tokenizers per byte; differences "
                 "are taken block by block."],
                likelihood_table(data),
            )
        )  # fmt: skip
    for conditional in (True, False):
        if not any(row["conditional"] == conditional for row in data["rows"]):
            continue
        if conditional:
            what = (
                f"{n} prompts of {prompt} tokens of the {texts['split']} split, {length} new tokens"
            )
        else:
            what = f"{n} texts from nothing, {prompt + length} tokens"
        title = "After prompts" if conditional else "From nothing"
        about = [
            f"{what}, in batches of {data['batch_size']}; MAUVE with {n} texts of a row against {n} "
            f"of the {texts['reference_split']} split in {data['clusters']} clusters. ± is half a "
            "95 % interval over texts; `~` has none.",
            judged,
            *notes,
        ]
        notes = []  # said once
        out.append((title, about, generation_table(data, conditional, QUALITY)))
        out.append(("", [], generation_table(data, conditional, OTHERS)))
    if data["paired"]:
        out.append(
            (
                "Paired differences",
                ["Nats per token under the scorer, on the same prompts; the interval is over prompts "
                 f"drawn together for both rows. Compared with {data['paired_with']}."],
                paired_table(data),
            )
        )  # fmt: skip
    if verdicts := equal_quality(data):
        out.append(("Seconds at equal quality", verdicts, []))
    return out


def _name(row: dict) -> str:
    return f"{row['model']}, {row['method']}"


def _value(row: dict, metric: str) -> Estimate:
    return estimate(row["metrics"].get(metric, [None] * 3))


def equal_quality(data: dict) -> list[str]:
    """For MAUVE and generative perplexity after prompts: the fewest passes with which a masked
    model reaches the first row that writes from left to right, and what time that takes."""
    rows = [row for row in data["rows"] if row["conditional"]]
    causal = [r for r in rows if "nfe" in r["metrics"] and "sampler" not in r["settings"]]
    masked = [r for r in rows if "sampler" in r["settings"]]
    if not causal or not masked:
        return []
    first, said = causal[0], []

    for metric, better in (("mauve", 1), ("gen_ppl", -1)):
        head, goal = METRICS[metric][0], _value(first, metric)

        def reaches(row, metric=metric, better=better, goal=goal):
            """Whether the two intervals touch, or the row's lies on the better side."""
            own = _value(row, metric)
            return own.high >= goal.low if better > 0 else own.low <= goal.high

        found = sorted(filter(reaches, masked), key=lambda row: _value(row, "nfe").value)
        goal = f"{head} of {_name(first)} ({goal})"
        if not found:
            said.append(f"No row of a masked model reaches the {goal}.")
            continue
        row, times = found[0], [_value(r, "seconds").value for r in (first, found[0])]
        said.append(
            f"The fewest passes that reach the {goal} are {_value(row, 'nfe').value:.3g}: "
            f"{_name(row)} ({_value(row, metric)}), in {_value(row, 'seconds')} s a text against "
            f"{_value(first, 'seconds')} s, {times[0] / times[1]:.2g} times as fast."
        )
        if any(reaches(r) for r in rows if r["model"] == SHUFFLED):
            said.append(f"Shuffled text reaches it, too: here {head} decides nothing.")
    return said


# What can go wrong: (what it is, metric, where it is worst: the largest or the smallest).
FAILURES = (
    ("repeats itself most", "rep_4", max),
    ("has the least varied tokens", "entropy", min),
    ("ends by itself most", "unfinished", min),
    ("is the least likely", "gen_ppl", max),
    ("texts are the most alike", "self_bleu", max),
)


def failures_table(data: dict) -> list[list[str]]:
    rows = [row for row in data["rows"] if row["conditional"] and "nfe" in row["metrics"]]
    real = next((r for r in data["rows"] if r["conditional"] and r["model"] == REAL), None)
    table = [["", "row", "measure", "there", REAL, "its first text"]]
    for what, metric, worst in FAILURES:
        known = [r for r in rows if not math.isnan(_value(r, metric).value)]
        if known:
            row = worst(known, key=lambda r: _value(r, metric).value)
            usual = str(_value(real, metric)) if real else "-"
            there, measure = str(_value(row, metric)), METRICS[metric][0]
            table.append([what, _name(row), measure, there, usual, first_text(row)])
    return table


def first_text(row: dict) -> str:
    """The row's first text with its prompt in brackets, on one line."""
    first = row["first"]
    prompt = f"[{first['prompt']}]" if first["prompt"] else ""
    return literal(prompt + first["text"]) + (" (end)" if first["finished"] else "")


def literal(text: str) -> str:
    """On one line, and nothing in it is Markdown."""
    return re.sub(r"([\\`*_<>~#$\[\]])", r"\\\1", " ".join(text.split()))


def samples_table(data: dict, conditional: bool) -> list[list[str]]:
    rows = [row for row in data["rows"] if row["conditional"] == conditional and row["first"]]
    return [["model", "how", "text"], *([r["model"], r["method"], first_text(r)] for r in rows)]


def examples(data: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """More `sections`, with texts: nobody has chosen them."""
    out, prompted = [], any(row["conditional"] for row in data["rows"])
    failures = failures_table(data)
    if len(failures) > 1:
        out.append(
            ("Where it goes wrong", ["The extreme row of each kind, after prompts."], failures)
        )
    for conditional, what in ((True, "after the prompt in brackets"), (False, "from nothing")):
        table = samples_table(data, conditional)
        if len(table) > 1:
            title = "First texts" if conditional or not prompted else ""
            out.append(
                (title, [f"Number 0 of each row, {what}; (end): it ended by itself."], table)
            )
    return out


def plain_text(data: dict) -> str:
    """The tables for a terminal."""
    lines = [f"=== {data['title']}", *([data["about"]] if data["about"] else []), ""]
    for title, sentences, table in sections(data):
        lines += [f"== {title}"] if title else []
        lines += [*sentences, *_aligned(table), ""]
    return "\n".join([*lines, machine_line(data)])


def _aligned(table: list[list[str]]) -> list[str]:
    if not table:
        return []
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    words = (
        2 if table[0][1] in ("how", "estimate") else 1
    )  # names to the left, numbers to the right
    return [
        "  ".join(
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def machine_line(data: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    return f"{data['hardware']}; {data['processor']}; {versions}"


def markdown(parts: dict[str, dict], target: str = "RESULTS.md") -> str:
    """RESULTS.md: the results of several runs, path of the results.json -> its content. Pictures
    are shown that lie beside a results.json, named from the folder of ``target``."""

    def cells(row):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"

    command = shlex.join(["python", "scoreboard.py", "--results", *parts, "--markdown", target])
    lines = [
        "# Results\n",
        f"Written by `{command}`. Do not edit: change what is measured.\n",
    ]
    for path, data in parts.items():
        lines += [
            f"## {literal(data['title'])}\n",
            *([data["about"] + "\n"] if data["about"] else []),
        ]
        lines += [f"Measured by `{data['command']}` on {machine_line(data)}.\n"]
        for title, sentences, table in [*sections(data), *examples(data)]:
            lines += [f"### {title}\n"] if title else []
            lines += [" ".join(sentences) + "\n"] if sentences else []
            if table:
                lines += [cells(table[0]), "|---" * len(table[0]) + "|", *map(cells, table[1:]), ""]
        for name, picture in PICTURES.items():
            file = Path(path).with_name(name)
            if file.exists():
                place = Path(os.path.relpath(file, Path(target).parent)).as_posix()
                lines += [f"![{picture.title}]({quote(place)})\n"]
    meanings = [f"- **{name}**: {meaning}" for name, meaning in METRICS.values()]
    return "\n".join([*lines, "## What the columns mean\n", *meanings, ""])


def as_csv(data: dict) -> str:
    """One line a row of the generation tables, with all intervals."""
    out = io.StringIO()
    names = [f"{m}{end}" for m in METRICS for end in ("", "_low", "_high")]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "how", "conditional", "seed", "samples", "scorer", *names])
    for row in data["rows"]:
        numbers = [v for m in METRICS for v in row["metrics"].get(m, [None] * 3)]
        writer.writerow(
            [row["model"], row["method"], row["conditional"], row["seed"], row["samples"],
             data["scorer"]["name"], *("" if v is None else v for v in numbers)]
        )  # fmt: skip
    return out.getvalue()


# ---------------------------------------------------------------- pictures

MARKERS = "osD^vPX<>*"


def write_all(data: dict, folder: Path) -> list[Path]:
    """results.json, results.csv and the pictures there is something for; returns their paths."""
    data = json.loads(dump(data))
    files: list[tuple[str, bytes]] = [
        ("results.json", dump(data).encode()),
        ("results.csv", as_csv(data).encode()),
    ]
    files += [(name, drawn) for name, picture in PICTURES.items() if (drawn := picture.draw(data))]
    for name, content in files:
        write_atomically(folder / name, content)
    return [folder / name for name, _ in files]


def write_markdown(parts: dict[str, dict], path: str) -> None:
    parts = {name: json.loads(dump(data)) for name, data in parts.items()}
    write_text(Path(path), markdown(parts, path))


def _figure(draw: Callable, data: dict, title: str, panels: int = 1) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * panels, 5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    draw(axes)
    for one in axes:
        one.grid(alpha=0.3)
    figure.suptitle(f"{title}\n{machine_line(data)}", fontsize=8, parse_math=False)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _series(data: dict, conditional: bool) -> dict[tuple[str, str], list[dict]]:
    """(model, sampler) -> its rows."""
    series: dict[tuple[str, str], list[dict]] = {}
    for row in data["rows"]:
        if row["conditional"] == conditional and row["model"] not in (REAL, SHUFFLED):
            name = row["settings"].get("sampler") or "autoregressive"
            series.setdefault((row["model"], name), []).append(row)
    return series


def _errors(estimates: list[Estimate]) -> list[list[float]]:
    low = [0 if math.isnan(e.low) else e.value - e.low for e in estimates]
    return [low, [0 if math.isnan(e.high) else e.high - e.value for e in estimates]]


def _difference(row: dict, rows: list[dict]) -> str:
    """What sets a row apart from the others of its series, in short."""
    names = {"n_steps": "", "temperature": "T "}
    values = {name: [r["settings"].get(name) for r in rows] for name in row["settings"]}
    # A temperature of 1 is not among the settings.
    return ", ".join(
        f"{names.get(name, name + ' ')}{row['settings'][name]}"
        for name, given in values.items()
        if any(value != row["settings"][name] for value in given)
    )


def _shade(i: int, n: int) -> str:
    return str(round(0.65 * i / max(1, n - 1), 2))  # from black to a grey that prints


def _levels(axes, data: dict, conditional: bool, metric: str) -> None:
    """Real and shuffled text, the ceiling and the floor, as lines."""
    for row in data["rows"]:
        style = {REAL: "--", SHUFFLED: ":"}.get(row["model"])
        if style and row["conditional"] == conditional:
            value = estimate(row["metrics"][metric])
            if not math.isnan(value.value):
                axes.axhline(value.value, color="0.4", linestyle=style, linewidth=1.2)
                real = row["model"] == REAL  # the two may be on one height
                axes.annotate(
                    row["model"], (0.01 if real else 0.99, value.value), fontsize=8, color="0.3",
                    xycoords=("axes fraction", "data"), ha="left" if real else "right", va="bottom",
                )  # fmt: skip


def _plain_log(axis) -> None:
    """Ticks at 1, 2, 5, 10, 20, ... as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, position: f"{value:g}")


def _against(data: dict, cost: str, label: str) -> bytes | None:
    conditional = any(row["conditional"] for row in data["rows"])
    series = _series(data, conditional)
    if not series:
        return None

    def panel(axes, metric, sign):
        points = []
        for i, ((model, sampler), rows) in enumerate(series.items()):
            x = [estimate(row["metrics"][cost]) for row in rows]
            y = [estimate(row["metrics"][metric]) for row in rows]
            axes.errorbar(
                [e.value for e in x], [e.value for e in y], _errors(y), _errors(x), linestyle="none",
                marker=MARKERS[i % len(MARKERS)], color=_shade(i, len(series)), capsize=2,
                markersize=6, label=f"{model}: {sampler}",
            )  # fmt: skip
            points += [
                (a.value, b.value) for a, b in zip(x, y, strict=True) if not math.isnan(b.value)
            ]
            for row, a, b in zip(rows, x, y, strict=True):
                if not math.isnan(b.value):
                    axes.annotate(_difference(row, rows), (a.value, b.value), (5, 5), fontsize=7,
                                  textcoords="offset points")  # fmt: skip
        best = pareto([p[0] for p in points], [sign * p[1] for p in points])
        front = [[points[i][axis] for i in best] for axis in (0, 1)]
        axes.plot(*front, color="black", linewidth=1, drawstyle="steps-post", label="Pareto front")
        axes.plot(*front, linestyle="none", marker="o", markersize=13, markerfacecolor="none",
                  markeredgecolor="black")  # fmt: skip
        _levels(axes, data, conditional, metric)
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
        axes.set_xlabel(label)

    def draw(panels):
        panel(panels[0], "gen_ppl", 1)
        panels[0].set_yscale("log")
        _plain_log(panels[0].yaxis)
        panels[0].set_ylabel(f"generative perplexity ({data['scorer']['name']}), lower is likelier")
        panel(panels[1], "mauve", -1)
        panels[1].set_ylabel(f"MAUVE ({data['samples']} texts), higher is better")
        panels[0].legend(fontsize=8)

    return _figure(draw, data, f"Quality against {label}, 95 % intervals", 2)


def _temperature(data: dict) -> bytes | None:
    conditional = any(row["conditional"] for row in data["rows"])
    series = _series(data, conditional)
    if not series:
        return None

    def draw(panels):
        axes = panels[0]
        for i, ((model, sampler), rows) in enumerate(series.items()):
            # Rows that differ in the temperature alone are a line.
            lines: dict[str, list[dict]] = {}
            for row in rows:
                others = {k: v for k, v in row["settings"].items() if k != "temperature"}
                lines.setdefault(json.dumps(others, sort_keys=True), []).append(row)
            label = f"{model}: {sampler}"
            for line in lines.values():
                line.sort(key=lambda row: row["settings"].get("temperature", 1.0))
                x = [estimate(row["metrics"]["gen_ppl"]) for row in line]
                y = [estimate(row["metrics"]["entropy"]) for row in line]
                axes.errorbar(
                    [e.value for e in x], [e.value for e in y], _errors(y), _errors(x),
                    marker=MARKERS[i % len(MARKERS)], color=_shade(i, len(series)), capsize=2,
                    linewidth=1, label=label,
                )  # fmt: skip
                label = None
                if len(line) > 1:
                    for row, a, b in zip(line, x, y, strict=True):
                        text = f"T {row['settings'].get('temperature', 1.0):g}"
                        if not math.isnan(a.value + b.value):
                            axes.annotate(text, (a.value, b.value), (4, 4), fontsize=7,
                                          textcoords="offset points")  # fmt: skip
        _levels(axes, data, conditional, "entropy")
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
        axes.set_xlabel(f"generative perplexity ({data['scorer']['name']})")
        axes.set_ylabel("entropy of a text's tokens, nats")
        axes.legend(fontsize=8)

    return _figure(draw, data, "Entropy against generative perplexity, 95 % intervals")


def _mask_rate(data: dict) -> bytes | None:
    shown = [entry for entry in data["likelihood"] if entry["prefix_len"] == 1]
    if not any(entry["by_mask_rate"] for entry in shown):
        return None

    def draw(panels):
        axes = panels[0]
        for i, entry in enumerate(shown):
            colour = _shade(i, len(shown))
            if entry["by_mask_rate"]:
                rates = [10, 30, 50, 70, 90]
                values = [math.nan if v is None else v for v in entry["by_mask_rate"]]
                axes.plot(rates, values, marker=MARKERS[i % len(MARKERS)], color=colour,
                          label=entry["model"])  # fmt: skip
            level = estimate(entry["nats_per_token"])
            name = "exact NLL" if entry["estimator"] == "exact" else "its bound"
            axes.axhline(level.value, color=colour, linestyle="--" if name == "its bound" else "-.",
                         label=f"{entry['model']}: {name}")  # fmt: skip
            axes.axhspan(level.low, level.high, color=colour, alpha=0.12)
        axes.set_xlabel("masked tokens, % (bins of 20)")
        axes.set_ylabel("nats per masked token")
        axes.legend(fontsize=8)

    return _figure(draw, data, "Likelihood over the mask rate")


class Picture(NamedTuple):
    title: str
    draw: Callable[[dict], bytes | None]  # None: there is nothing to show


PICTURES = {
    "quality_nfe.png": Picture(
        "Quality against forward passes",
        lambda data: _against(data, "nfe", "forward passes (NFE)"),
    ),
    "quality_seconds.png": Picture(
        "Quality against seconds", lambda data: _against(data, "seconds", "seconds a text")
    ),
    "temperature.png": Picture("Entropy against generative perplexity", _temperature),
    "likelihood.png": Picture("Likelihood over the mask rate", _mask_rate),
}
