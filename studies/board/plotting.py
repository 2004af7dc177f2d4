"""What the plots of measurements share: colours and markers that tell series apart, and labels that
cover nothing."""

import io
import itertools
import math
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

# Okabe and Ito's, for the colour-blind as for others. Their yellow is pale: markers have edges.
PALETTE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#D55E00", "#0072B2", "#F0E442", "#CC79A7"),
)
MARKERS = "osD^vPX<>*phd"
# How far from its point a label may be, in pixels, and where: to the upper right first.
DISTANCES = (8, 14, 23, 35, 52, 70, 92, 127, 173)
ANGLES = [math.radians(a) for a in (35, 0, -35, 145, 180, -145, 90, -90, 65, -65, 115, -115)]
NEAR = (
    15  # a label that is further away, or nearly as near to another point, gets a line to its own
)


def style(i: int) -> dict:
    """Of series number ``i``: no two of the first 104 are the same."""
    colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
    return {"color": colour, "marker": marker, "markeredgecolor": "black", "markeredgewidth": 0.5}


class Plot:
    """A figure of one or more panels, which are matplotlib's axes."""

    def __init__(self, panels: int = 1):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(7 * panels, 5), dpi=150, layout="constrained")
        FigureCanvasAgg(self.figure)
        self.panels = self.figure.subplots(1, panels, squeeze=False)[0]
        # What is to stand where: (panel, text, places in data coordinates, colour of its line).
        self.labels: list[tuple] = []
        self.marks: list[tuple] = []  # (panel, x, y, pixels across) that no label may cover
        self.lines: list[tuple] = []  # (panel, xs, ys) that a label should rather not cover

    def series(self, axes, x, y, i: int, label: str | None, errors=(None, None), **line) -> None:
        """Points with bars of ``errors``, each (below, above), for x and y."""
        axes.errorbar(x, y, errors[1], errors[0], label=label, capsize=2, markersize=6,
                      elinewidth=1, **style(i), **line)  # fmt: skip
        self.marks += [(axes, *point, 13) for point in zip(x, y, strict=True)]
        for k, bars in enumerate(errors):
            for point, low, high in zip(zip(x, y, strict=True), *(bars or ((), ())), strict=False):
                ends = [list(point), list(point)]
                ends[0][k], ends[1][k] = point[k] - low, point[k] + high
                self.lines.append((axes, *zip(*ends, strict=True)))
        if line.get("linestyle") != "none":
            self.lines.append((axes, x, y))

    def front(self, axes, x, y) -> None:
        """Steps through the points, and a ring around each."""
        axes.plot(x, y, color=PALETTE[0], linewidth=0.8, drawstyle="steps-post", zorder=1,
                  label="Pareto front")  # fmt: skip
        axes.plot(x, y, linestyle="none", marker="o", markersize=12, markerfacecolor="none",
                  markeredgecolor=PALETTE[0], markeredgewidth=0.8)  # fmt: skip
        self.marks += [(axes, *point, 27) for point in zip(x, y, strict=True)]
        self.lines.append((axes, np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]))

    def label(self, axes, text: str, x: float, y: float, i: int) -> None:
        """A text beside a point of series ``i``."""
        if text and math.isfinite(x + y):
            self.labels.append((axes, text, (x, y), style(i)["color"]))

    def level(self, axes, text: str, y: float, linestyle: str) -> None:
        """A horizontal line with its name on it, somewhere."""
        axes.axhline(y, color=PALETTE[0], linestyle=linestyle, linewidth=1)
        self.labels.insert(0, (axes, text, (None, y), None))

    def finish(self, title: str, order: Sequence[int] | None = None):
        """The figure, with its legend (in ``order``) and all labels."""
        handles, names = self.panels[0].get_legend_handles_labels()
        order = range(len(names)) if order is None else order
        width = self.figure.get_size_inches()[0]
        columns = max(1, int(width * 13 / (max(map(len, names), default=0) + 8)))
        rows = math.ceil(len(names) / columns)
        self.figure.set_size_inches(width, 5 + 0.2 * rows)
        self.figure.legend([handles[i] for i in order], [names[i] for i in order], fontsize=8,
                           loc="outside lower center", ncols=columns)  # fmt: skip
        for axes in self.panels:
            axes.grid(alpha=0.3)
        head = [textwrap.fill(line, int(17 * width)) for line in title.split("\n")]
        self.figure.suptitle("\n".join(head), fontsize=8, parse_math=False)
        self.figure.canvas.draw()  # where everything is
        self.figure.set_layout_engine("none")
        for axes in self.panels:
            self._place(axes)
        return self.figure

    def _place(self, axes) -> None:
        """Put the labels of a panel where they are near their points and cover as little as can be;
        the same place in every run."""
        frame = axes.get_window_extent()

        def pixels(x, y):
            return axes.transData.transform(np.column_stack([x, y]))

        marks = [
            _box(pixels([x], [y])[0], size, size)
            for a, x, y, size in self.marks
            if a is axes and math.isfinite(x + y)
        ]
        taken = list(marks)
        levels = [(axes.get_xlim(), (y, y)) for a, _, (x, y), _ in self.labels if a is axes and x is None]  # fmt: skip
        lines = [(x, y) for a, x, y in self.lines if a is axes] + levels
        drawn = np.concatenate([np.empty((0, 2)), *(_along(pixels(*line)) for line in lines)])
        for at, text, (x, y), colour in self.labels:
            if at is not axes:
                continue
            one = axes.annotate(text, (0, 0), xycoords="figure pixels", fontsize=7, ha="center",
                                va="center", parse_math=False)  # fmt: skip
            extent = one.get_window_extent()
            w, h = extent.width + 3, extent.height + 2
            if x is None:
                height = axes.transData.transform((axes.get_xlim()[0], y))[1]
                places = _on_a_line(frame, height, w, h)
            else:
                point = pixels([x], [y])[0]
                places = _around(point, w, h)
            boxes = [(cost, centre, _box(centre, w, h)) for cost, centre in places]
            _, centre, box = min(
                boxes,
                key=lambda place: (
                    place[0]
                    + 1000 * (_outside(frame, place[2]) + _hits(place[2], taken))
                    + 4 * _covered(place[2], drawn)
                ),
            )
            taken.append(box)
            one.set_position(centre)
            if x is None:
                continue
            others = [(mark[:2] + mark[2:]) / 2 for mark in marks]
            near = min((_gap(box, p) for p in others if np.abs(p - point).max() > 1), default=NEAR)
            if _gap(box, point) > min(near / 1.5, NEAR):
                end = np.clip(point, box[:2], box[2:])
                axes.annotate("", point, end, "figure pixels", "figure pixels",
                              arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6,
                                          "shrinkA": 0, "shrinkB": 0})  # fmt: skip
                drawn = np.concatenate([drawn, _along(np.array([point, end]))])


def png(figure) -> bytes:
    """A picture of few colours, which is a third of the size."""
    drawn, out = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    few = Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.FASTOCTREE, dither=0)
    few.save(out, "png", optimize=True)
    return out.getvalue()


def plain_log(axis, low: float, high: float) -> None:
    """A logarithmic axis with ticks at 1, 2, 5, 10, 20, ... as plain numbers; between where the
    values, which go from ``low`` to ``high``, are too near for that."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    ticks = LogLocator(subs=(1, 2, 5))
    if sum(low <= tick <= high for tick in ticks.tick_values(low, high)) < 2:
        ticks = MaxNLocator(5)
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(ticks)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, position: f"{value:g}")


def _box(centre, width: float, height: float) -> np.ndarray:
    """[left, bottom, right, top]"""
    half = np.array([width, height]) / 2
    return np.concatenate([centre - half, centre + half])


def _around(point, w: float, h: float) -> Iterable[tuple[float, np.ndarray]]:
    """(distance, centre) of the places for a box of a size beside a point."""
    for distance in DISTANCES:
        for angle in ANGLES:
            away = np.array([math.cos(angle), math.sin(angle)])
            yield distance, point + away * (distance + np.array([w, h]) / 2)


def _on_a_line(frame, y: float, w: float, h: float) -> Iterable[tuple[float, np.ndarray]]:
    """The same above and below a horizontal line."""
    for part in np.linspace(0, 1, 9):
        for side in (1, -1):
            x = frame.x0 + 6 + w / 2 + part * (frame.width - w - 12)
            yield min(part, 1 - part), np.array([x, y + side * (h / 2 + 2)])


def _along(points: np.ndarray) -> np.ndarray:
    """Points every three pixels along a line, (n, 2)."""
    points = points[np.isfinite(points).all(1)]
    parts = [points[:1]]
    for a, b in itertools.pairwise(points):
        steps = max(2, int(np.hypot(*(b - a)) / 3))
        parts.append(a + np.linspace(0, 1, steps)[:, None] * (b - a))
    return np.concatenate(parts)


def _gap(box: np.ndarray, point: np.ndarray) -> float:
    return np.hypot(*np.maximum(0, np.maximum(box[:2] - point, point - box[2:])))


def _hits(box: np.ndarray, others: list[np.ndarray]) -> int:
    apart = [(box[:2] >= other[2:]).any() or (box[2:] <= other[:2]).any() for other in others]
    return len(apart) - sum(apart)


def _covered(box: np.ndarray, points: np.ndarray) -> int:
    return int(((points > box[:2]) & (points < box[2:])).all(1).sum())


def _outside(frame, box: np.ndarray) -> bool:
    return bool((box[:2] < (frame.x0, frame.y0)).any() or (box[2:] > (frame.x1, frame.y1)).any())
