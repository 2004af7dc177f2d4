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
from diffusion.views.frames import END_MARK, KINDS, Frame, State, changes, legend

ASSETS = Path(__file__).parent / "assets"
_COLOURS = {
    **{name: getattr(layout, name.upper()) for name in ("ink", "paper", "grey", "blue", "orange")},
    **{f"tint{i}": tint for i, tint in enumerate(layout.TINTS, start=1)},
}


def page(film: Film) -> str:
    """The HTML document of a film."""
    line = film.time_line
    data = {
        "kinds": KINDS,
        "labels": dict(legend(film.kinds)),
        "tracks": [
            {
                "changes": changes(_rows(track)),
                "steps": [frame.index for frame in track.frames],
                "status": [track.status(frame) for frame in track.frames],
            }
            for track in film.tracks
        ],
        "moments": [[m.shown, round(m.hold, 6), m.note, m.time] for m in film.moments],
        "ends": line.ends if line else [],
        "verdict": printable(line.verdict) if line else "",
    }
    # "<" would let a text close the script element; the escape is the same string to JSON.
    encoded = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True)
    return environment.get_template("page.html.jinja").render(
        title=printable(film.title),
        tracks=[
            {
                "name": printable(track.name),
                "words": _words(track),
                "line": line and {"share": 100 * line.filled(i, line.ends[i]), "end": line.ends[i]},
            }
            for i, track in enumerate(film.tracks)
        ],
        last=sum(moment.hold for moment in film.moments[:-1]),
        legend=list(legend(film.kinds)),
        end_mark=END_MARK,
        style=Markup("".join(f"--{name}: {colour}; " for name, colour in _COLOURS.items())),
        css=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        script=Markup((ASSETS / "page.js").read_text(encoding="utf-8")),
        data=Markup(encoded),
    )


def _rows(track: Track) -> list[list[list]]:
    """For each frame the cells [number of the kind, text, probability]; -1 is a position that is
    not there yet."""
    length = max(len(frame.pieces) for frame in track.frames)
    return [[_cell(frame, i) for i in range(length)] for frame in track.frames]


def _cell(frame: Frame, position: int) -> list:
    if position >= len(frame.states):
        return [-1, "", None]
    kind, text = frame.kind(position), frame.drawn(position)
    if frame.states[position].open:
        return [KINDS.index(kind), text, None]
    text = layout.split_piece(text)[1]
    if kind in (State.FRESH, State.REPLACED) and text.isspace():
        kind = State.SETTLED  # as in the pictures: a space has no block
    return [KINDS.index(kind), text, frame.confidence[position]]


def _words(track: Track) -> list[dict]:
    """The reserved text as words of cells, which the script covers or reveals. ``widest`` is a
    longer token that stands in the cell for a while, and needs room, too."""
    reserved = layout.reserved_text(track.frames)
    words: list[dict] = []
    before = " "
    for piece, shown in zip(reserved, layout.passing_texts(track.frames), strict=True):
        lead, core, breaks = layout.split_piece(piece)
        if not words or (piece and layout.starts_word(before, piece)):
            words.append({"lead": lead if words else "", "cells": [], "breaks": ""})
        longest = max(shown, key=len, default="")
        words[-1]["cells"].append(
            {"text": core, "widest": longest if len(longest) > len(core) > 0 else ""}
        )
        words[-1]["breaks"] += "\n" * breaks
        before = piece or before
    return words
