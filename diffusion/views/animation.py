"""A `Film` -> an animation file (GIF, MP4, HTML) or a filmstrip (PNG).

What draws is imported when something is drawn.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from diffusion.cli.files import check_animation_path, unfinished
from diffusion.errors import UserError
from diffusion.views.film import Film, ticks

GIF_TICK = 0.02  # seconds; browsers slow anything shorter down to 0.1
MP4_FPS = 25
Progress = Callable[[int, int], None]  # (pictures done, pictures in all)


def save_film(film: Film, path: str | os.PathLike, on_progress: Progress | None = None) -> None:
    """Write a film in the format that the ending of ``path`` names; the file appears when it is
    complete, never before.

    Raises:
        UserError: another ending, or a file that cannot be written.
    """
    check_animation_path(path)
    with unfinished(Path(path)) as file:
        WRITERS[file.suffix](film, file, on_progress or (lambda done, total: None))


def _pictures(film: Film, tick: float, on_progress: Progress):
    """(picture, number of ticks) for each moment that a tick falls on."""
    from diffusion.views.drawing import Stage

    stage, paced = Stage(film), ticks(film, tick)
    for done, (moment, count) in enumerate(paced, start=1):
        yield stage.image(moment), count
        on_progress(done, len(paced))


def _gif(film: Film, path: Path, on_progress: Progress) -> None:
    from PIL import Image

    from diffusion.views.drawing import palette

    colours = palette()
    pictures = (
        picture.quantize(palette=colours, dither=Image.Dither.NONE)
        for picture, _ in _pictures(film, GIF_TICK, on_progress)
    )
    durations = [round(count * GIF_TICK * 1000) for _, count in ticks(film, GIF_TICK)]
    next(pictures).save(path, save_all=True, append_images=pictures, duration=durations, loop=0)


def _mp4(film: Film, path: Path, on_progress: Progress) -> None:
    from diffusion.views.drawing import HEIGHT, WIDTH

    command = ["ffmpeg", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{WIDTH}x{HEIGHT}", "-r", str(MP4_FPS), "-i", "-"]
    # Players need 4:2:0 colour; the index in front lets a browser start at once.
    command += ["-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path)]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE) as ffmpeg:
            for picture, count in _pictures(film, 1 / MP4_FPS, on_progress):
                for _ in range(count):
                    ffmpeg.stdin.write(picture.tobytes())
    except BrokenPipeError:
        pass  # ffmpeg has given up, and said why
    if ffmpeg.returncode:
        raise UserError("ffmpeg could not write the animation; write a .gif or .html instead")


def _html(film: Film, path: Path, on_progress: Progress) -> None:
    from diffusion.views.webpage import page

    path.write_text(page(film), encoding="utf-8")
    on_progress(1, 1)


def _png(film: Film, path: Path, on_progress: Progress) -> None:
    from diffusion.views.drawing import STRIP_DPI, filmstrip

    filmstrip(film).save(path, dpi=(STRIP_DPI, STRIP_DPI), optimize=True)
    on_progress(1, 1)


WRITERS = {".gif": _gif, ".mp4": _mp4, ".html": _html, ".png": _png}
