"""A `Film` -> an animation file (GIF, MP4, HTML), a filmstrip (PNG) or a window.

What draws is imported when something is drawn. Only a window needs a display.
"""

import os
from collections.abc import Callable
from pathlib import Path

from diffusion.cli.files import check_animation_path, check_display, unfinished
from diffusion.errors import UserError
from diffusion.views.film import Film


def save_film(
    film: Film, path: str | os.PathLike, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Write a film in the format that the ending of ``path`` names; the file appears when it is
    complete, never before. ``on_progress`` is told (pictures done, pictures in all)."""
    check_animation_path(path)
    from diffusion.views.stage import WRITERS

    with unfinished(Path(path)) as file:
        WRITERS[file.suffix](film, file, on_progress or (lambda done, total: None))


def show_film(film: Film) -> None:
    """Play a film in a window; `UserError` where there is no display."""
    check_display()
    import matplotlib.pyplot as plt
    from matplotlib.backends import BackendFilter, backend_registry

    from diffusion.views.stage import play

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
    play(film, figure)
