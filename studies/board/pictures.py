"""The pictures of a scoreboard, made from its results alone."""

import math
from collections.abc import Callable
from typing import NamedTuple

from studies.board.metrics import Estimate
from studies.board.plotting import Plot, plain_log, png
from studies.board.results import machine_line, measured
from studies.board.rows import CONTROLS, REAL, REPEATED, SHUFFLED


def _series(data: dict, conditional: bool) -> dict[tuple[str, str], list[dict]]:
    """(model, sampler) -> its rows."""
    series: dict[tuple[str, str], list[dict]] = {}
    for row in data["rows"]:
        if row["conditional"] == conditional and row["model"] not in CONTROLS:
            name = (row["settings"].get("sampler") or "autoregressive").partition(":")[0]
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


def _levels(plot: Plot, axes, data: dict, conditional: bool, metric: str) -> None:
    """Real text, and the two that must not win, as lines."""
    for row in data["rows"]:
        linestyle = {REAL: "--", SHUFFLED: ":", REPEATED: "-."}.get(row["model"])
        value = measured(row, metric).value
        if linestyle and row["conditional"] == conditional and not math.isnan(value):
            plot.level(axes, row["model"], value, linestyle)


def _points(plot: Plot, axes, i: int, label: str | None, rows: list[dict], *metrics: str, **line):
    """A series of rows by two metrics; (x, y) of each."""
    both = [[measured(row, metric) for row in rows] for metric in metrics]
    x, y = ([e.value for e in values] for values in both)
    plot.series(axes, x, y, i, label, list(map(_errors, both)), **line)
    return list(zip(x, y, strict=True))


def _log(axis, data: dict, metric: str, conditional: bool) -> None:
    values = [measured(row, metric).value for row in data["rows"] if row["conditional"] == conditional]  # fmt: skip
    known = [value for value in values if value > 0]
    plain_log(axis, min(known, default=1), max(known, default=1))


def _against(data: dict, cost: str, label: str):
    conditional = any(row["conditional"] for row in data["rows"])
    series = _series(data, conditional)
    if not series:
        return None
    plot = Plot()
    (axes,) = plot.panels
    for i, ((model, sampler), rows) in enumerate(series.items()):
        found = _points(
            plot, axes, i, f"{model}: {sampler}", rows, cost, "gen_ppl", linestyle="none"
        )
        for row, point in zip(rows, found, strict=True):
            plot.label(axes, _difference(row, rows), *point)
    _levels(plot, axes, data, conditional, "gen_ppl")
    _log(axes.xaxis, data, cost, conditional)
    _log(axes.yaxis, data, "gen_ppl", conditional)
    axes.set_xlabel(label)
    axes.set_ylabel(f"generative perplexity ({data['scorer']['name']}), lower is likelier")
    return plot.finish(f"Quality against {label}, 95 % intervals\n{machine_line(data)}")


class Picture(NamedTuple):
    title: str
    figure: Callable  # results -> matplotlib's Figure, or None: there is nothing to show

    def draw(self, data: dict) -> bytes | None:
        """As PNG."""
        figure = self.figure(data)
        return None if figure is None else png(figure)


PICTURES = {
    "quality_nfe.png": Picture(
        "Quality against forward passes", lambda data: _against(data, "nfe", "forward passes (NFE)")
    ),
    "quality_seconds.png": Picture(
        "Quality against seconds", lambda data: _against(data, "seconds", "seconds a text")
    ),
}
