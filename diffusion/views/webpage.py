"""A film as one HTML file: real text, a little script, nothing from the network.

The final text stands in the page itself, so it can be read, searched and copied without the
script, and keeps its place while the script shows earlier moments over it. Every string from a
model or a user is escaped on its way into the page and set as text, never as HTML, by the script.
"""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from diffusion.errors import printable
from diffusion.views import layout
from diffusion.views.film import Film, Track
from diffusion.views.frames import KINDS, Frame, State, changes, legend

EM = 0.6  # of a letter, about
ASSETS = Path(__file__).parent / "assets"


def page(film: Film) -> str:
    """The HTML document of a film."""
    data = {
        "kinds": KINDS,
        "tracks": [
            {
                "changes": changes([_cells(frame) for frame in track.frames]),
                "status": [track.status(frame) for frame in track.frames],
            }
            for track in film.tracks
        ],
        "moments": [[m.shown, m.time] for m in film.moments],
        "starts": film.starts,
        "ends": film.ends,
        "verdict": printable(film.verdict),
    }
    # "<" would let a text close the script element; the escape is the same string to JSON.
    encoded = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True)
    environment.filters["printable"] = printable
    return environment.get_template("page.html.jinja").render(
        film=film,
        words=_words,
        legend=legend(film.kinds),
        layout=layout,
        data=Markup(encoded),
    )


def styles() -> str:
    """The style sheet of positions in an element of the class ``kinds``, by the names of `KINDS`."""
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True)
    return environment.get_template("kinds.css").render(layout=layout)


def _cells(frame: Frame) -> list[list]:
    """[number of the kind, text] of each position."""
    cells = []
    for i in range(len(frame.pieces)):
        kind, text = frame.kind(i), layout.split_piece(frame.shown(i))[1]
        if kind in (State.FRESH, State.REPLACED) and text.isspace():
            kind = State.SETTLED  # as in the pictures: a space has no block
        cells.append([KINDS.index(kind), text])
    return cells


def _words(track: Track) -> list[dict]:
    """The reserved text as words of cells, which the script covers or reveals. ``room`` is that of a
    longer token that stands in the cell for a while, in ems."""
    words: list[dict] = []
    before = " "
    for piece, seen in zip(*layout.reserved(track.frames), strict=True):
        lead, core, breaks = layout.split_piece(piece)
        if not words or (piece and layout.starts_word(before, piece)):
            words.append({"lead": lead if words else "", "cells": [], "breaks": ""})
        longest = max(map(len, seen), default=0)
        room = EM * layout.SMALLEST * longest if longest > len(core) > 0 else 0
        words[-1]["cells"].append({"text": core, "room": room})
        words[-1]["breaks"] += "\n" * breaks
        before = piece or before
    return words
