"""Plots: series that the colour-blind tell apart, labels inside their panels, axes with ticks."""

import colorsys
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from studies import redraw
from studies.board import plotting
from studies.board.pictures import PICTURES
from studies.board.plotting import Plot

RESULTS = Path(__file__).parents[2] / "studies" / "results"
SHOWN = sorted(path for path in RESULTS.glob("*/*.png") if path.stem != "soft")


@pytest.fixture(scope="module", params=SHOWN, ids=lambda path: path.stem)
def drawn(request) -> tuple:
    """(figure of a committed picture, drawn again from its data; the picture)"""
    path, figures = request.param, []
    with pytest.MonkeyPatch.context() as patch:
        for module in (redraw, __import__("studies.board.pictures", fromlist=["png"])):
            patch.setattr(module, "png", lambda figure: figures.append(figure) or b"")
        if path.name in PICTURES:
            PICTURES[path.name].draw(json.loads(path.with_name("results.json").read_text()))
        else:
            redraw.OWN[path.stem](json.loads(path.with_suffix(".json").read_text()))
    return figures[0], path


def looks(figure) -> list[tuple[str, str]]:
    """(colour, marker) of every series in the legend."""
    handles, _ = figure.axes[0].get_legend_handles_labels()
    lines = [getattr(handle, "lines", [handle])[0] for handle in handles]
    return [
        (to_hex(line.get_color()).upper(), line.get_marker())
        for line in lines
        if line.get_marker() in plotting.MARKERS
    ]


@pytest.mark.slow
def test_the_committed_pictures_are_readable(drawn):
    figure, path = drawn
    figure.canvas.draw()
    seen = looks(figure)
    assert len(seen) == len(set(seen)) >= 2
    (legend,) = figure.legends
    for axes in figure.axes:
        frame, below = axes.get_window_extent(), legend.get_window_extent()
        assert below.y1 <= frame.y0 + 1
        for text in axes.texts:
            box = text.get_window_extent()
            middle = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
            assert frame.x0 <= middle[0] <= frame.x1 and frame.y0 <= middle[1] <= frame.y1, text
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            assert sum(low <= tick <= high for tick in axis.get_ticklocs()) >= 2
    with Image.open(path) as image:
        found = np.array([colour for _, colour in image.convert("RGB").getcolors(1 << 16)])
    colours = {colour for colour, _ in seen}
    for colour in colours:
        assert np.abs(found - 255 * np.array(to_rgb(colour))).max(1).min() <= 3, colour


def test_no_series_is_grey_and_no_two_are_the_same():
    styles = [plotting.style(i) for i in range(104)]
    assert len({(s["color"], s["marker"]) for s in styles}) == 104
    assert len({s["marker"] for s in styles[:13]}) == 13
    for colour in plotting.PALETTE:
        _, saturation, value = colorsys.rgb_to_hsv(*to_rgb(colour))
        assert saturation > 0.3 or value == 0


@pytest.mark.slow
def test_labels_of_a_crowd_are_moved_apart_the_same_way_each_time():
    pytest.importorskip("adjustText")

    def draw():
        plot = Plot()
        (axes,) = plot.panels
        x, y = [1, 1.02, 1.04, 9], [1, 1.02, 1, 9]
        plot.series(axes, x, y, 0, "crowd", linestyle="none")
        for i, point in enumerate(zip(x, y, strict=True)):
            plot.label(axes, f"name {i}", *point)
        plot.level(axes, "real text", 5.0, "--")
        figure = plot.finish("title")
        boxes = [text.get_window_extent() for text in axes.texts if "name" in text.get_text()]
        return boxes, plotting.png(figure)

    boxes, picture = draw()
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert draw()[1] == picture


@pytest.mark.parametrize("low, high", [(62, 88), (4, 100), (0.03, 2000), (5, 5)])
def test_a_logarithmic_axis_has_plain_ticks(low, high):
    plot = Plot()
    (axes,) = plot.panels
    plot.series(axes, [low, high], [1, 2], 0, "x")
    plotting.plain_log(axes.xaxis, low, high)
    plot.finish("title").canvas.draw()
    shown = [text.get_text() for text in axes.get_xticklabels()]
    assert len(shown) >= 2 and "e" not in "".join(shown)
