"""Where each position of a generation stands in every view, and the colours of its states.

A layout is computed once per generation from the text it ends with, so each position keeps its
place from first mask to last word.
"""

import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from diffusion.views.frames import Frame

INK, PAPER, GREY, BLUE, ORANGE = "#1a1a1a", "#ffffff", "#d4d4d4", "#14558f", "#b34700"
FAINT = "#9c9c9c"  # of random tokens
TINTS = ("#f6eff9", "#eadbf1", "#dbc0e6")  # of settled tokens: low, lower, lowest confidence

SMALLEST = 0.7  # how far a token that is replaced later may shrink: it has the final one's place
UNKNOWN = " words"  # gives its width to a position that never shows text


class Place(NamedTuple):
    """Where a position stands, in ems; ``line`` counts from 0."""

    line: int
    x: float
    width: float


def reserved(frames: Sequence[Frame]) -> tuple[list[str], list[set[str]]]:
    """Of each position (L of the longest frame) the string whose room it gets, and all that it
    shows at some time. The room is that of its final text, or where the final frame shows none
    (masked, or after the end) of the last that was shown."""
    final = frames[-1]
    cut = final.ends[-1] if final.ends else len(final.pieces)
    pieces, seen = [], []
    for i in range(max(len(frame.pieces) for frame in frames)):
        there = (f for f in frames if i < len(f.pieces))
        texts = [f.shown(i) for f in there if not f.states[i].pending]
        if i <= cut and i < len(final.pieces) and not final.states[i].pending:
            pieces.append(final.shown(i))
        else:
            pieces.append(next(filter(None, reversed(texts)), UNKNOWN))
        seen.append({split_piece(text)[1] for text in texts})
    return pieces, seen


def starts_word(previous: str, piece: str) -> bool:
    """Whether a line may break between two pieces: at a space, or beside a wide character."""
    sides = piece[:1], previous[-1:]
    return any(c and (c.isspace() or unicodedata.east_asian_width(c) in "WF") for c in sides)


def lay_out(
    pieces: list[str], measure: Callable[[int, str], float], width: float, rooms: Sequence[float]
) -> list[Place]:
    """Break ``pieces`` (L) into lines of ``width`` ems: between words, inside one only if it is
    wider than a line.

    Args:
        measure: (position, text) -> ems.
        rooms: the least ems of each piece (L).
    """
    words: list[list[int]] = []
    previous = ""
    for i, piece in enumerate(pieces):
        if not words or (piece and starts_word(previous, piece)):
            words.append([])
        words[-1].append(i)
        previous = piece or previous

    places: list[Place] = []
    line, x = 0, 0.0
    for word in words:
        parts = []  # (gap before it, its own room, line breaks after it) of each piece
        for i in word:
            lead, core, breaks = split_piece(pieces[i])
            room = max(measure(i, core), rooms[i]) if core else 0.0
            parts.append((measure(i, lead) if i > 0 else 0.0, room, breaks))
        wrapped = x > 0 and x + sum(gap + room for gap, room, _ in parts) > width
        for gap, room, breaks in parts:
            room = min(room, width)
            if wrapped or (x > 0 and room and x + gap + room > width):
                line, x, gap = line + 1, 0.0, 0.0
            wrapped = False
            # A line break, or the first bytes of a character, is a block that takes no room.
            places.append(Place(line, x + gap, room or 0.6))
            x += gap + room
            if breaks:
                line, x = line + breaks, 0.0
    return places


def split_piece(piece: str) -> tuple[str, str, int]:
    """(leading spaces, text, line breaks after it). Breaks inside a token, which byte-level BPE
    does not have, become a visible arrow."""
    core = piece.strip(" \n")
    if not core:
        breaks = piece.count("\n")
        return ("", "", breaks) if breaks else ("", piece, 0)
    lead = piece[: len(piece) - len(piece.lstrip(" "))]
    tail = piece[len(piece.rstrip("\n")) :]
    return lead, piece[len(lead) : len(piece) - len(tail)].replace("\n", "↵"), len(tail)
