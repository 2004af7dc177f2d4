"""Frames drawn with matplotlib: fonts, a layout that never moves, and panels that use it.

Everything is placed in pixels from the top left corner of the figure. A layout is computed once
per generation from the text it ends with, so each position keeps its place from first mask to last
word. States differ by shape and lightness before they differ by hue.
"""

import logging
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from diffusion.views.frames import END_MARK, Frame, State

INK, PAPER, GREY, BLUE, ORANGE = "#1a1a1a", "#ffffff", "#d4d4d4", "#14558f", "#b34700"

# State -> the block behind it, if any, and its text colour.
BLOCKS = {
    State.MASKED: {"facecolor": GREY, "edgecolor": GREY},
    State.FRESH: {"facecolor": BLUE, "edgecolor": BLUE},
    State.REMASKED: {"facecolor": PAPER, "edgecolor": ORANGE, "hatch": "/////"},
}
TEXT_COLOURS = {State.GIVEN: INK, State.FRESH: PAPER, State.SETTLED: INK}
LABELS = {
    State.GIVEN: "given",
    State.MASKED: "masked",
    State.FRESH: "just revealed",
    State.SETTLED: "settled",
    State.REMASKED: "re-masked",
}


def tint(doubt: int) -> dict:
    """The block behind a settled token."""
    return {"facecolor": TINTS[doubt], "edgecolor": TINTS[doubt]}


BASE_FONT = "DejaVu Sans"  # comes with matplotlib
UNKNOWN = " word"  # gives its width to a position that never shows text
LINE = 1.45  # ems from one line to the next
# How far a token that is replaced later shrinks: at the end of a word, where the place of the final
# token can be made wider for it, and inside one, where a wider place would part the word.
SMALLEST_TEXT, SMALLEST_INSIDE = 0.8, 0.6
# Settled tokens by `Frame.doubt`: tinted more, the less sure the model was.
TINTS = ("", "#f6eff9", "#eadbf1", "#dbc0e6")


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
        while text and self.width(text + "…", bold) > width:
            text = text[:-1]
        return text + "…"


@dataclass
class Place:
    """Where a position stands, in ems; ``line`` counts from 0. The text of a character that is
    spread over several tokens covers the blocks of all of them."""

    line: int = 0
    x: float = 0.0
    width: float = 0.0
    text_x: float = 0.0
    text_width: float = 0.0


@dataclass
class Layout:
    """The places of all positions at one line width, and the number of lines."""

    places: list[Place]
    lines: int


def reserved_text(frames: Sequence[Frame]) -> list[str]:
    """The string whose room each position gets (L of the longest frame): its final text, or where
    the final frame shows none (masked, or after the end) the last that was shown."""
    final = frames[-1]
    cut = final.ends[-1] if final.ends else len(final.pieces)
    out = []
    for i in range(max(len(frame.pieces) for frame in frames)):
        if i <= cut and i < len(final.pieces) and not final.states[i].open:
            out.append(final.shown(i))
        else:
            shown = (f.shown(i) for f in reversed(frames) if i < len(f.pieces))
            out.append(next((text for text in shown if text), UNKNOWN))
    return out


def join(pieces: list[str | None]) -> list[str]:
    """Move what must be drawn in one go (a letter and its marks, letters of a script that is
    written from the right) to the last of its positions; None, an open position, parts."""
    out = ["" if piece is None else piece for piece in pieces]
    last = None  # the position of the text that stands directly before
    for i, piece in enumerate(pieces):
        if piece is None:
            last = None
        elif piece:
            if last is not None and _drawn_together(out[last][-1], piece[0]):
                out[last], out[i] = "", out[last] + piece
            last = i
    return out


def _drawn_together(before: str, after: str) -> bool:
    joiner = "\N{ZERO WIDTH JOINER}"
    marks = unicodedata.category(after) in ("Mn", "Mc", "Me") or joiner in (before, after)
    virama = unicodedata.combining(before) == 9
    from_right = all(unicodedata.bidirectional(c) in ("R", "AL", "NSM") for c in (before, after))
    return marks or virama or from_right


def _is_wide(char: str) -> bool:
    return bool(char) and unicodedata.east_asian_width(char) in "WF"


def _starts_word(previous: str, piece: str) -> bool:
    """Whether a line may break between two pieces."""
    return (
        piece[:1].isspace()
        or previous[-1:].isspace()
        or _is_wide(piece[:1])
        or _is_wide(previous[-1:])
    )


def passing_rooms(frames: Sequence[Frame], pieces: list[str], ruler: Ruler) -> list[float]:
    """The ems that each position must have so that tokens which are replaced later can be read."""
    seen: list[set[str]] = [set() for _ in pieces]
    for frame in frames:
        for i, state in enumerate(frame.states):
            if not state.open:
                seen[i].add(split_piece(frame.shown(i))[1])
    out = []
    for texts, piece, after in zip(seen, pieces, [*pieces[1:], " "], strict=True):
        share = SMALLEST_TEXT if _starts_word(piece, after) else SMALLEST_INSIDE
        out.append(share * max(map(ruler.width, texts), default=0.0))
    return out


def lay_out(
    pieces: list[str], bold: list[bool], ruler: Ruler, width: float, rooms: Sequence[float] = ()
) -> Layout:
    """Break ``pieces`` into lines of ``width`` ems: between words, inside one only if it is wider
    than a line. A piece takes at least ``rooms`` ems."""

    def room_of(i: int, core: str) -> float:
        return max(ruler.width(core, bold[i]), rooms[i] if rooms else 0.0) if core else 0.0

    words: list[list[int]] = []
    empty: list[int] = []  # the first bytes of a character: they go where the character goes
    previous = ""
    for i, piece in enumerate(pieces):
        if not piece:
            empty.append(i)
            continue
        if not words or _starts_word(previous, piece):
            words.append([])
        words[-1] += [*empty, i]
        empty, previous = [], piece
    words.append(empty)

    places = [Place() for _ in pieces]
    line, x = 0, 0.0
    for word in words:
        parts = {i: split_piece(pieces[i]) for i in word}
        need = sum(
            ruler.width(lead, bold[i]) + room_of(i, core) for i, (lead, core, _) in parts.items()
        )
        wrapped = x > 0 and x + need > width
        waiting: list[int] = []  # positions whose character ends at a later position
        for i, (lead, core, breaks) in parts.items():
            room = min(room_of(i, core), width)
            gap = ruler.width(lead, bold[i]) if lead and i > 0 else 0.0
            if wrapped or (x > 0 and x + gap + room > width and core):
                line, x, gap = line + 1, 0.0, 0.0
            wrapped = False
            x += gap
            if core:
                sharers = [*waiting, i]
                for k, j in enumerate(sharers):
                    part = room / len(sharers)
                    places[j] = Place(line, x + k * part, part, x, room)
                waiting = []
            else:
                # Nothing but a line break, or the first bytes of a character: a block that takes
                # no room.
                places[i] = Place(line, x, 0.6, x, 0.6)
                waiting.append(i)
            x += room if core else 0.0
            if breaks:
                line, x, waiting = line + breaks, 0.0, []
    return Layout(places, line + 1)


def split_piece(piece: str) -> tuple[str, str, int]:
    """(leading spaces, text, line breaks after it). Breaks inside a token, which byte-level BPE
    does not have, become a visible arrow."""
    core = piece.strip(" \n")
    if not core:
        breaks = piece.count("\n")
        return ("", "", breaks) if breaks else ("", piece, 0)
    lead = piece[: len(piece) - len(piece.lstrip(" "))]
    tail = piece[len(piece.rstrip("\n")) :]
    return lead, piece[len(lead) : len(piece) - len(tail)].replace("\n", "↵"), len(tail)


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
            if self._now[i] == (state, shown, doubt):
                continue
            self._now[i] = (state, shown, doubt)
            changed.add(self.layout.places[i].line)
            text.set_visible(bool(shown))
            x, width = self._span(i, shown)
            text.set_x(self.left + x * self.size)
            if shown:
                self._write(text, shown, state, width)
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

    def _write(self, artist: Text, text: str, state: State, room: float) -> None:
        bold = state is State.GIVEN
        need = self.ruler.width(text, bold)
        scale = 1.0 if need <= room * 1.02 else max(SMALLEST_INSIDE, room / need)
        if need * scale > room * 1.02:
            text = self.ruler.clip(text, room / scale, bold)
        artist.set(
            text=text,
            color=TEXT_COLOURS[state],
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
    rooms = passing_rooms(frames, pieces, ruler)
    if size is not None:
        return size, lay_out(pieces, bold, ruler, width / size, rooms)
    size = 30.0
    while True:
        layout = lay_out(pieces, bold, ruler, width / size, rooms)
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


def draw_legend(axes: Axes, right: float, y: float, size: float, ruler: Ruler, doubt: bool) -> None:
    """What the looks mean, in one line that ends at ``right`` on the baseline ``y``; with
    ``doubt`` also what the tints do."""

    def swatch(x: float, width: float, look: dict) -> None:
        corner = (x, y - 0.9 * size)
        axes.add_patch(Rectangle(corner, width, 1.1 * size, clip_on=False, **look))

    x = right
    looks = [*LABELS.items(), *([("tints", "less and less sure")] if doubt else [])]
    for state, label in reversed([*looks, (None, f"{END_MARK} end")]):
        bold = state is State.GIVEN
        x -= ruler.width(label, bold) * size
        write(axes, x, y, label, size, ruler, bold=bold, color=INK)
        if state == "tints":
            for step in (3, 2, 1):
                x -= 0.9 * size
                swatch(x - 0.4 * size, 0.9 * size, tint(step))
            x -= 0.4 * size
        elif state in BLOCKS:
            x -= 2 * size
            swatch(x, 1.6 * size, BLOCKS[state])
        x -= 1.4 * size
