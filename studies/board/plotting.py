"""What the plots of measurements share: colours and markers that tell series apart, and labels.

Labels are placed by adjustText (``pip install -e ".[studies]"``); without it they stand beside their
points and may overlap.
"""

import io
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image

# Okabe and Ito's, for the colour-blind as for others. Their yellow is pale: markers have edges.
PALETTE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#D55E00", "#0072B2", "#F0E442", "#CC79A7"),
)
MARKERS = "osD^vPX<>*phd"


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
        self.labels: list[tuple] = []  # (panel, text)
        self.points: list[tuple] = []  # (panel, x, y) that a label should not cover

    def series(self, axes, x, y, i: int, label: str | None, errors=(None, None), **line) -> None:
        """Points with error bars ``errors``, each (below, above), for x and y."""
        axes.errorbar(x, y, errors[1], errors[0], label=label, capsize=2, markersize=6,
                      elinewidth=1, **style(i), **line)  # fmt: skip
        self.points += [(axes, *point) for point in zip(x, y, strict=True)]

    def label(self, axes, text: str, x: float, y: float) -> None:
        """A text beside a point."""
        if text and math.isfinite(x + y):
            placed = axes.text(x, y, text, fontsize=7, ha="center", va="center", parse_math=False)
            placed.set_in_layout(False)
            self.labels.append((axes, placed))

    def level(self, axes, text: str, y: float, linestyle: str) -> None:
        """A horizontal line with its name, at the left end."""
        axes.axhline(y, color=PALETTE[0], linestyle=linestyle, linewidth=1)
        axes.annotate(text, (0.01, y), (0, 2), axes.get_yaxis_transform(), "offset points",
                      fontsize=7, parse_math=False)  # fmt: skip

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
        self.figure.canvas.draw()  # adjustText needs to know where everything is
        self.figure.set_layout_engine("none")
        for axes in self.panels:
            self._place([text for panel, text in self.labels if panel is axes], axes)
        return self.figure

    def _place(self, labels: list, axes) -> None:
        """Move the labels of a panel off its points and off each other, the same way in every run."""
        try:
            from adjustText import adjust_text
        except ImportError:
            return
        if not labels:
            return
        points = [(x, y) for panel, x, y in self.points if panel is axes and math.isfinite(x + y)]
        x, y = zip(*points, strict=True)
        np.random.seed(0)
        adjust_text(
            labels, x, y, ax=axes, iter_lim=100, expand=(1.2, 1.7), force_explode=(0.4, 1.0),
            force_static=(0.3, 0.6), force_text=(0.3, 0.6),
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "0.4"},
        )  # fmt: skip


def png(figure) -> bytes:
    """A picture of few colours, which is a third of the size."""
    drawn, out = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    few = Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.FASTOCTREE, dither=0)
    few.save(out, "png", optimize=True)
    return out.getvalue()


def plain_log(axis, low: float, high: float) -> None:
    """A logarithmic axis with ticks at 1, 2, 5, 10, 20, ... as plain numbers; between them where the
    values, from ``low`` to ``high``, are too near each other for that."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    ticks = LogLocator(subs=(1, 2, 5))
    if sum(low <= tick <= high for tick in ticks.tick_values(low, high)) < 2:
        ticks = MaxNLocator(5)
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(ticks)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, position: f"{value:g}")
