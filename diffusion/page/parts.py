"""What the tabs of the page share: texts as cells, errors as messages, and saving."""

import html
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import isgeneratorfunction
from pathlib import Path

import gradio as gr

from diffusion.errors import UserError, sentence
from diffusion.views import record
from diffusion.views.animation import save_film
from diffusion.views.frames import Frame

ASSETS = Path(__file__).parent / "assets"
REDRAW = 0.06  # seconds; a browser draws no faster
PACE = 0.1  # seconds for which a step is shown, at least
FORMATS = [".html", ".gif", ".png", *([".mp4"] if shutil.which("ffmpeg") else [])]
On = Callable[..., None]  # does what needs a model when something happens, see `Page.on`
QUICK = {"show_progress": "hidden", "api_visibility": "private"}  # of an event that needs no model
TEXT = """<div class="{kind}"><div class="text" {role} aria-label="{label}" data-hint="{hint}"></div>
{extra}<p class="status" role="status"></p></div>"""
TOUCHED = """<p class="likeliest" aria-live="polite"></p>
<label><input type="checkbox" class="whole" checked> select whole words</label>"""


def told(work: Callable, shown: bool = True) -> Callable:
    """The same function or generator, whose `UserError` is a message of gradio; ``shown``: on the page,
    which would take it for HTML."""

    @contextmanager
    def message():
        try:
            yield
        except UserError as error:
            # The page has fields instead of flags, and none for this one.
            said = sentence(str(error)).replace(", or change --max_len", "").replace("--", "")
            said = html.escape(said) if shown else said
            raise gr.Error(said, duration=20, print_exception=False) from None

    @wraps(work)
    def function(*arguments, **named):
        with message():
            return work(*arguments, **named)

    @wraps(work)
    def generator(*arguments, **named):
        with message():
            yield from work(*arguments, **named)

    return generator if isgeneratorfunction(work) else function


def text_view(kind: str, label: str, hint: str, **more) -> gr.HTML:
    """A text drawn by text.js, with a status line, of the ``kind`` watch, touch or notes."""
    touch = kind == "touch"
    role = 'role="listbox" aria-multiselectable="true"' if touch else 'role="group"'
    extra = TOUCHED if touch else ""
    return gr.HTML(
        {"cells": []},
        html_template=TEXT.format(kind=kind, role=role, label=label, hint=hint, extra=extra),
        js_on_load=(ASSETS / "text.js").read_text(encoding="utf-8"), elem_classes="kinds",
        apply_default_css=False, touch=touch, notes=kind == "notes", **more,
    )  # fmt: skip


def cells(frame: Frame, notes: Iterable | None = None) -> list[list]:
    """[kind, string, note] of each position, for text.js; the note is by default the probability with
    which a token was written."""
    notes = notes or frame.confidence or [None] * len(frame.pieces)
    return [[frame.kind(i), frame.shown(i), note] for i, note in enumerate(notes)]


def paced(frames: Iterable[Frame], pace: float = PACE) -> Iterator[Frame]:
    """Frames to be watched: each stays for at least ``pace`` seconds, none comes sooner than `REDRAW`
    after another, and the last always comes."""
    due, drawn, waiting = 0.0, 0.0, None
    for frame in frames:
        time.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        due, waiting = now + pace, frame
        if now - drawn >= REDRAW:
            yield frame
            drawn, waiting = now, None
    if waiting is not None:
        yield waiting


def save_button(on: On, kept: gr.State, film: Callable, *more: str) -> None:
    """A button that saves what was written last; ``film``: what is ``kept`` -> its `Film`; ``more``: other
    endings of files."""
    with gr.Accordion("Save", open=False), gr.Row():
        endings = [*more, *FORMATS]
        ending = gr.Dropdown(endings, value=endings[0], label="file", min_width=120)
        save = gr.Button("Save", min_width=100)
        file = gr.File(label="saved", height=80, interactive=False)

    def saved(shown, ending):
        if not shown:
            raise UserError("there is nothing to save yet; write or compare first")
        os.makedirs(file.GRADIO_CACHE, exist_ok=True)  # where gradio deletes files after a day
        name = "compare" if isinstance(shown, dict) else "text"
        path = Path(tempfile.mkdtemp(dir=file.GRADIO_CACHE), name + ending)
        if ending == ".json":
            path.write_text(record.dump(shown) + "\n", encoding="utf-8")
        else:
            save_film(film(shown), path)
        return str(path)

    on(save.click, saved, [kept, ending], file)
