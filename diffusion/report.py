"""What a scoreboard shows: tables for the terminal and for RESULTS.md, a CSV, and pictures.

All of it is made from results.json alone.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from .checkpoints import write_atomically, write_text
from .errors import UserError
from .metrics import Estimate, pareto
from .rows import REAL, SHUFFLED

FORMAT, VERSION = "roberta-diffusion scoreboard", 1

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
        markdown(data), as_csv(data)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
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
    rows = []
    for entry in data["likelihood"]:
        kind = "exact NLL" if entry["estimator"] == "exact" else (
            f"bound, {entry['estimator']}, {entry['draws']} draws"
        )  # fmt: skip
        values = [
            str(estimate(entry[n])) for n in ("nats_per_token", "nats_per_byte", "perplexity")
        ]
        rows.append(
            [entry["model"], kind, str(entry["prefix_len"]), *values, f"{entry['tokens']:,}"]
        )
    return [head, *rows]


def generation_table(data: dict, conditional: bool, metrics: dict) -> list[list[str]]:
    head = ["model", "how", "seed", *(name for name, _ in metrics.values())]
    rows = []
    for row in data["rows"]:
        if row["conditional"] == conditional:
            values = [str(estimate(row["metrics"].get(m, [None] * 3))) for m in metrics]
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
                 "a block are given. Compare models of different tokenizers per byte."],
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
    return out


def plain_text(data: dict) -> str:
    """The tables for a terminal."""
    lines = []
    for title, sentences, table in sections(data):
        lines += [f"== {title}"] if title else []
        lines += [*sentences, *_aligned(table), ""]
    return "\n".join([*lines, machine_line(data)])


def _aligned(table: list[list[str]]) -> list[str]:
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


def markdown(data: dict) -> str:
    """RESULTS.md."""

    def cells(row):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"

    parts = [
        "# Results\n",
        f"Measured by `{data['command']}`, and written by `python scoreboard.py --results "
        "results.json --markdown RESULTS.md`. Do not edit: change what is measured.\n",
        machine_line(data) + ".\n",
    ]
    for title, sentences, table in sections(data):
        parts += [f"## {title}\n"] if title else []
        parts += [" ".join(sentences) + "\n"] if sentences else []
        parts.append(
            "\n".join([cells(table[0]), "|---" * len(table[0]) + "|", *map(cells, table[1:])])
        )
        parts.append("")
    meanings = [f"- **{name}**: {meaning}" for name, meaning in METRICS.values()]
    return "\n".join([*parts, "## What the columns mean\n", *meanings, ""])


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
    files += [(name, picture) for name, draw in PICTURES.items() if (picture := draw(data))]
    for name, content in files:
        write_atomically(folder / name, content)
    return [folder / name for name, _ in files]


def write_markdown(data: dict, path: str) -> None:
    write_text(Path(path), markdown(data))


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


PICTURES = {
    "quality_nfe.png": lambda data: _against(data, "nfe", "forward passes (NFE)"),
    "quality_seconds.png": lambda data: _against(data, "seconds", "seconds a text"),
    "temperature.png": _temperature,
    "likelihood.png": _mask_rate,
}
