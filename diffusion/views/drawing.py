"""Films drawn with Pillow: a stage that shows them moment by moment, for GIF and MP4, and a filmstrip
for print.

Everything is placed in pixels from the top left corner of the picture. States differ by shape and
lightness before they differ by hue.
"""

import bisect
import itertools
import math
import unicodedata
from collections.abc import Sequence
from functools import cache

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from diffusion.errors import printable
from diffusion.views import layout
from diffusion.views.film import Film, Moment
from diffusion.views.frames import Frame, State, legend
from diffusion.views.layout import BLUE, FAINT, GREY, INK, ORANGE, PAPER, TINTS

# The block behind a position, (face, edge), and its text colour (default INK), by `frames.KINDS`.
BLOCKS = {
    State.MASKED: (GREY, GREY),
    State.FRESH: (BLUE, BLUE),
    State.REMASKED: (PAPER, ORANGE),  # and empty
    State.REPLACED: (PAPER, BLUE),
    **{f"doubt{i}": (tint, tint) for i, tint in enumerate(TINTS, start=1)},
}
COLOURS = {State.FRESH: PAPER, State.NOISE: FAINT}

# The first comes with matplotlib; the others have what it lacks, where they are installed.
FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans Devanagari", "Arial Unicode MS", "Unifont")
LINE = 1.45  # ems from one line to the next
WIDTH, HEIGHT = 1280, 720  # of a film; one whose text needs less is less high
MARGIN, GUTTER = 40, 40
TIME_LINE, TIME_LEFT, TIME_LENGTH = 26, 460, 690
SIZES = [30 - step / 2 for step in range(55)]  # of the type, from the largest
STRIP_MOMENTS, STRIP_SIZES = 8, (17, 15, 13, 11)
STRIP_WIDTH, STRIP_HEIGHT = 1400, 1900  # 7 inches wide at 200 dpi, a page high if that is possible
STRIP_HEAD = 40  # pixels of a status line above each moment


@cache
def _characters() -> dict[str, frozenset[int]]:
    """Those of each of `FONTS` that is installed."""
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    found = {name: font_manager.findfont(name) for name in FONTS if name in installed}
    return {name: frozenset(font_manager.get_font(p).get_charmap()) for name, p in found.items()}


@cache
def font(characters: frozenset[str], size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that has most of some characters, ``size`` pixels high."""
    codes, has = {ord(char) for char in characters}, _characters()
    name = min(has, key=lambda name: len(codes - has[name]))
    style = font_manager.FontProperties(family=name, weight="bold" if bold else "normal")
    return ImageFont.truetype(font_manager.findfont(style), size)


def undrawn(film: Film) -> str:
    """The characters of the finished texts that no installed font has."""
    text = {char for track in film.tracks for char in track.frames[-1].text}
    known = frozenset().union(*_characters().values())
    unknown = (char for char in text if ord(char) not in known)
    return "".join(sorted(char for char in unknown if unicodedata.category(char)[0] not in "CZ"))


@cache
def width_of(text: str, bold: bool = False) -> float:
    """The advance width of a text in ems, spaces at its ends included."""
    return font(frozenset(text), 100, bold).getlength(text) / 100


class Sheet:
    """A white picture in columns, and the pen that draws on it."""

    def __init__(self, width: int, height: int, columns: int = 1):
        self.image = Image.new("RGB", (width, height), PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self.columns, self.column = columns, (width - 2 * MARGIN + GUTTER) / columns - GUTTER

    def left(self, i: int) -> float:
        """Where the column of the i-th of the things that fill rows begins."""
        return MARGIN + i % self.columns * (self.column + GUTTER)

    def write(self, x, y, text: str, size: float, bold=False, room=math.inf, colour=INK) -> None:
        """One line of text, cut to ``room`` pixels, with its baseline at (x, y)."""
        text = printable(text).replace("\n", " ")
        if width_of(text, bold) * size > room:
            ends = range(1, len(text))
            fits = bisect.bisect(ends, room / size, key=lambda n: width_of(text[:n] + "…", bold))
            text = text[:fits] + "…"
        self.pen.text((x, y), text, colour, font(frozenset(text), size, bold), anchor="ls")

    def block(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """The rectangle of a kind of position, with the top left corner (x, y)."""
        box = [round(x), round(y), round(x + width), round(y + height)]
        self.pen.rectangle(box, *BLOCKS[kind], width=2)

    def names(self, film: Film, y: float) -> None:
        """The names of the tracks above their columns."""
        for i, track in enumerate(film.tracks):
            self.write(self.left(i), y, track.name, 19, room=self.column)

    def legend(self, kinds: set[str], size: float) -> None:
        """What the looks of a film mean, in one line that ends in the corner at the bottom right."""
        width, height = self.image.size
        x, y = width - MARGIN - 0.4 * size, height - 26
        for kind, label in reversed(list(legend(kinds))):
            bold = kind is State.GIVEN
            room = width_of(label, bold) * size
            x -= room
            if kind in BLOCKS:
                self.block(x - 0.4 * size, y - 1.1 * size, room + 0.8 * size, 1.5 * size, kind)
            self.write(x, y, label, size, bold, colour=COLOURS.get(kind, INK))
            x -= 1.5 * size


class Panel:
    """The layout of one generation in a rectangle.

    Args:
        frames: all frames of the generation; they decide the layout.
        width, height: of the rectangle, in pixels.
        sizes: font sizes in pixels; the first with which all lines fit is taken, or the last.
    """

    def __init__(self, frames: Sequence[Frame], width: float, height: float, sizes=SIZES):
        pieces, seen = layout.reserved(frames)
        bold = {i for i, state in enumerate(frames[-1].states) if state is State.GIVEN}
        rooms = [layout.SMALLEST * max(map(width_of, texts), default=0.0) for texts in seen]
        for self.size in sizes:
            self.places = layout.lay_out(
                pieces, lambda i, text: width_of(text, i in bold), width / self.size, rooms
            )
            self.height = (self.places[-1].line + 1) * LINE * self.size
            if self.height <= height:
                break

    def draw(self, sheet: Sheet, frame: Frame, left: float, top: float) -> None:
        """Draw a frame on a sheet, its top left corner at (left, top)."""
        for i, place in enumerate(self.places[: len(frame.states)]):
            kind, text = frame.kind(i), layout.split_piece(frame.shown(i))[1]
            bold, colour = kind is State.GIVEN, COLOURS.get(kind, INK)
            x, y = left + place.x * self.size, top + place.line * LINE * self.size
            if kind in BLOCKS and (text.strip() or frame.states[i].open):
                # A little short, so that neighbouring tokens stay apart.
                width = max(1.0, place.width * self.size - 2)
                sheet.block(x + 0.5, y + 0.15 * self.size, width, 1.2 * self.size, kind)
            scale = min(1.0, place.width / max(width_of(text, bold), 1e-9))
            size = round(self.size * scale, 1)
            sheet.write(x, y + 1.05 * self.size, text, size, bold, colour=colour)


class Stage:
    """A picture for each moment of a film, 1280 pixels wide and as high as its text needs, at most 720."""

    def __init__(self, film: Film):
        self.top = (64 if film.title else 24) + (40 if any(t.name for t in film.tracks) else 0)
        below = 36 + 72 + TIME_LINE * len(film.ends)
        column = Sheet(WIDTH, HEIGHT, len(film.tracks)).column
        room = HEIGHT - self.top - below
        self.panels = [Panel(track.frames, column, room) for track in film.tracks]
        height = self.top + min(room, max(panel.height for panel in self.panels)) + below
        height = 2 * math.ceil(height / 2)  # players of MP4 want an even number
        self.film, self.sheet = film, Sheet(WIDTH, height, len(film.tracks))
        sheet, write = self.sheet, self.sheet.write
        note = WIDTH - MARGIN - width_of(printable(film.note)) * 18
        write(MARGIN, 46, film.title, 22, bold=True, room=note - MARGIN - 30)
        write(note, 46, film.note, 18)
        self.status_line = height - (72 + TIME_LINE * len(film.ends))
        sheet.names(film, self.top - 12)
        for i, end in enumerate(film.ends):
            y = self.status_line + 32 + TIME_LINE * i
            write(MARGIN, y, film.tracks[i].name, 15, room=TIME_LEFT - MARGIN - 20)
            write(TIME_LEFT + TIME_LENGTH * film.filled(i) + 8, y, f"{end:.2f} s", 15)
        sheet.legend(film.kinds, 13 if film.ends else 16)  # smaller beside the verdict
        self._empty = sheet.image.copy()

    def image(self, moment: Moment) -> Image.Image:
        """The moment as an RGB picture."""
        film, sheet = self.film, self.sheet
        sheet.image.paste(self._empty)
        for i, frame in enumerate(film.frames(moment)):
            self.panels[i].draw(sheet, frame, sheet.left(i), self.top)
            sheet.write(sheet.left(i), self.status_line, film.tracks[i].status(frame), 16)
        for i, end in enumerate(film.ends):  # on one scale: the line of the slowest is the longest
            y = self.status_line + 20 + TIME_LINE * i
            for time, colour in ((end, GREY), (moment.time, INK)):
                right = TIME_LEFT + TIME_LENGTH * film.filled(i, time)
                sheet.pen.rectangle((TIME_LEFT, y, right, y + 13), colour)
        if moment is film.moments[-1]:
            sheet.write(MARGIN, sheet.image.height - 24, film.verdict, 18, bold=True)
        return sheet.image.copy()


def strip_moments(film: Film) -> list[Moment]:
    """Up to 8 moments with the first and the last: evenly spread, on a time line in time."""
    times = [m.time for m in film.moments] if film.ends else range(len(film.moments))
    even = (k * times[-1] / (STRIP_MOMENTS - 1) for k in range(STRIP_MOMENTS))
    # Half a tick of rounding must not lose the moment that is meant.
    chosen = {bisect.bisect_right(times, t + 1e-9) - 1 for t in even}
    return [film.moments[i] for i in sorted(chosen)]


def filmstrip(film: Film) -> Image.Image:
    """A picture for print: 8 moments in reading order, two to a row for one track, a row each for
    several, in the largest type with which they fit a page."""
    moments = strip_moments(film)
    sheet = Sheet(STRIP_WIDTH, STRIP_HEIGHT, max(2, len(film.tracks)))
    rows = math.ceil(len(moments) * len(film.tracks) / sheet.columns)
    top = MARGIN + (40 if film.title else 0) + (32 if any(t.name for t in film.tracks) else 0)
    for size in STRIP_SIZES:
        panels = [Panel(track.frames, sheet.column, 0, [size]) for track in film.tracks]
        row = STRIP_HEAD + max(panel.height for panel in panels) + 2 * size
        height = math.ceil(top + row * rows + 50)
        if height <= STRIP_HEIGHT:
            break
    sheet = Sheet(STRIP_WIDTH, height, sheet.columns)
    sheet.write(MARGIN, MARGIN + 14, film.title, 26, bold=True, room=STRIP_WIDTH - 2 * MARGIN)
    sheet.names(film, top - 8)
    shown = (zip(film.tracks, panels, film.frames(m), strict=True) for m in moments)
    for i, (track, panel, frame) in enumerate(itertools.chain(*shown)):
        left, y = sheet.left(i), top + i // sheet.columns * row
        sheet.write(left, y + 24, track.status(frame), 14, room=sheet.column)
        sheet.pen.line((left, y + 34, left + sheet.column, y + 34), INK)
        panel.draw(sheet, frame, left, y + STRIP_HEAD)
    sheet.write(MARGIN, height - 24, film.verdict, 17, bold=True)
    sheet.legend(film.kinds, 15)
    return sheet.image
