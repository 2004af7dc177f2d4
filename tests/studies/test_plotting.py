"""Plots: series that the colour-blind tell apart, labels that cover nothing."""

import colorsys
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from studies import frontier, likelihood
from studies.board import plotting, sweep
from studies.board.pictures import PICTURES
from studies.board.plotting import Plot

DOCS = Path(__file__).parents[2] / "docs"
# Their data stand beside them under the same name; of the others in results.json.
OWN = {"frontier": frontier.figure, "likelihood": likelihood.figure}
SHOWN = sorted(p for p in DOCS.glob("results/*/*.png") if p.parent.name not in OWN)
OTHERS = [
    DOCS / "results" / name / picture
    for name, picture in itertools.product(("recipes", "sampling"), sorted(PICTURES))
    if (name, picture) != ("sampling", "likelihood.png")  # it measured none
]


def figure_of(path: Path):
    if path.parent.name in OWN:
        return OWN[path.parent.name](json.loads(path.with_suffix(".json").read_text()))
    return PICTURES[path.name].figure(json.loads(path.with_name("results.json").read_text()))


def overlap(a, b) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1


def look_at(figure) -> int:
    """Check that nothing written in a figure covers anything else that is; the number of labels."""
    figure.canvas.draw()
    (legend,) = figure.legends
    count = 0
    for axes in figure.axes:
        frame = axes.get_window_extent()
        labels = [text for text in axes.texts if text.get_text()]
        boxes = [label.get_window_extent() for label in labels]
        for box, label in zip(boxes, labels, strict=True):
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            assert inside and frame.y0 <= box.y0 and box.y1 <= frame.y1, label
        for (a, one), (b, other) in itertools.combinations(zip(boxes, labels, strict=True), 2):
            assert not overlap(a, b), (one, other)
        for line in axes.lines:
            if line.get_marker() in plotting.MARKERS:
                for x, y in axes.transData.transform(
                    np.column_stack(line.get_data()).astype(float)
                ):
                    assert not any(b.x0 < x < b.x1 and b.y0 < y < b.y1 for b in boxes)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            shown = [
                text.get_window_extent()
                for tick, text in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
                if low <= tick <= high
            ]
            assert len(shown) >= 2  # fewer are no scale
            written = [*shown, axis.label.get_window_extent()]
            for a, b in itertools.combinations(written, 2):
                assert not overlap(a, b)
            assert not any(overlap(a, legend.get_window_extent()) for a in written)
        assert not overlap(frame, legend.get_window_extent())
        count += len(labels)
    whole = figure.bbox
    for text in (legend, figure._suptitle):
        box = text.get_window_extent()
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0
    return count


def looks(figure) -> list[tuple[str, str]]:
    """(colour, marker) of every series in the legend."""
    handles, _ = figure.axes[0].get_legend_handles_labels()
    lines = [getattr(handle, "lines", [handle])[0] for handle in handles]
    return [
        (to_hex(line.get_color()).upper(), line.get_marker())
        for line in lines
        if line.get_marker() in plotting.MARKERS
    ]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.stem)
def test_the_committed_pictures_are_readable(path):
    figure = figure_of(path)
    assert look_at(figure) >= (0 if path.stem == "likelihood" else 8)
    seen = looks(figure)
    if path.stem == "likelihood":  # a model's curve and its level look alike but for the dashes
        assert len(set(seen)) == 2
    else:
        colours, markers = zip(*seen, strict=True)
        assert len(seen) == len(set(colours)) == len(set(markers)) >= 5


@pytest.mark.parametrize("name", OWN)
def test_so_are_those_with_data_of_their_own(name):
    seen = looks(figure := figure_of(DOCS / "results" / name / f"{name}.png"))
    # There are more ways of writing than colours: no two have one colour and one marker.
    assert look_at(figure) >= 3 and len(seen) == len(set(seen)) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_so_are_those_of_the_other_results(path):
    seen = looks(figure := figure_of(path))
    look_at(figure)
    assert path.stem == "likelihood" or len(seen) == len(set(seen)) >= 12


def test_the_sweep_is_readable():
    figure = sweep.figure(json.loads((DOCS / "sweep" / "sweep.json").read_text()))
    assert look_at(figure) == 0
    assert len(set(looks(figure))) == 6
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:2] == ["diffusion, 64 steps", "gpt2-small-wikitext, with cache"]


def test_no_series_is_grey_and_no_two_are_the_same():
    styles = [plotting.style(i) for i in range(104)]
    assert len({(s["color"], s["marker"]) for s in styles}) == 104
    assert len({s["marker"] for s in styles[:13]}) == 13
    for colour in plotting.PALETTE:
        _, saturation, value = colorsys.rgb_to_hsv(*to_rgb(colour))
        assert saturation > 0.3 or value == 0


def test_few_colours_are_still_those_of_the_series():
    drawn = plotting.png(figure_of(DOCS / "results" / "frontier" / "frontier.png"))
    with Image.open(io.BytesIO(drawn)) as image:
        found = np.array([colour for _, colour in image.convert("RGB").getcolors(1 << 16)])
    for colour in plotting.PALETTE:
        assert np.abs(found - 255 * np.array(to_rgb(colour))).max(1).min() <= 2, colour


def test_labels_of_one_crowd_are_apart_and_know_their_points():
    plot = Plot()
    (axes,) = plot.panels
    x, y = [1, 1.05, 1.1, 1.15, 9], [1, 1.05, 1, 1.05, 9]
    plot.series(axes, x, y, 0, "crowd", linestyle="none")
    for i, point in enumerate(zip(x, y, strict=True)):
        plot.label(axes, f"a long name {i}", *point, 0)
    plot.level(axes, "one", 5.0, "--")
    plot.level(axes, "the same", 5.0, ":")
    figure = plot.finish("title")
    assert look_at(figure) == 7
    lines = [text for text in axes.texts if not text.get_text()]
    assert len(lines) >= 3  # to all of the crowd but those beside it


@pytest.mark.parametrize("low, high", [(62, 88), (4, 100), (0.03, 2000), (5, 5)])
def test_a_logarithmic_axis_has_ticks(low, high):
    plot = Plot()
    (axes,) = plot.panels
    plot.series(axes, [low, high], [1, 2], 0, "x")
    plotting.plain_log(axes.xaxis, low, high)
    look_at(plot.finish("title"))
    shown = [text.get_text() for text in axes.get_xticklabels()]
    assert "e" not in "".join(shown)  # plain numbers
