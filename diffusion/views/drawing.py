"""Films drawn with Pillow: a stage that shows them moment by moment, for GIF and MP4, and a filmstrip
for print.

Everything is placed in pixels from the top left corner of the picture. States differ by shape and
lightness before they differ by hue.
"""

import bisect
import itertools
import math
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from matplotlib import font_manager
from PIL import Image, ImageColor, ImageDraw, ImageFont

from diffusion.errors import UserError, printable
from diffusion.views import layout
from diffusion.views.film import Film, Moment, ticks
from diffusion.views.frames import END_MARK, Frame, State, legend
from diffusion.views.layout import BLUE, FAINT, GREY, INK, ORANGE, PAPER, TINTS, Place

# The block behind a position, (face, edge), and its text colour (default INK), by `frames.KINDS`.
BLOCKS = {
    State.MASKED: (GREY, GREY),
    State.FRESH: (BLUE, BLUE),
    State.REMASKED: (PAPER, ORANGE),  # and hatched
    State.REPLACED: (PAPER, BLUE),
    **{f"doubt{i}": (tint, tint) for i, tint in enumerate(TINTS, start=1)},
}
COLOURS = {State.FRESH: PAPER, State.NOISE: FAINT}

# The first comes with matplotlib; the others have what it lacks, where they are installed.
FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans Devanagari", "Arial Unicode MS", "Unifont")
LINE = 1.45  # ems from one line to the next
WIDTH, HEIGHT = 1280, 720
GIF_TICK = 0.02  # seconds; browsers slow anything shorter down to 0.1
MP4_FPS = 25
MARGIN, GUTTER = 40, 40
TIME_LINE, TIME_LEFT, TIME_LENGTH = 26, 460, 690
STRIP_MOMENTS, STRIP_SIZES = 8, (17, 15, 13, 11)
STRIP_WIDTH, STRIP_HEIGHT = 1400, 1900  # 7 inches wide at 200 dpi, a page high if that is possible
STRIP_MARGIN, STRIP_GUTTER, STRIP_HEAD = 20, 50, 40


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


@cache
def width_of(text: str, bold: bool = False) -> float:
    """The advance width of a text in ems, spaces at its ends included."""
    return font(frozenset(text), 100, bold).getlength(text) / 100


class Sheet:
    """A white picture, and the pen that draws on it."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGB", (width, height), PAPER)
        self.pen = ImageDraw.Draw(self.image)

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
        face, edge = BLOCKS[kind]
        box = [round(x), round(y), round(x + width), round(y + height)]
        self.pen.rectangle(box, face, edge)
        if kind is State.REMASKED:
            left, top, right, bottom = box
            hatched = self.image.crop(box)
            for k in range(top - bottom, right - left, 6):
                ImageDraw.Draw(hatched).line((k, bottom - top, k + bottom - top, 0), edge)
            self.image.paste(hatched, box[:2])

    def legend(self, kinds: set[str], right: float, y: float, size: float) -> None:
        """What the looks of a film mean, in one line that ends at ``right`` on the baseline y."""
        x, top, height = right, y - 0.9 * size, 1.1 * size
        for kind, label in reversed(list(legend(kinds))):
            bold = kind is State.GIVEN
            label = f"{END_MARK} {label}" if kind == "end" else label
            x -= width_of(label, bold) * size
            self.write(x, y, label, size, bold, colour=FAINT if kind is State.NOISE else INK)
            if kind in BLOCKS:
                shades = ("doubt1", "doubt2", "doubt3") if kind == "doubt2" else (kind,)
                x -= (0.9 * len(shades) + 0.8) * size
                for k, shade in enumerate(shades):
                    self.block(x + 0.9 * k * size, top, 1.3 * size, height, shade)
            x -= 1.4 * size


class Panel:
    """One generation inside a rectangle of a sheet.

    Args:
        rect: (left, top, width, height) in pixels.
        frames: all frames of the generation; they decide the layout.
        size: font size in pixels; None for the largest, up to 30, with which all lines fit.
    """

    def __init__(self, rect: tuple, frames: Sequence[Frame], size: float | None = None):
        self.left, self.top, width, height = rect
        self.size, self.places = fit(frames, width, height, size)

    def draw(self, sheet: Sheet, frame: Frame) -> None:
        """Draw a frame on a sheet."""
        for i, place in enumerate(self.places[: len(frame.states)]):
            kind, text = frame.kind(i), layout.split_piece(frame.shown(i))[1]
            bold, colour = kind is State.GIVEN, COLOURS.get(kind, INK)
            x, y = self.left + place.x * self.size, self.top + place.line * LINE * self.size
            if kind in BLOCKS and (text.strip() or frame.states[i].open):
                # A little short, so that neighbouring tokens stay apart.
                width = max(1.0, place.width * self.size - 2)
                sheet.block(x + 0.5, y + 0.15 * self.size, width, 1.2 * self.size, kind)
            scale = min(1.0, place.width / max(width_of(text, bold), 1e-9))
            size = round(self.size * scale, 1)
            sheet.write(x, y + 1.05 * self.size, text, size, bold, colour=colour)


def fit(
    frames: Sequence[Frame], width: float, height: float, size: float | None = None
) -> tuple[float, list[Place]]:
    """(font size in pixels, places): the given size, or the largest with which all lines fit."""
    pieces, seen = layout.reserved(frames)
    bold = {i for i, state in enumerate(frames[-1].states) if state is State.GIVEN}
    rooms = [layout.SMALLEST * max(map(width_of, texts), default=0.0) for texts in seen]
    for each in [size] if size else (30 - step / 2 for step in range(55)):
        places = layout.lay_out(
            pieces, lambda i, text: width_of(text, i in bold), width / each, rooms
        )
        if (places[-1].line + 1) * LINE * each <= height:
            break
    return each, places


class Stage:
    """A picture of 1280 x 720 pixels for each moment of a film."""

    def __init__(self, film: Film):
        self.film, self.sheet, self.panels = film, Sheet(WIDTH, HEIGHT), []
        write, count = self.sheet.write, len(film.tracks)
        note = WIDTH - MARGIN - width_of(printable(film.note)) * 18
        write(MARGIN, 46, film.title, 22, bold=True, room=note - MARGIN - 30)
        write(note, 46, film.note, 18)
        self.status_line = HEIGHT - (72 + TIME_LINE * count if film.ends else 64)
        top = (64 if film.title else 24) + (40 if any(track.name for track in film.tracks) else 0)
        width = (WIDTH - 2 * MARGIN + GUTTER) / count - GUTTER
        for i, track in enumerate(film.tracks):
            left = MARGIN + i * (width + GUTTER)
            write(left, top - 12, track.name, 19, room=width)
            rect = (left, top, width, self.status_line - 36 - top)
            self.panels.append(Panel(rect, track.frames))
        for i, end in enumerate(film.ends):
            y = self.status_line + 32 + TIME_LINE * i
            write(MARGIN, y, film.tracks[i].name, 15, room=TIME_LEFT - MARGIN - 20)
            write(TIME_LEFT + TIME_LENGTH * film.filled(i) + 8, y, f"{end:.2f} s", 15)
        # Smaller beside the verdict.
        self.sheet.legend(film.kinds, WIDTH - MARGIN, HEIGHT - 26, 13 if film.ends else 16)
        self._empty = self.sheet.image.copy()

    def image(self, moment: Moment) -> Image.Image:
        """The moment as an RGB picture."""
        film, sheet = self.film, self.sheet
        sheet.image.paste(self._empty)
        for track, panel, frame in zip(film.tracks, self.panels, film.frames(moment), strict=True):
            panel.draw(sheet, frame)
            sheet.write(panel.left, self.status_line, track.status(frame), 16)
        for i, end in enumerate(film.ends):  # on one scale: the line of the slowest is the longest
            y = self.status_line + 20 + TIME_LINE * i
            for time, colour in ((end, GREY), (moment.time, INK)):
                right = TIME_LEFT + TIME_LENGTH * film.filled(i, time)
                sheet.pen.rectangle((TIME_LEFT, y, right, y + 13), colour)
        if moment is film.moments[-1]:
            sheet.write(MARGIN, HEIGHT - 24, film.verdict, 18, bold=True)
        return sheet.image.copy()


def palette() -> Image.Image:
    """The colours of the drawings and their blends with the paper: a fixed palette keeps still
    parts identical from frame to frame, which is what makes a GIF small."""
    colours = []
    for colour, shades in ((INK, 16), (BLUE, 12), (ORANGE, 8)):
        for k in range(shades):
            rgb = ImageColor.getrgb(colour)
            colours += [round(c + (255 - c) * k / shades) for c in rgb]
    for colour in (GREY, *TINTS, PAPER):
        colours += ImageColor.getrgb(colour)
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return palette


def _pictures(film: Film, tick: float, on_progress: Callable[[int, int], None]):
    """(picture, number of ticks) for each moment that a tick falls on."""
    stage, paced = Stage(film), ticks(film, tick)
    for done, (moment, count) in enumerate(paced, start=1):
        yield stage.image(moment), count
        on_progress(done, len(paced))


def write_gif(film: Film, path: Path, on_progress: Callable[[int, int], None]) -> None:
    """A GIF, see `film.save_film`."""
    colours, drawn = palette(), _pictures(film, GIF_TICK, on_progress)
    pictures = (picture.quantize(palette=colours, dither=0) for picture, _ in drawn)
    durations = [round(count * GIF_TICK * 1000) for _, count in ticks(film, GIF_TICK)]
    next(pictures).save(path, save_all=True, append_images=pictures, duration=durations, loop=0)


def write_mp4(film: Film, path: Path, on_progress: Callable[[int, int], None]) -> None:
    """An MP4, see `film.save_film`."""
    command = ["ffmpeg", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{WIDTH}x{HEIGHT}", "-r", str(MP4_FPS), "-i", "-"]
    command += ["-pix_fmt", "yuv420p", str(path)]  # the colours that players can show
    with subprocess.Popen(command, stdin=subprocess.PIPE) as ffmpeg:
        for picture, count in _pictures(film, 1 / MP4_FPS, on_progress):
            for _ in range(count):
                ffmpeg.stdin.write(picture.tobytes())
    if ffmpeg.returncode:
        raise UserError("ffmpeg could not write the animation; write a .gif or .html instead")


def strip_moments(film: Film) -> list[Moment]:
    """Up to 8 moments with the first and the last: evenly spread, on a time line in time."""
    times = [m.time for m in film.moments] if film.ends else range(len(film.moments))
    even = (k * times[-1] / (STRIP_MOMENTS - 1) for k in range(STRIP_MOMENTS))
    # Half a tick of rounding must not lose the moment that is meant.
    return [
        film.moments[i] for i in sorted({bisect.bisect_right(times, t + 1e-9) - 1 for t in even})
    ]


def filmstrip(film: Film) -> Image.Image:
    """A picture for print: 8 moments in reading order, two to a row for one track, a row each for
    several, in the largest type with which they fit a page."""
    margin, moments = STRIP_MARGIN, strip_moments(film)
    across = max(2, len(film.tracks))
    column = (STRIP_WIDTH - 2 * margin + STRIP_GUTTER) / across - STRIP_GUTTER
    named = any(track.name for track in film.tracks)
    top = margin + (50 if film.title else 0) + (32 if named else 0)
    for size in STRIP_SIZES:
        lines = max(fit(track.frames, column, 0, size)[1][-1].line + 1 for track in film.tracks)
        row = STRIP_HEAD + lines * LINE * size + 2 * size
        height = math.ceil(top + row * math.ceil(len(moments) * len(film.tracks) / across) + 50)
        if height <= STRIP_HEIGHT:
            break
    sheet = Sheet(STRIP_WIDTH, height)
    sheet.write(margin, margin + 24, film.title, 26, bold=True, room=STRIP_WIDTH - 2 * margin)
    for i, track in enumerate(film.tracks):
        left = margin + i * (column + STRIP_GUTTER)
        sheet.write(left, top - 8, track.name, 19, room=column)
    shown = (zip(film.tracks, film.frames(moment), strict=True) for moment in moments)
    for i, (track, frame) in enumerate(itertools.chain(*shown)):
        left = margin + (i % across) * (column + STRIP_GUTTER)
        y = top + (i // across) * row
        sheet.write(left, y + 24, track.status(frame), 15, bold=True, room=column)
        sheet.pen.line((left, y + 34, left + column, y + 34), INK)
        Panel((left, y + STRIP_HEAD, column, row), track.frames, size).draw(sheet, frame)
    sheet.write(margin, height - 24, film.verdict, 17, bold=True)
    sheet.legend(film.kinds, STRIP_WIDTH - margin, height - 24, 17)
    return sheet.image
