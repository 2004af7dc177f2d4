"""Frames drawn with matplotlib: fonts, and panels on which a `layout` is filled.

Everything is placed in pixels from the top left corner of the figure. States differ by shape and lightness before they differ by hue.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from diffusion.views.film import Film
from diffusion.views.frames import END_MARK, Frame, State
from diffusion.views.layout import (
    BLUE,
    FAINT,
    GREY,
    INK,
    ORANGE,
    PAPER,
    SMALLEST_INSIDE,
    TINTS,
    Layout,
    join,
    labels,
    lay_out,
    passing_rooms,
    reserved_text,
    split_piece,
)

# State -> the block behind it, if any, and its text colour.
BLOCKS = {
    State.MASKED: {"facecolor": GREY, "edgecolor": GREY},
    State.FRESH: {"facecolor": BLUE, "edgecolor": BLUE},
    State.REMASKED: {"facecolor": PAPER, "edgecolor": ORANGE, "hatch": "/////"},
    State.REPLACED: {"facecolor": PAPER, "edgecolor": BLUE},
}
# What a mask remembers, by `Frame.guess`, on the grey of a mask.
GUESS_COLOURS = ("", "#b8b8b8", "#9c9c9c", "#7a7a7a")
TEXT_COLOURS = {State.FRESH: PAPER, State.NOISE: FAINT}  # others: INK


def tint(doubt: int) -> dict:
    """The block behind a settled token."""
    return {"facecolor": TINTS[doubt], "edgecolor": TINTS[doubt]}


BASE_FONT = "DejaVu Sans"  # comes with matplotlib
LINE = 1.45  # ems from one line to the next


@contextmanager
def quiet() -> Iterator[None]:
    """Without a warning for each character that no installed font has (it is drawn as a box) and
    for each font without a bold face."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Glyph")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def font_families(characters: set[str]) -> list[str]:
    """`BASE_FONT` and as many installed fonts as it takes to cover ``characters``."""
    families = [BASE_FONT]
    missing = {ord(char) for char in characters if char.isprintable()}
    missing -= set(_charmap(font_manager.findfont(BASE_FONT)))
    regular = {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal"
        and (not isinstance(entry.weight, int) or 400 <= entry.weight <= 500)
        and not entry.name.startswith("Last Resort")  # draws boxes; matplotlib adds it itself
    }
    # Fonts made for coverage first: they come in one weight and style for many scripts.
    for name in sorted(regular, key=lambda name: (not re.search("Sans|Emoji|Uni", name), name)):
        if not missing:
            break
        if found := missing & _charmap(regular[name]):
            families.append(name)
            missing -= found
    return families


def _charmap(path: str) -> set[int]:
    try:
        return set(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError):
        return set()


class Ruler:
    """Measures text in ems, with the fonts that the given text needs."""

    def __init__(self, text: str):
        families = font_families(set(text) | set(END_MARK))
        self.plain = len(families) == 1  # no script that needs another font, and taller lines
        self.regular = FontProperties(family=families, size=100)
        self.bold = FontProperties(family=families, size=100, weight="bold")
        self._widths: dict[tuple[str, bool], float] = {}

    def width(self, text: str, bold: bool = False) -> float:
        """The advance width of ``text``, spaces at its ends included."""
        if (text, bold) not in self._widths:
            fences = self._extent("||", bold)
            self._widths[text, bold] = self._extent(f"|{text}|", bold) - fences
        return self._widths[text, bold]

    def _extent(self, text: str, bold: bool) -> float:
        font = self.bold if bold else self.regular
        with quiet():
            return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 100

    def clip(self, text: str, width: float, bold: bool = False) -> str:
        """``text`` cut to ``width`` ems with an ellipsis."""
        if self.width(text, bold) <= width:
            return text
        fits, most = 0, len(text)  # so many characters fit, at least and at most
        while fits < most:
            middle = (fits + most + 1) // 2
            if self.width(text[:middle] + "…", bold) <= width:
                fits = middle
            else:
                most = middle - 1
        return text[:fits] + "…"


class Panel:
    """One generation inside a rectangle of an axes that is measured in pixels.

    Args:
        axes: from `pixel_axes`.
        rect: (left, top, width, height) in pixels.
        frames: all frames of the generation; they decide the layout.
        size: font size in pixels; None for the largest, up to 30, with which all lines fit.
    """

    def __init__(
        self,
        axes: Axes,
        rect: tuple[float, float, float, float],
        frames: Sequence[Frame],
        ruler: Ruler,
        size: float | None = None,
    ):
        self.left, self.top, self.width, self.height = rect
        self.ruler = ruler
        self.size, self.layout = fit(frames, ruler, self.width, self.height, size)
        self.points = self.size * 72 / axes.figure.dpi
        self.blocks, self.texts = [], []
        self.final = [split_piece(piece)[1] for piece in join(reserved_text(frames))]
        self._now: list[tuple] = [(None, "", 0)] * len(self.layout.places)
        for place in self.layout.places:
            block = Rectangle(
                (0, self._baseline(place.line) - 0.9 * self.size),
                0,
                1.2 * self.size,
                linewidth=0.06 * self.points,
                visible=False,
                clip_on=False,
            )
            text = Text(
                0,
                self._baseline(place.line),
                "",
                parse_math=False,
                usetex=False,
                visible=False,
                clip_on=False,
            )
            self.blocks.append(axes.add_patch(block))
            self.texts.append(axes.add_artist(text))

    def _span(self, position: int, shown: str) -> tuple[float, float]:
        """(left, width) in ems of what a position shows: the final text of a character that is
        spread over several tokens takes the room of all of them, anything else its own."""
        place = self.layout.places[position]
        if shown and shown == self.final[position]:
            return place.text_x, place.text_width
        return place.x, place.width

    def _baseline(self, line: int) -> float:
        return self.top + (line * LINE + 1.05) * self.size

    def draw(self, frame: Frame) -> set[int]:
        """Let the artists show ``frame``; returns the lines on which something changed."""
        changed = set()
        written = join([None if s.open else frame.shown(i) for i, s in enumerate(frame.states)])
        for i, (block, text) in enumerate(zip(self.blocks, self.texts, strict=True)):
            state = frame.states[i] if i < len(frame.states) else None
            shown = split_piece(written[i])[1] if state else ""
            doubt = frame.doubt(i) if state is State.SETTLED else 0
            guess, shade = frame.guess(i) if state and state.open else ("", 0)
            if self._now[i] == (state, shown or guess, doubt or shade):
                continue
            self._now[i] = (state, shown or guess, doubt or shade)
            changed.add(self.layout.places[i].line)
            text.set_visible(bool(shown or shade))
            x, width = self._span(i, shown)
            text.set_x(self.left + x * self.size)
            if shown or shade:
                self._write(text, shown or guess, state, width, GUESS_COLOURS[shade])
            # A little short, so that neighbouring tokens stay apart.
            block.set_x(self.left + x * self.size + 0.5)
            block.set_width(max(width * self.size - 1.0, 1.0))
            look = tint(doubt) if doubt else BLOCKS.get(state)
            block.set_visible(look is not None and (state.open or bool(shown.strip())))
            if block.get_visible():
                block.set(**{"hatch": None} | look)
        return changed

    def repaint(self, canvas: FigureCanvasAgg, line: int) -> None:
        """Draw one line anew, the rest of the picture as it is: pictures in which little changes
        take a tenth of the time."""
        on_line = [i for i, place in enumerate(self.layout.places) if place.line == line]
        top = self._baseline(line) - 1.0 * self.size
        clear(canvas, self.left - 4, top, self.width + self.size, LINE * self.size)
        for artist in [self.blocks[i] for i in on_line] + [self.texts[i] for i in on_line]:
            artist.draw(canvas.get_renderer())

    def _write(self, artist: Text, text: str, state: State, room: float, colour: str = "") -> None:
        bold = state is State.GIVEN
        need = self.ruler.width(text, bold)
        scale = 1.0 if need <= room * 1.02 else max(SMALLEST_INSIDE, room / need)
        if need * scale > room * 1.02:
            text = self.ruler.clip(text, room / scale, bold)
        artist.set(
            text=text,
            color=colour or TEXT_COLOURS.get(state, INK),
            fontproperties=self.ruler.bold if bold else self.ruler.regular,
        )
        artist.set_fontsize(self.points * scale)


def fit(
    frames: Sequence[Frame], ruler: Ruler, width: float, height: float, size: float | None = None
) -> tuple[float, Layout]:
    """(font size in pixels, layout): the given size, or the largest with which all lines fit."""
    pieces = join(reserved_text(frames))
    bold = [state is State.GIVEN for state in frames[-1].states]
    bold += [False] * (len(pieces) - len(bold))
    rooms = passing_rooms(frames, pieces, ruler.width)
    if size is not None:
        return size, lay_out(pieces, bold, ruler.width, width / size, rooms)
    size = 30.0
    while True:
        layout = lay_out(pieces, bold, ruler.width, width / size, rooms)
        if layout.lines * LINE * size <= height or size <= 3:
            return size, layout
        size -= 0.5


def pixel_axes(figure) -> Axes:
    """An axes over the whole figure, in pixels from the top left, that draws nothing itself."""
    width, height = figure.get_size_inches() * figure.dpi
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return axes


def clear(canvas: FigureCanvasAgg, left: float, top: float, width: float, height: float) -> None:
    """Paint a rectangle of the drawn picture white, in pixels from the top left."""
    pixels = np.asarray(canvas.buffer_rgba())
    x, y = max(0, round(left)), max(0, round(top))
    pixels[y : max(0, round(top + height)), x : max(0, round(left + width))] = 255


def write(axes: Axes, x: float, y: float, text: str, size: float, ruler: Ruler, **style) -> Text:
    """One line of text with its baseline at (x, y), ``size`` in pixels, drawn as it is."""
    font = ruler.bold if style.pop("bold", False) else ruler.regular
    artist = Text(x, y, text, parse_math=False, usetex=False, fontproperties=font, **style)
    artist.set(fontsize=size * 72 / axes.figure.dpi, clip_on=False)
    return axes.add_artist(artist)


def draw_legend(axes: Axes, right: float, y: float, size: float, ruler: Ruler, film: Film) -> None:
    """What the looks of a film mean, in one line that ends at ``right`` on the baseline ``y``."""

    def swatch(x: float, width: float, look: dict) -> None:
        corner = (x, y - 0.9 * size)
        axes.add_patch(Rectangle(corner, width, 1.1 * size, clip_on=False, **look))

    x = right
    looks = list(labels(film.states).items())
    looks += [("guess", "guess of a mask")] if film.knows_guesses else []
    looks += [("tints", "less and less sure")] if film.knows_doubt else []
    for state, label in reversed([*looks, (None, f"{END_MARK} end")]):
        bold = state is State.GIVEN
        x -= ruler.width(label, bold) * size
        colour = FAINT if state in (State.NOISE, "guess") else INK
        write(axes, x, y, label, size, ruler, bold=bold, color=colour)
        if state == "tints":
            for step in (3, 2, 1):
                x -= 0.9 * size
                swatch(x - 0.4 * size, 0.9 * size, tint(step))
            x -= 0.4 * size
        elif state in BLOCKS:
            x -= 2 * size
            swatch(x, 1.6 * size, BLOCKS[state])
        x -= 1.4 * size
