"""The tab Touch: selected words of a text are written anew, others are locked, and changes undone.

Its value holds the ``text``, its ``cells``, one for each token, the numbers of those that are ``selected`` and
``locked``, the ``past`` texts with both, and the number of the last ``sample``.
"""

from collections.abc import Callable
from itertools import accumulate, pairwise

import gradio as gr

from diffusion.editing.places import Place, touched
from diffusion.errors import UserError, printable
from diffusion.page.parts import QUICK, On, cells, paced, text_view, told
from diffusion.page.service import MOST_CHARACTERS, Edit, Service
from diffusion.views.frames import State, status_line

TRIES = 5  # samples for a place, until one differs from what stands there


def touch_tab(service: Service, on: On) -> tuple[gr.HTML, Callable]:
    """Returns the text, and what makes its value of another text."""

    def likeliest(question: list) -> list:
        return told(service.likeliest)(*question)

    view = text_view(
        "touch", "text; select words by click, by dragging, or with arrow keys and space",
        "Write a text in the first tab and touch it, or give one below.", server_functions=[likeliest],
    )  # fmt: skip
    with gr.Row():
        again = gr.Button("Write anew", variant="primary", min_width=140)
        lock = gr.Button("Lock or unlock", min_width=140)
        rest = gr.Button("Invert selection", min_width=140)
        undo = gr.Button("Undo", min_width=140)
    with gr.Row():
        by = gr.Textbox(
            "", label="replace by", max_length=MOST_CHARACTERS,
            info="Instead of the selected words: text, or <mask:2-4> for 2 to 4 tokens. Empty: "
            "as many tokens as there are.",
        )  # fmt: skip
        temperature = gr.Slider(0, 2, 1, step=0.05, label="temperature")
    with gr.Row():
        own = gr.Textbox("", label="your own text", lines=2, max_length=MOST_CHARACTERS, scale=4)
        take = gr.Button("Take this text", min_width=120)

    def anew(value, by, temperature):
        value = known(value)
        text, past, sample = value["text"], value["past"], value["sample"]
        parts, edits = bounds(service.tokens(text)), []
        places, kept = (
            [part for i, part in enumerate(parts) if i in value[name] and part[0] < part[1]]
            for name in ("selected", "locked")
        )

        def frames():
            nonlocal sample
            for _ in range(TRIES):
                sample += 1
                for edit in service.touch(text, places, by, sample, {"temperature": temperature}):
                    edits.append(edit)
                    yield edit.frame
                if edit.frame.text != text or not edit.frame.nfe or not temperature:
                    return

        busy = value | {"busy": True, "selected": []}
        try:
            for frame in paced(frames()):
                yield busy | {"cells": cells(frame), "status": status_line(frame)}
        except UserError:
            yield value | {"busy": False}
            raise
        new = edits[-1]
        past = [*past, [text, value["selected"], value["locked"]]][-50:]
        status = status_line(new.frame) if new.frame.nfe else ""
        if new.frame.text == text:
            status += " · the same words again; a higher temperature varies more"
        yield taken(new.frame.text, new.places, moved(kept, new), past, sample, status)

    def taken(text, new=(), kept=(), past=(), sample=0, status="") -> dict:
        pieces = service.tokens(text)
        selected, locked = (touched(bounds(pieces), places) for places in (new, kept))
        shown = [
            [State.FRESH if i in selected else State.SETTLED, printable(piece), None]
            for i, piece in enumerate(pieces)
        ]
        return {
            "text": text, "cells": shown, "selected": selected, "locked": locked,
            "past": list(past), "sample": sample, "status": status, "busy": False,
        }  # fmt: skip

    def locked(value):
        value = known(value)
        chosen, kept = set(value["selected"]), set(value["locked"])
        kept = kept | chosen if chosen else set()
        return value | {"selected": [], "locked": sorted(kept)}

    def others(value):
        value = known(value)
        left = set(range(len(value["cells"]))) - {*value["selected"], *value["locked"]}
        return value | {"selected": sorted(left)}

    def undone(value):
        value = known(value)
        if not value["past"]:
            raise UserError("there is nothing to undo")
        *past, (text, selected, kept) = value["past"]
        whole = taken(text, past=past, sample=value["sample"])
        return whole | {"selected": selected, "locked": kept}

    on(again.click, anew, [view, by, temperature], view, show_progress="hidden")
    for button, work in ((lock, locked), (rest, others), (undo, undone)):
        button.click(told(work), view, view, **QUICK)
    take.click(told(taken), own, view, **QUICK)
    return view, taken


def bounds(pieces: list[str]) -> list[Place]:
    """Where the pieces of a text stand in it."""
    return list(pairwise(accumulate(map(len, pieces), initial=0)))


def known(value) -> dict:
    """The value of this tab as it came from a browser, or a `UserError`."""
    lists = ("cells", "selected", "locked", "past")
    if not (isinstance(value, dict) and isinstance(value.get("text"), str)):
        raise UserError("there is no text; write one and touch it, or give your own")
    if not (isinstance(value.get("sample"), int) and all(type(value[n]) is list for n in lists)):
        raise UserError("the page is out of date; reload it")
    return value


def moved(kept: list[Place], edit: Edit) -> list[Place]:
    """Where places outside of what an edit replaced are after it."""
    pairs = zip(edit.replaced, edit.places, strict=True)
    ends = [(0, 0), *((old, new - old) for (_, old), (_, new) in pairs)]
    by = [next(more for end, more in reversed(ends) if end <= start) for start, _ in kept]
    return [(start + more, end + more) for (start, end), more in zip(kept, by, strict=True)]
