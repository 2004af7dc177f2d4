"""Films drawn with matplotlib: a stage that shows them moment by moment, and a filmstrip for print.

Everything is placed in pixels from the top left corner of the figure. States differ by shape and
lightness before they differ by hue.
"""

import bisect
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from PIL import Image

from diffusion.errors import printable
from diffusion.views.film import Film, Moment
from diffusion.views.frames import END_MARK, Frame, State, legend
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
    lay_out,
    passing_rooms,
    reserved_text,
    split_piece,
)


def _block(face: str, edge: str, hatch: str | None = None) -> dict:
    return {"facecolor": face, "edgecolor": edge, "hatch": hatch}


# The block behind a position and its text colour (default INK), by `frames.KINDS`.
BLOCKS = {
    State.MASKED: _block(GREY, GREY),
    State.FRESH: _block(BLUE, BLUE),
    State.REMASKED: _block(PAPER, ORANGE, "/////"),
    State.REPLACED: _block(PAPER, BLUE),
    **{f"doubt{i}": _block(tint, tint) for i, tint in enumerate(TINTS, start=1)},
    **{f"guess{i}": _block(GREY, GREY) for i in (1, 2, 3)},
}
COLOURS = {State.FRESH: PAPER, State.NOISE: FAINT,
           "guess1": "#b8b8b8", "guess2": "#9c9c9c", "guess3": "#7a7a7a"}  # fmt: skip

BASE_FONT = "DejaVu Sans"  # comes with matplotlib
LINE = 1.45  # ems from one line to the next
WIDTH, HEIGHT, DPI = 1280, 720, 100
MARGIN, GUTTER = 40, 40
STATUS_LINE = HEIGHT - 64
TIME_LINE_HEIGHT, TIME_LINE_LABEL, TIME_LINE_VALUE = 26, 420, 90
STRIP_WIDTH, STRIP_HEIGHT, STRIP_DPI = 1400, 1900, 200  # 7 inches wide, a page high at most
STRIP_MARGIN, STRIP_GUTTER, STRIP_HEAD = 20, 50, 40


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
    missing -= _charmap(font_manager.findfont(BASE_FONT))
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

    @classmethod
    def of(cls, film: Film) -> "Ruler":
        """One for all that a film shows."""
        shown = {film.title, film.time_line.verdict if film.time_line else ""}
        shown.update(moment.note for moment in film.moments)
        for track in film.tracks:
            shown.add(track.name)
            shown.update(*(frame.pieces for frame in track.frames))
            shown.update(text for frame in track.frames for text, _ in filter(None, frame.guesses))
        return cls(printable("".join(shown)))

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
        fits = bisect.bisect_right(
            range(len(text)), width, key=lambda n: self.width(text[:n] + "…", bold)
        )
        return text[: max(0, fits - 1)] + "…"


class Sheet:
    """A figure whose one axes, all over it, is measured in pixels and draws nothing itself."""

    def __init__(self, film: Film, ruler: Ruler, size: tuple, dpi: int, figure=None):
        self.film, self.ruler = film, ruler
        self.width, self.height = size
        if figure is None:
            figure = Figure()
            FigureCanvasAgg(figure)
        figure.set(dpi=dpi, facecolor=PAPER)
        figure.set_size_inches(self.width / dpi, self.height / dpi)
        self.figure = figure
        self.axes = figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        self.axes.axis("off")

    def write(
        self, x: float, y: float, text: str, size: float, bold=False, room=math.inf, **style
    ) -> Text:
        """One line of text, drawn as it is and cut to ``room`` pixels, with its baseline at (x, y);
        ``size`` in pixels."""
        text = self.ruler.clip(printable(text).replace("\n", " "), room / size, bold)
        font = self.ruler.bold if bold else self.ruler.regular
        style = {"color": INK, "parse_math": False, "usetex": False, "clip_on": False} | style
        artist = Text(x, y, text, fontproperties=font, **style)
        artist.set_fontsize(size * 72 / self.figure.dpi)
        return self.axes.add_artist(artist)

    def block(self, x: float, y: float, width: float, height: float, **look) -> Rectangle:
        """A rectangle with the top left corner (x, y)."""
        return self.axes.add_patch(Rectangle((x, y), width, height, clip_on=False, **look))

    def legend(self, right: float, y: float, size: float) -> None:
        """What the looks of the film mean, in one line that ends at ``right`` on the baseline y."""
        x = right
        for kind, label in reversed(list(legend(self.film.kinds))):
            bold = kind is State.GIVEN
            label = f"{END_MARK} {label}" if kind == "end" else label
            x -= self.ruler.width(label, bold) * size
            self.write(x, y, label, size, bold, color=FAINT if kind is State.NOISE else INK)
            if kind == "doubt2":
                for step in (3, 2, 1):
                    x -= 0.9 * size
                    look = BLOCKS[f"doubt{step}"]
                    self.block(x - 0.4 * size, y - 0.9 * size, 0.9 * size, 1.1 * size, **look)
                x -= 0.4 * size
            elif kind in BLOCKS:
                x -= 2 * size
                self.block(x, y - 0.9 * size, 1.6 * size, 1.1 * size, **BLOCKS[kind])
                if kind == "guess2":
                    self.write(x + 0.2 * size, y, "abc", 0.7 * size, color=COLOURS[kind])
            x -= 1.4 * size

    def picture(self, draw: bool = True) -> Image.Image:
        """The figure as an RGB picture."""
        if draw:
            with quiet():
                self.figure.canvas.draw()
        return Image.fromarray(np.asarray(self.figure.canvas.buffer_rgba())[..., :3])

    def clear(self, left: float, top: float, width: float, height: float) -> None:
        """Paint a rectangle of the drawn picture white."""
        x, y = max(0, round(left)), max(0, round(top))
        pixels = np.asarray(self.figure.canvas.buffer_rgba())
        pixels[y : max(0, round(top + height)), x : max(0, round(left + width))] = 255


class Panel:
    """One generation inside a rectangle of a sheet.

    Args:
        rect: (left, top, width, height) in pixels.
        frames: all frames of the generation; they decide the layout.
        size: font size in pixels; None for the largest, up to 30, with which all lines fit.
    """

    def __init__(
        self,
        sheet: Sheet,
        rect: tuple[float, float, float, float],
        frames: Sequence[Frame],
        size: float | None = None,
    ):
        self.sheet, self.ruler = sheet, sheet.ruler
        self.left, self.top, self.width, height = rect
        self.size, self.layout = fit(frames, self.ruler, self.width, height, size)
        self.points = self.size * 72 / sheet.figure.dpi
        self.final = [split_piece(piece)[1] for piece in join(reserved_text(frames))]
        self._now: list[tuple] = [(None, "")] * len(self.layout.places)
        self.blocks, self.texts = [], []
        for place in self.layout.places:
            y, look = self._baseline(place.line), {"linewidth": 0.06 * self.points}
            block = sheet.block(0, y - 0.9 * self.size, 0, 1.2 * self.size, visible=False, **look)
            self.blocks.append(block)
            self.texts.append(sheet.write(0, y, "", self.size, visible=False))

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
            kind = frame.kind(i) if i < len(frame.states) else None
            is_open = kind is not None and frame.states[i].open
            shown = frame.drawn(i) if is_open else split_piece(written[i])[1] if kind else ""
            if self._now[i] == (kind, shown):
                continue
            self._now[i] = kind, shown
            changed.add(self.layout.places[i].line)
            x, width = self._span(i, "" if is_open else shown)
            text.set_visible(bool(shown))
            text.set_x(self.left + x * self.size)
            if shown:
                self._write(text, shown, kind, width)
            # A little short, so that neighbouring tokens stay apart.
            block.set_x(self.left + x * self.size + 0.5)
            block.set_width(max(width * self.size - 1.0, 1.0))
            block.set_visible(kind in BLOCKS and (is_open or bool(shown.strip())))
            if block.get_visible():
                block.set(**BLOCKS[kind])
        return changed

    def repaint(self, line: int) -> None:
        """Draw one line anew, the rest of the picture as it is: pictures in which little changes
        take a tenth of the time."""
        top = self._baseline(line) - self.size
        self.sheet.clear(self.left - 4, top, self.width + self.size, LINE * self.size)
        on_line = [i for i, place in enumerate(self.layout.places) if place.line == line]
        for artist in [self.blocks[i] for i in on_line] + [self.texts[i] for i in on_line]:
            artist.draw(self.sheet.figure.canvas.get_renderer())

    def _write(self, artist: Text, text: str, kind: str, room: float) -> None:
        bold = kind is State.GIVEN
        need = self.ruler.width(text, bold)
        scale = 1.0 if need <= room * 1.02 else max(SMALLEST_INSIDE, room / need)
        if need * scale > room * 1.02:
            text = self.ruler.clip(text, room / scale, bold)
        font = self.ruler.bold if bold else self.ruler.regular
        artist.set(text=text, color=COLOURS.get(kind, INK), fontproperties=font)
        artist.set_fontsize(self.points * scale)


def fit(
    frames: Sequence[Frame], ruler: Ruler, width: float, height: float, size: float | None = None
) -> tuple[float, Layout]:
    """(font size in pixels, layout): the given size, or the largest with which all lines fit."""
    pieces = join(reserved_text(frames))
    bold = [state is State.GIVEN for state in frames[-1].states]
    bold += [False] * (len(pieces) - len(bold))
    rooms = passing_rooms(frames, pieces, ruler.width)
    for each in [size] if size else np.arange(30, 2.5, -0.5):
        layout = lay_out(pieces, bold, ruler.width, width / each, rooms)
        if layout.lines * LINE * each <= height:
            break
    return each, layout


class Stage(Sheet):
    """A figure of 1280 x 720 pixels on which a film is shown moment by moment."""

    def __init__(self, film: Film, figure: Figure | None = None):
        super().__init__(film, Ruler.of(film), (WIDTH, HEIGHT), DPI, figure)
        self.drawn = False
        notes = max(map(self.ruler.width, {moment.note for moment in film.moments}))
        room = WIDTH - 2 * MARGIN - notes * 18 - 30
        self.write(MARGIN, 46, film.title, 22, bold=True, room=room)
        self.note = self.write(WIDTH - MARGIN, 46, "", 18, ha="right")
        named = any(track.name for track in film.tracks)
        top = (64 if film.title else 24) + (40 if named else 0)
        width = (WIDTH - 2 * MARGIN + GUTTER) / len(film.tracks) - GUTTER
        self.status_line = STATUS_LINE
        self.bars, self.verdict = [], None
        if film.time_line:
            self.status_line -= 8 + TIME_LINE_HEIGHT * len(film.tracks)
            self._draw_time_line()
        self.panels, self.lines = [], []
        for i, track in enumerate(film.tracks):
            left = MARGIN + i * (width + GUTTER)
            self.write(left, top - 12, track.name, 19, room=width)
            rect = (left, top, width, self.status_line - 36 - top)
            self.panels.append(Panel(self, rect, track.frames))
            size = 19 if len(film.tracks) == 1 else 16
            self.lines.append(self.write(left, self.status_line, "", size))
        # Smaller beside the verdict.
        self.legend(WIDTH - MARGIN, HEIGHT - 26, 13 if film.time_line else 16)

    def _draw_time_line(self) -> None:
        """A line for each track on one scale, with its end in seconds, and room for the verdict."""
        left = MARGIN + TIME_LINE_LABEL
        ends = self.film.time_line.ends
        self.longest = WIDTH - MARGIN - TIME_LINE_VALUE - left
        for i, (track, end) in enumerate(zip(self.film.tracks, ends, strict=True)):
            y = self.status_line + 32 + TIME_LINE_HEIGHT * i
            width = self.longest * self.film.time_line.filled(i, end)
            self.write(MARGIN, y, track.name, 15, room=TIME_LINE_LABEL - 20)
            self.write(left + width + 8, y, f"{end:.2f} s", 15)
            self.block(left, y - 12, width, 13, facecolor=GREY)
            self.bars.append(self.block(left, y - 12, 0, 13, facecolor=INK))
        self.verdict = self.write(MARGIN, HEIGHT - 24, "", 18, bold=True)

    def show(self, moment: Moment) -> list[set[int]]:
        """Let the figure show a moment, which its canvas then draws; returns the lines of each
        panel on which something changed."""
        self.note.set_text(moment.note)
        frames = self.film.frames(moment)
        for track, line, frame in zip(self.film.tracks, self.lines, frames, strict=True):
            line.set_text(track.status(frame))
        for i, bar in enumerate(self.bars):
            bar.set_width(self.longest * self.film.time_line.filled(i, moment.time))
        if self.verdict:
            final = moment is self.film.moments[-1]
            self.verdict.set_text(printable(self.film.time_line.verdict) if final else "")
        return [panel.draw(frame) for panel, frame in zip(self.panels, frames, strict=True)]

    def image(self, moment: Moment) -> Image.Image:
        """The moment as an RGB picture."""
        note = self.note.get_text()
        changed = self.show(moment)
        final = moment is self.film.moments[-1]  # with the verdict
        few = 2 * sum(map(len, changed)) < sum(panel.layout.lines for panel in self.panels)
        if final or not (self.drawn and few and self.ruler.plain and note == moment.note):
            self.drawn = True
            return self.picture()
        with quiet():
            self.clear(0, self.status_line - 24, WIDTH, 34)
            # A bar only grows, so it is drawn over itself.
            for artist in [*self.lines, *self.bars]:
                artist.draw(self.figure.canvas.get_renderer())
            for panel, lines in zip(self.panels, changed, strict=True):
                for line in lines:
                    panel.repaint(line)
        return self.picture(draw=False)


def palette() -> Image.Image:
    """The colours of the drawings and their blends with the paper: a fixed palette keeps still
    parts identical from frame to frame, which is what makes a GIF small."""
    colours = []
    for colour, shades in ((INK, 16), (BLUE, 12), (ORANGE, 8)):
        for k in range(shades):
            blend = k / shades
            colours += [round(255 * (c + (1 - c) * blend)) for c in to_rgb(colour)]
    for colour in (GREY, *TINTS, PAPER):
        colours += [round(255 * c) for c in to_rgb(colour)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return palette


def strip_moments(film: Film, count: int) -> list[Moment]:
    """Up to ``count`` moments with the first and the last: evenly spread, on a time line in time."""
    clocked = film.time_line is not None
    times = [m.time for m in film.moments] if clocked else range(len(film.moments))
    even = (k * times[-1] / max(1, count - 1) for k in range(count))
    # Half a tick of rounding must not lose the moment that is meant.
    return [
        film.moments[i] for i in sorted({bisect.bisect_right(times, t + 1e-9) - 1 for t in even})
    ]


def filmstrip(film: Film) -> Sheet:
    """A picture for print: 8 moments, or 6 where 8 would be too tall for a page, in reading order;
    two to a row for one track, a row each for several."""
    margin, clocked, ruler = STRIP_MARGIN, film.time_line is not None, Ruler.of(film)
    across = 2 if len(film.tracks) == 1 else len(film.tracks)
    column = (STRIP_WIDTH - 2 * margin + STRIP_GUTTER) / across - STRIP_GUTTER
    top = margin + (50 if film.title else 0) + (32 if clocked else 0)
    for count, size in ((8, 17), (6, 17), (6, 15), (6, 13), (6, 11)):
        lines = max(fit(t.frames, ruler, column, 0, size)[1].lines for t in film.tracks)
        row = STRIP_HEAD + lines * LINE * size + 2 * size
        moments = strip_moments(film, count)
        height = math.ceil(top + row * math.ceil(len(moments) * len(film.tracks) / across) + 50)
        if height <= STRIP_HEIGHT:
            break
    sheet = Sheet(film, ruler, (STRIP_WIDTH, height), STRIP_DPI)
    sheet.write(margin, margin + 24, film.title, 26, bold=True, room=STRIP_WIDTH - 2 * margin)
    if clocked:  # the names once, above; the verdict below
        for i, track in enumerate(film.tracks):
            x = margin + i * (column + STRIP_GUTTER)
            sheet.write(x, top - 8, track.name, 19, room=column)
        sheet.write(margin, height - 24, film.time_line.verdict, 17, bold=True)
    cells = [
        (track, frame, f"at {moment.time:.2f} s" if clocked else track.name)
        for moment in moments
        for track, frame in zip(film.tracks, film.frames(moment), strict=True)
    ]
    for i, (track, frame, name) in enumerate(cells):
        left = margin + (i % across) * (column + STRIP_GUTTER)
        y = top + (i // across) * row
        heading = " · ".join(filter(None, (name, track.status(frame))))
        sheet.write(left, y + 24, heading, 15 if clocked else 18, bold=True, room=column)
        sheet.axes.hlines(y + 34, left, left + column, color=INK, linewidth=0.5)
        rect = (left, y + STRIP_HEAD, column, row - STRIP_HEAD)
        Panel(sheet, rect, track.frames, size).draw(frame)
    sheet.legend(STRIP_WIDTH - margin, height - 24, 17)
    return sheet
