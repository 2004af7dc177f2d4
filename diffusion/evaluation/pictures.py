"""The pictures of a scoreboard, made from its results alone and readable in greyscale."""

import io
import json
import math
from collections.abc import Callable
from typing import NamedTuple

from diffusion.evaluation.metrics import Estimate, pareto
from diffusion.evaluation.results import estimate, machine_line
from diffusion.evaluation.rows import REAL, SHUFFLED

MARKERS = "osD^vPX<>*"


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
