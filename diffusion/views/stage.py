"""Films drawn with matplotlib: a stage that shows them moment by moment, the files and the window
that it fills, and a filmstrip for print."""

import bisect
import math
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from diffusion.errors import UserError, printable
from diffusion.views import drawing
from diffusion.views.film import Film, Moment, ticks
from diffusion.views.layout import BLUE, GREY, INK, ORANGE, PAPER, TINTS
from diffusion.views.webpage import page

GIF_TICK = 0.02  # seconds; browsers slow anything shorter down to 0.1
MP4_FPS = 25
WIDTH, HEIGHT, DPI = 1280, 720, 100
MARGIN = 40
STATUS_LINE = HEIGHT - 64
TIME_LINE_HEIGHT, TIME_LINE_LABEL, TIME_LINE_VALUE = 26, 420, 90
STRIP_WIDTH, STRIP_HEIGHT, STRIP_DPI = 1400, 1900, 200  # 7 inches wide, a page high at most


Progress = Callable[[int, int], None]  # (pictures done, pictures in all)


class Stage:
    """A figure of 1280 x 720 pixels on which a film is shown moment by moment."""

    def __init__(self, film: Film, figure: Figure | None = None):

        self.film = film
        self.drawn = False
        if figure is None:
            figure = Figure()
            FigureCanvasAgg(figure)
        figure.set(dpi=DPI, facecolor=PAPER)
        figure.set_size_inches(WIDTH / DPI, HEIGHT / DPI)
        self.figure = figure
        axes = drawing.pixel_axes(figure)
        self.ruler = ruler_of(film)
        margin, gutter = MARGIN, 40
        title = printable(film.title).replace("\n", " ")
        notes = max((self.ruler.width(note) for note in {m.note for m in film.moments}), default=0)
        room = WIDTH - 2 * margin - notes * 18 - 30
        title = self.ruler.clip(title, room / 22, bold=True)
        drawing.write(axes, margin, 46, title, 22, self.ruler, bold=True, color=INK)
        self.note = drawing.write(
            axes, WIDTH - margin, 46, "", 18, self.ruler, ha="right", color=INK
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
            drawing.write(axes, left, top - 12, name, 19, self.ruler, color=INK)
            rect = (left, top, width, self.status_line - 36 - top)
            self.panels.append(drawing.Panel(axes, rect, track.frames, self.ruler))
            size = 19 if len(film.tracks) == 1 else 16
            line = (left, self.status_line, "", size)
            self.lines.append(drawing.write(axes, *line, self.ruler, color=INK))
        size = 13 if film.time_line else 16  # beside the verdict
        drawing.draw_legend(axes, WIDTH - margin, HEIGHT - 26, size, self.ruler, film)

    def _draw_time_line(self, axes) -> tuple[list, object]:
        """A line for each track on one scale, with its end in seconds; returns what changes: the
        bars that fill, and the verdict."""

        line, bars = self.film.time_line, []
        left = MARGIN + TIME_LINE_LABEL
        longest = WIDTH - MARGIN - TIME_LINE_VALUE - left
        for i, (track, end) in enumerate(zip(self.film.tracks, line.ends, strict=True)):
            y = self.status_line + 32 + TIME_LINE_HEIGHT * i
            width = longest * line.filled(i, end)
            name = self.ruler.clip(printable(track.name), (TIME_LINE_LABEL - 20) / 15)
            drawing.write(axes, MARGIN, y, name, 15, self.ruler, color=INK)
            seconds = f"{end:.2f} s"
            drawing.write(axes, left + width + 8, y, seconds, 15, self.ruler, color=INK)
            place = {"xy": (left, y - 12), "height": 13, "clip_on": False}
            axes.add_patch(Rectangle(width=width, facecolor=GREY, **place))
            bar = Rectangle(width=0, facecolor=INK, **place)
            bars.append(axes.add_patch(bar))
        verdict = drawing.write(axes, MARGIN, HEIGHT - 24, "", 18, self.ruler, bold=True, color=INK)
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
        note = self.note.get_text()
        changed = self.show(moment)
        final = moment is self.film.moments[-1]  # with the verdict
        few = 2 * sum(map(len, changed)) < sum(panel.layout.lines for panel in self.panels)
        if final or not (self.drawn and few and self.ruler.plain and note == moment.note):
            self.drawn = True
            return picture_of(self.figure)
        canvas = self.figure.canvas
        with drawing.quiet():
            drawing.clear(canvas, 0, self.status_line - 24, WIDTH, 34)
            # A bar only grows, so it is drawn over itself.
            for artist in [*self.lines, *(self.bars if self.film.time_line else ())]:
                artist.draw(canvas.get_renderer())
            for panel, lines in zip(self.panels, changed, strict=True):
                for line in lines:
                    panel.repaint(canvas, line)
        return pixels_of(self.figure)


def ruler_of(film: Film):
    verdict = film.time_line.verdict if film.time_line else ""
    shown = {
        film.title,
        verdict,
        *(track.name for track in film.tracks),
        *(m.note for m in film.moments),
    }
    for track in film.tracks:
        shown.update(*(frame.pieces for frame in track.frames))
        shown.update(text for frame in track.frames for text, _ in filter(None, frame.guesses))
    return drawing.Ruler(printable("".join(shown)))


def picture_of(figure: Figure) -> Image.Image:
    with drawing.quiet():
        figure.canvas.draw()
    return pixels_of(figure)


def pixels_of(figure: Figure) -> Image.Image:

    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])


def palette() -> Image.Image:
    """The colours of the drawings and their blends with the paper: a fixed palette keeps still
    parts identical from frame to frame, which is what makes a GIF small."""

    colours = []
    for colour, shades in ((INK, 16), (BLUE, 12), (ORANGE, 8)):
        for k in range(shades):
            blend = k / shades
            colours += [round(255 * (c + (1 - c) * blend)) for c in to_rgb(colour)]
    for colour in (GREY, *filter(None, TINTS), PAPER):
        colours += [round(255 * c) for c in to_rgb(colour)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return palette


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

    width, margin, gutter, head = STRIP_WIDTH, 20, 50, 40
    across = 2 if len(film.tracks) == 1 else len(film.tracks)
    column = (width - 2 * margin + gutter) / across - gutter
    ruler = ruler_of(film)
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
    figure = Figure(figsize=inches, dpi=STRIP_DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = drawing.pixel_axes(figure)
    title = printable(film.title).replace("\n", " ")
    title = ruler.clip(title, (width - 2 * margin) / 26, bold=True)
    drawing.write(axes, margin, margin + 24, title, 26, ruler, bold=True, color=INK)
    if film.time_line:  # the names once, above; the verdict below
        for i, track in enumerate(film.tracks):
            name = ruler.clip(printable(track.name), column / 19)
            x = margin + i * (column + gutter)
            drawing.write(axes, x, top - 8, name, 19, ruler, color=INK)
        verdict = printable(film.time_line.verdict)
        drawing.write(axes, margin, height - 24, verdict, 17, ruler, bold=True, color=INK)
    for i, (track, frame, time) in enumerate(cells):
        left = margin + (i % across) * (column + gutter)
        y = top + (i // across) * row
        heading = " · ".join(filter(None, (time or track.name, track.status(frame))))
        height_of_heading = 15 if film.time_line else 18
        heading = ruler.clip(heading, column / height_of_heading, bold=True)
        place = (left, y + 24, heading, height_of_heading)
        drawing.write(axes, *place, ruler, bold=True, color=INK)
        axes.hlines(y + 34, left, left + column, color=INK, linewidth=0.5)
        rect = (left, y + head, column, row - head)
        drawing.Panel(axes, rect, track.frames, ruler, size).draw(frame)
    drawing.draw_legend(axes, width - margin, height - 24, 17, ruler, film)
    return figure


def _pictures(
    film: Film, paced: list[tuple[Moment, int]], on_progress: Progress
) -> Iterator[Image.Image]:
    stage = Stage(film)
    for done, (moment, _) in enumerate(paced, start=1):
        yield stage.image(moment)
        on_progress(done, len(paced))


def _gif(film: Film, path: Path, on_progress: Progress) -> None:
    paced = ticks(film.moments, GIF_TICK)
    colours = palette()
    pictures = (
        picture.quantize(palette=colours, dither=Image.Dither.NONE)
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
    path.write_text(page(film), encoding="utf-8")
    on_progress(1, 1)


def _png(film: Film, path: Path, on_progress: Progress) -> None:
    picture = picture_of(filmstrip(film))
    picture.save(path, dpi=(STRIP_DPI, STRIP_DPI), optimize=True)
    on_progress(1, 1)


WRITERS = {".gif": _gif, ".mp4": _mp4, ".html": _html, ".png": _png}


def play(film: Film, figure: Figure) -> None:
    """Show a film in a window again and again, until it is closed."""
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
