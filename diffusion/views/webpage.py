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
from diffusion.views.frames import DOUBTS, END_MARK, Frame, State, changes

ASSETS = Path(__file__).parent / "assets"
_CODES = {state: code for code, state in enumerate(State)}
_COLOURS = {
    "ink": layout.INK,
    "paper": layout.PAPER,
    "grey": layout.GREY,
    "blue": layout.BLUE,
    "orange": layout.ORANGE,
}


def page(film: Film) -> str:
    """The HTML document of a film."""
    line = film.time_line
    data = {
        "states": [state.value for state in State],
        "doubts": DOUBTS,
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
    colours = _COLOURS | {f"tint{i}": tint for i, tint in enumerate(layout.TINTS) if tint}
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
        labels={state.value: label for state, label in layout.labels(film.states).items()},
        # Without a block behind them.
        plain=(State.GIVEN.value, State.SETTLED.value, State.NOISE.value),
        doubt=film.knows_doubt,
        guesses=film.knows_guesses,
        end_mark=END_MARK,
        style=Markup("".join(f"--{name}: {colour}; " for name, colour in colours.items())),
        css=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        script=Markup((ASSETS / "page.js").read_text(encoding="utf-8")),
        data=Markup(encoded),
    )


def _rows(track: Track) -> list[list[list]]:
    """For each frame the cells [state code, text, probability], and a shade where a mask shows what
    it remembers; code -1 is a position that is not there yet."""
    length = max(len(frame.pieces) for frame in track.frames)
    return [[_cell(frame, i) for i in range(length)] for frame in track.frames]


def _cell(frame: Frame, position: int) -> list:
    if position >= len(frame.states):
        return [-1, "", None]
    state = frame.states[position]
    guess, shade = frame.guess(position)
    if shade:
        return [_CODES[state], guess, None, shade]
    text = "" if state.open else layout.split_piece(frame.shown(position))[1]
    if state in (State.FRESH, State.REPLACED) and text.isspace():
        state = State.SETTLED  # as in the pictures: a space has no block
    return [_CODES[state], text, frame.confidence[position]]


def _words(track: Track) -> list[dict]:
    """The reserved text as words of cells, which the script covers or reveals. ``widest`` is a
    longer token that stands in the cell for a while, and needs room, too."""
    reserved = layout.reserved_text(track.frames)
    shown: list[set[str]] = [set() for _ in reserved]
    for frame in track.frames:
        for i, state in enumerate(frame.states):
            if not state.pending:
                shown[i].add(layout.split_piece(frame.shown(i))[1])
    words: list[dict] = []
    before = " "
    for i, piece in enumerate(reserved):
        lead, core, breaks = layout.split_piece(piece)
        if not words or (piece and layout.starts_word(before, piece)):
            words.append({"lead": lead if words else "", "cells": [], "breaks": ""})
        longest = max(shown[i], key=len, default="")
        words[-1]["cells"].append(
            {"text": core, "widest": longest if len(longest) > len(core) > 0 else ""}
        )
        words[-1]["breaks"] += "\n" * breaks
        before = piece or before
    return words
