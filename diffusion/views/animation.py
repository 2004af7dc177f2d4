"""Films as files: an animation (GIF, MP4, HTML) or a filmstrip (PNG)."""

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageColor

from diffusion.cli.console import say
from diffusion.cli.files import check_animation_path, unfinished
from diffusion.errors import UserError
from diffusion.views import drawing, webpage
from diffusion.views.film import Film, ticks
from diffusion.views.layout import BLUE, GREY, INK, ORANGE, TINTS

GIF_TICK = 0.02  # seconds; browsers slow anything shorter down to 0.1
MP4_FPS = 25


def save_film(film: Film, path: str | Path, on_progress=lambda done, total: None) -> None:
    """Write a film in the format that the ending of ``path`` names; the file appears when it is
    complete, never before.

    Args:
        on_progress: called with (pictures done, pictures in all) of a GIF or MP4.

    Raises:
        UserError: another ending, or a file that cannot be written.
    """
    check_animation_path(path)
    if Path(path).suffix.lower() != ".html" and (lost := drawing.undrawn(film)):
        say(
            f"note: no installed font draws {' '.join(lost[:9])}; install one of "
            f"{', '.join(drawing.FONTS[1:])}, or save an .html file"
        )
    with unfinished(Path(path)) as file:
        if file.suffix == ".html":
            file.write_text(webpage.page(film), encoding="utf-8")
        elif file.suffix == ".png":
            drawing.filmstrip(film).save(file, dpi=(200, 200), optimize=True)
        else:
            write = _write_gif if file.suffix == ".gif" else _write_mp4
            write(film, file, on_progress)


def _palette() -> Image.Image:
    """The colours of the drawings, those of text blended with the paper: a fixed palette keeps still
    parts identical from frame to frame, which is what makes a GIF small."""
    colours = [ImageColor.getrgb(colour) for colour in (GREY, ORANGE, *TINTS)]
    for colour in (INK, BLUE):
        rgb = ImageColor.getrgb(colour)
        colours += [[round(c + (255 - c) * k / 15) for c in rgb] for k in range(16)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*itertools.chain(*colours)])
    return palette


def _pictures(film: Film, tick: float, on_progress: Callable[[int, int], None]):
    """(picture, number of ticks) for each moment that a tick falls on."""
    stage, paced = drawing.Stage(film), ticks(film, tick)
    for done, (moment, count) in enumerate(paced, start=1):
        yield stage.image(moment), count
        on_progress(done, len(paced))


def _write_gif(film: Film, path: Path, on_progress: Callable[[int, int], None]) -> None:
    colours, drawn = _palette(), _pictures(film, GIF_TICK, on_progress)
    pictures = (picture.quantize(palette=colours, dither=0) for picture, _ in drawn)
    durations = [round(count * GIF_TICK * 1000) for _, count in ticks(film, GIF_TICK)]
    next(pictures).save(path, save_all=True, append_images=pictures, duration=durations, loop=0)


def _write_mp4(film: Film, path: Path, on_progress: Callable[[int, int], None]) -> None:
    pictures = _pictures(film, 1 / MP4_FPS, on_progress)
    first = next(pictures)
    command = ["ffmpeg", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{first[0].width}x{first[0].height}", "-r", str(MP4_FPS), "-i", "-"]
    command += ["-pix_fmt", "yuv420p", str(path)]  # the colours that players can show
    with subprocess.Popen(command, stdin=subprocess.PIPE) as ffmpeg:
        for picture, count in itertools.chain([first], pictures):
            for _ in range(count):
                ffmpeg.stdin.write(picture.tobytes())
    if ffmpeg.returncode:
        raise UserError("ffmpeg could not write the animation; write a .gif or .html instead")
