"""Frames -> an animation file (GIF, MP4, HTML), a filmstrip (PNG) or a window.

A `Film` holds one or more tracks side by side and the moments at which something changes, so the
same exports serve one generation and a comparison of two. Nothing here needs a display except
`show_animation`, and matplotlib is imported only when something is drawn.
"""

from __future__ import annotations

import bisect
import math
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion.errors import UserError
from diffusion.views.film import Film, Moment, film_of, ticks
from diffusion.views.frames import Frame, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


FORMATS = (".gif", ".mp4", ".html", ".png")
WIDTH, HEIGHT, DPI = 1280, 720, 100
MARGIN = 40
STATUS_LINE = HEIGHT - 64
TIME_LINE_HEIGHT, TIME_LINE_LABEL, TIME_LINE_VALUE = 26, 420, 90
GIF_TICK = 0.02  # seconds; browsers slow anything shorter down to 0.1
MP4_FPS = 25
STRIP_WIDTH, STRIP_HEIGHT, STRIP_DPI = 1400, 1900, 200  # 7 inches wide, a page high at most

Progress = Callable[[int, int], None]  # (pictures done, pictures in all)


def check_animation_path(path: str | os.PathLike) -> None:
    """Raise `UserError` if no animation can be written to ``path``. For the start of a script,
    before any work; imports nothing heavy and writes nothing."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        what = f"the ending {path.suffix!r}" if suffix else "no ending"
        raise UserError(f"{path}: {what}; an animation ends in one of {', '.join(FORMATS)}.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file.")
    if not path.parent.is_dir():
        raise UserError(f"The folder {path.parent} does not exist; create it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"The folder {path.parent} is not writable; choose another.")
    if suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise UserError(
            f"{path}: writing MP4 needs the program ffmpeg, which is not installed; "
            "install it or write a .gif or .html."
        )


def save_animation(
    frames: Sequence[Frame],
    path: str | os.PathLike,
    *,
    title: str = "",
    fps: float | None = None,
    slowdown: float | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Write the frames of one generation in the format that the ending of ``path`` names; for
    ``fps`` and ``slowdown`` see `film_of`."""
    save_film(film_of(frames, title, fps, slowdown), path, on_progress)


def save_film(film: Film, path: str | os.PathLike, on_progress: Progress | None = None) -> None:
    """Write a film. The file appears under its name when it is complete, never before."""
    check_animation_path(path)
    writer = {".gif": _gif, ".mp4": _mp4, ".html": _html, ".png": _png}[Path(path).suffix.lower()]
    with _atomic(Path(path)) as unfinished:
        writer(film, unfinished, on_progress or (lambda done, total: None))


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    unfinished = path.with_name(f".{secrets.token_hex(8)}{path.suffix.lower()}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        unfinished.unlink(missing_ok=True)


class Stage:
    """A figure of 1280 x 720 pixels on which a film is shown moment by moment."""

    def __init__(self, film: Film, figure: Figure | None = None):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        from diffusion.views import drawing

        self.film = film
        self.drawn = False
        if figure is None:
            figure = Figure()
            FigureCanvasAgg(figure)
        figure.set(dpi=DPI, facecolor=drawing.PAPER)
        figure.set_size_inches(WIDTH / DPI, HEIGHT / DPI)
        self.figure = figure
        axes = drawing.pixel_axes(figure)
        self.ruler = _ruler(film)
        margin, gutter = MARGIN, 40
        title = printable(film.title).replace("\n", " ")
        notes = max((self.ruler.width(note) for note in {m.note for m in film.moments}), default=0)
        room = WIDTH - 2 * margin - notes * 18 - 30
        title = self.ruler.clip(title, room / 22, bold=True)
        drawing.write(axes, margin, 46, title, 22, self.ruler, bold=True, color=drawing.INK)
        self.note = drawing.write(
            axes, WIDTH - margin, 46, "", 18, self.ruler, ha="right", color=drawing.INK
        )
        named = any(track.name for track in film.tracks)
        top = (64 if film.title else 24) + (40 if named else 0)
        width = (WIDTH - 2 * margin + gutter) / len(film.tracks) - gutter
        self.panels, self.lines = [], []
        self.status_line = STATUS_LINE
        if film.time_line:
            self.status_line -= 8 + TIME_LINE_HEIGHT * len(film.tracks)
            self.bars, self.verdict = self._draw_time_line(axes)
        for i, track in enumerate(film.tracks):
            left = margin + i * (width + gutter)
            name = self.ruler.clip(printable(track.name), width / 19)
            drawing.write(axes, left, top - 12, name, 19, self.ruler, color=drawing.INK)
            rect = (left, top, width, self.status_line - 36 - top)
            self.panels.append(drawing.Panel(axes, rect, track.frames, self.ruler))
            size = 19 if len(film.tracks) == 1 else 16
            line = (left, self.status_line, "", size)
            self.lines.append(drawing.write(axes, *line, self.ruler, color=drawing.INK))
        drawing.draw_legend(axes, WIDTH - margin, HEIGHT - 26, 16, self.ruler, film.knows_doubt)

    def _draw_time_line(self, axes) -> tuple[list, object]:
        """A line for each track on one scale, with its end in seconds; returns what changes: the
        bars that fill, and the verdict."""
        from matplotlib.patches import Rectangle

        from diffusion.views import drawing

        line, bars = self.film.time_line, []
        left = MARGIN + TIME_LINE_LABEL
        longest = WIDTH - MARGIN - TIME_LINE_VALUE - left
        for i, (track, end) in enumerate(zip(self.film.tracks, line.ends, strict=True)):
            y = self.status_line + 32 + TIME_LINE_HEIGHT * i
            width = longest * line.filled(i, end)
            name = self.ruler.clip(printable(track.name), (TIME_LINE_LABEL - 20) / 15)
            drawing.write(axes, MARGIN, y, name, 15, self.ruler, color=drawing.INK)
            seconds = f"{end:.2f} s"
            drawing.write(axes, left + width + 8, y, seconds, 15, self.ruler, color=drawing.INK)
            place = {"xy": (left, y - 12), "height": 13, "clip_on": False}
            axes.add_patch(Rectangle(width=width, facecolor=drawing.GREY, **place))
            bar = Rectangle(width=0, facecolor=drawing.INK, **place)
            bars.append(axes.add_patch(bar))
        verdict = drawing.write(
            axes, MARGIN, HEIGHT - 24, "", 18, self.ruler, bold=True, color=drawing.INK
        )
        self.longest = longest
        return bars, verdict

    def show(self, moment: Moment) -> list[set[int]]:
        """Let the figure show a moment, which its canvas then draws; returns the lines of each
        panel on which something changed."""
        self.note.set_text(moment.note)
        changed = []
        for track, panel, line, frame in zip(
            self.film.tracks, self.panels, self.lines, self.film.frames(moment), strict=True
        ):
            changed.append(panel.draw(frame))
            line.set_text(track.status(frame))
        if self.film.time_line:
            for i, bar in enumerate(self.bars):
                bar.set_width(self.longest * self.film.time_line.filled(i, moment.time))
            final = moment is self.film.moments[-1]
            self.verdict.set_text(printable(self.film.time_line.verdict) if final else "")
        return changed

    def image(self, moment: Moment) -> Image.Image:
        """The moment as an RGB picture."""
        from diffusion.views import drawing

        note = self.note.get_text()
        changed = self.show(moment)
        final = moment is self.film.moments[-1]  # with the verdict
        few = 2 * sum(map(len, changed)) < sum(panel.layout.lines for panel in self.panels)
        if final or not (self.drawn and few and self.ruler.plain and note == moment.note):
            self.drawn = True
            return _picture(self.figure)
        canvas = self.figure.canvas
        with drawing.quiet():
            drawing.clear(canvas, 0, self.status_line - 24, WIDTH, 34)
            # A bar only grows, so it is drawn over itself.
            for artist in [*self.lines, *(self.bars if self.film.time_line else ())]:
                artist.draw(canvas.get_renderer())
            for panel, lines in zip(self.panels, changed, strict=True):
                for line in lines:
                    panel.repaint(canvas, line)
        return _pixels(self.figure)


def _ruler(film: Film):
    from diffusion.views import drawing

    verdict = film.time_line.verdict if film.time_line else ""
    shown = {
        film.title,
        verdict,
        *(track.name for track in film.tracks),
        *(m.note for m in film.moments),
    }
    for track in film.tracks:
        shown.update(*(frame.pieces for frame in track.frames))
    return drawing.Ruler(printable("".join(shown)))


def _picture(figure: Figure) -> Image.Image:
    from diffusion.views import drawing

    with drawing.quiet():
        figure.canvas.draw()
    return _pixels(figure)


def _pixels(figure: Figure) -> Image.Image:
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])


def _pictures(
    film: Film, paced: list[tuple[Moment, int]], on_progress: Progress
) -> Iterator[Image.Image]:
    stage = Stage(film)
    for done, (moment, _) in enumerate(paced, start=1):
        yield stage.image(moment)
        on_progress(done, len(paced))


def _palette() -> Image.Image:
    """The colours of the drawings and their blends with the paper: a fixed palette keeps still
    parts identical from frame to frame, which is what makes a GIF small."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    from diffusion.views import drawing

    colours = []
    for colour, shades in ((drawing.INK, 16), (drawing.BLUE, 12), (drawing.ORANGE, 8)):
        for k in range(shades):
            blend = k / shades
            colours += [round(255 * (c + (1 - c) * blend)) for c in to_rgb(colour)]
    for colour in (drawing.GREY, *filter(None, drawing.TINTS), drawing.PAPER):
        colours += [round(255 * c) for c in to_rgb(colour)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return palette


def _gif(film: Film, path: Path, on_progress: Progress) -> None:
    from PIL import Image

    paced = ticks(film.moments, GIF_TICK)
    palette = _palette()
    pictures = (
        picture.quantize(palette=palette, dither=Image.Dither.NONE)
        for picture in _pictures(film, paced, on_progress)
    )
    next(pictures).save(
        path,
        save_all=True,
        append_images=pictures,
        duration=[round(count * GIF_TICK * 1000) for _, count in paced],
        loop=0,
    )


def _mp4(film: Film, path: Path, on_progress: Progress) -> None:
    command = ["ffmpeg", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{WIDTH}x{HEIGHT}", "-r", str(MP4_FPS), "-i", "-"]
    # Players need 4:2:0 colour; the index in front lets a browser start at once.
    command += ["-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path)]
    paced = ticks(film.moments, 1 / MP4_FPS)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe) as ffmpeg:
        try:
            pictures = _pictures(film, paced, on_progress)
            for picture, (_, count) in zip(pictures, paced, strict=True):
                data = picture.tobytes()
                for _ in range(count):
                    ffmpeg.stdin.write(data)
        except BrokenPipeError:
            pass  # ffmpeg has given up; it says why below
        except BaseException:
            ffmpeg.kill()
            raise
        _, complaint = ffmpeg.communicate()
    if ffmpeg.returncode:
        reason = complaint.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
        raise UserError(f"ffmpeg could not write the animation: {reason[0]}")


def _html(film: Film, path: Path, on_progress: Progress) -> None:
    from diffusion.views.webpage import page

    path.write_text(page(film), encoding="utf-8")
    on_progress(1, 1)


def _png(film: Film, path: Path, on_progress: Progress) -> None:
    picture = _picture(filmstrip(film))
    picture.save(path, dpi=(STRIP_DPI, STRIP_DPI), optimize=True)
    on_progress(1, 1)


def strip_moments(film: Film, count: int) -> list[Moment]:
    """Up to ``count`` moments with the first and the last: evenly spread, on a time line in time."""
    count = min(count, len(film.moments))
    last = len(film.moments) - 1
    if film.time_line:
        times = [moment.time for moment in film.moments]
        even = (k * times[-1] / max(1, count - 1) for k in range(count - 1))
        # Half a tick of rounding must not lose the moment that is meant.
        picks = [bisect.bisect_right(times, time + 1e-9) - 1 for time in even] + [last]
    else:
        picks = [round(k * last / max(1, count - 1)) for k in range(count)]
    return [film.moments[i] for i in sorted(set(picks))]


def filmstrip(film: Film) -> Figure:
    """A picture for print: 8 moments, or 6 where 8 would be too tall for a page, in reading order;
    two to a row for one track, a row each for several."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from diffusion.views import drawing

    width, margin, gutter, head = STRIP_WIDTH, 20, 50, 40
    across = 2 if len(film.tracks) == 1 else len(film.tracks)
    column = (width - 2 * margin + gutter) / across - gutter
    ruler = _ruler(film)
    top = margin + (50 if film.title else 0) + (32 if film.time_line else 0)
    for count, size in ((8, 17), (6, 17), (6, 15), (6, 13), (6, 11)):
        lines = max(drawing.fit(t.frames, ruler, column, 0, size)[1].lines for t in film.tracks)
        row = head + lines * drawing.LINE * size + 2 * size
        moments = strip_moments(film, count)
        height = math.ceil(top + row * math.ceil(len(moments) * len(film.tracks) / across) + 50)
        if height <= STRIP_HEIGHT:
            break
    cells = [
        (track, frame, f"at {moment.time:.2f} s" if film.time_line else "")
        for moment in moments
        for track, frame in zip(film.tracks, film.frames(moment), strict=True)
    ]

    inches = (width / STRIP_DPI, height / STRIP_DPI)
    figure = Figure(figsize=inches, dpi=STRIP_DPI, facecolor=drawing.PAPER)
    FigureCanvasAgg(figure)
    axes = drawing.pixel_axes(figure)
    title = printable(film.title).replace("\n", " ")
    title = ruler.clip(title, (width - 2 * margin) / 26, bold=True)
    drawing.write(axes, margin, margin + 24, title, 26, ruler, bold=True, color=drawing.INK)
    if film.time_line:  # the names once, above; the verdict below
        for i, track in enumerate(film.tracks):
            name = ruler.clip(printable(track.name), column / 19)
            x = margin + i * (column + gutter)
            drawing.write(axes, x, top - 8, name, 19, ruler, color=drawing.INK)
        verdict = printable(film.time_line.verdict)
        drawing.write(axes, margin, height - 24, verdict, 17, ruler, bold=True, color=drawing.INK)
    for i, (track, frame, time) in enumerate(cells):
        left = margin + (i % across) * (column + gutter)
        y = top + (i // across) * row
        heading = " · ".join(filter(None, (time or track.name, track.status(frame))))
        height_of_heading = 15 if film.time_line else 18
        heading = ruler.clip(heading, column / height_of_heading, bold=True)
        place = (left, y + 24, heading, height_of_heading)
        drawing.write(axes, *place, ruler, bold=True, color=drawing.INK)
        axes.hlines(y + 34, left, left + column, color=drawing.INK, linewidth=0.5)
        rect = (left, y + head, column, row - head)
        drawing.Panel(axes, rect, track.frames, ruler, size).draw(frame)
    drawing.draw_legend(axes, width - margin, height - 24, 17, ruler, film.knows_doubt)
    return figure


def show_animation(
    frames: Sequence[Frame],
    *,
    title: str = "",
    fps: float | None = None,
    slowdown: float | None = None,
) -> None:
    """Play the frames of one generation in a window, again and again, until it is closed."""
    show_film(film_of(frames, title, fps, slowdown))


def check_display() -> None:
    """Raise `UserError` if there is surely no display for `show_animation`. For the start of a
    script; imports nothing heavy."""
    unix = os.name == "posix" and sys.platform != "darwin"
    if unix and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError("There is no display to open a window on; save the animation instead.")


def show_film(film: Film) -> None:
    """Play a film in a window; `UserError` where there is no display."""
    check_display()
    import matplotlib.pyplot as plt
    from matplotlib.backends import BackendFilter, backend_registry

    from diffusion.views import drawing

    windows = {name.lower() for name in backend_registry.list_builtin(BackendFilter.INTERACTIVE)}
    try:
        backend = plt.get_backend()  # lets matplotlib choose, which falls back to Agg
        figure = plt.figure() if backend.lower() in windows else None
    except Exception as error:  # each window toolkit fails in its own way without a display
        raise UserError(
            f"No window can be opened ({error}); save the animation instead."
        ) from error
    if figure is None:
        raise UserError(
            f"No window can be opened with matplotlib's backend {backend!r}: no display, or no "
            "window toolkit such as tkinter; save the animation instead."
        )
    with drawing.quiet():
        stage = Stage(film, figure)
    timer = figure.canvas.new_timer()
    timer.single_shot = True
    position = iter(())

    def advance() -> None:
        nonlocal position
        moment = next(position, None)
        if moment is None:
            position = iter(film.moments)
            moment = next(position)
        stage.show(moment)
        figure.canvas.draw_idle()
        timer.interval = max(1, round(moment.hold * 1000))
        timer.start()

    timer.add_callback(advance)
    with drawing.quiet():
        advance()
        plt.show()
    timer.stop()
