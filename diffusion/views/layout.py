"""Where each position of a generation stands on a drawing, and the colours of its states.

A layout is computed once per generation from the text it ends with, so each position keeps its
place from first mask to last word.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffusion.views.frames import Frame

INK, PAPER, GREY, BLUE, ORANGE = "#1a1a1a", "#ffffff", "#d4d4d4", "#14558f", "#b34700"
FAINT = "#9c9c9c"  # of random tokens
TINTS = ("#f6eff9", "#eadbf1", "#dbc0e6")  # of settled tokens: low, lower, lowest confidence

UNKNOWN = " word"  # gives its width to a position that never shows text
# How far a token that is replaced later shrinks: at the end of a word, where the place of the final
# token can be made wider for it, and inside one, where a wider place would part the word.
SMALLEST_TEXT, SMALLEST_INSIDE = 0.8, 0.6


@dataclass
class Place:
    """Where a position stands, in ems; ``line`` counts from 0. The text of a character that is
    spread over several tokens covers the blocks of all of them."""

    line: int = 0
    x: float = 0.0
    width: float = 0.0
    text_x: float = 0.0
    text_width: float = 0.0


@dataclass
class Layout:
    """The places of all positions at one line width, and the number of lines."""

    places: list[Place]
    lines: int


def reserved_text(frames: Sequence[Frame]) -> list[str]:
    """The string whose room each position gets (L of the longest frame): its final text, or where
    the final frame shows none (masked, or after the end) the last that was shown."""
    final = frames[-1]
    cut = final.ends[-1] if final.ends else len(final.pieces)
    out = []
    for i in range(max(len(frame.pieces) for frame in frames)):
        if i <= cut and i < len(final.pieces) and not final.states[i].open:
            out.append(final.shown(i))
        else:
            shown = (f.shown(i) for f in reversed(frames) if i < len(f.pieces))
            out.append(next((text for text in shown if text), UNKNOWN))
    return out


def passing_texts(frames: Sequence[Frame]) -> list[set[str]]:
    """All texts that each position (L of the longest frame) shows at some time."""
    seen: list[set[str]] = [set() for _ in range(max(len(frame.pieces) for frame in frames))]
    for frame in frames:
        for i, state in enumerate(frame.states):
            if not state.pending:
                seen[i].add(split_piece(frame.shown(i))[1])
    return seen


def join(pieces: list[str | None]) -> list[str]:
    """Move what must be drawn in one go (a letter and its marks, letters of a script that is
    written from the right) to the last of its positions; None, an open position, parts."""
    out = ["" if piece is None else piece for piece in pieces]
    last = None  # the position of the text that stands directly before
    for i, piece in enumerate(pieces):
        if piece is None:
            last = None
        elif piece:
            if last is not None and _drawn_together(out[last][-1], piece[0]):
                out[last], out[i] = "", out[last] + piece
            last = i
    return out


def _drawn_together(before: str, after: str) -> bool:
    joiner = "\N{ZERO WIDTH JOINER}"
    marks = unicodedata.category(after) in ("Mn", "Mc", "Me") or joiner in (before, after)
    virama = unicodedata.combining(before) == 9
    from_right = all(unicodedata.bidirectional(c) in ("R", "AL", "NSM") for c in (before, after))
    return marks or virama or from_right


def starts_word(previous: str, piece: str) -> bool:
    """Whether a line may break between two pieces: at a space, or beside a wide character."""
    sides = piece[:1], previous[-1:]
    return any(c and (c.isspace() or unicodedata.east_asian_width(c) in "WF") for c in sides)


def passing_rooms(
    frames: Sequence[Frame], pieces: list[str], measure: Callable[..., float]
) -> list[float]:
    """The ems that each position must have so that tokens which are replaced later can be read."""
    out = []
    for texts, piece, after in zip(
        passing_texts(frames), pieces, [*pieces[1:], " "], strict=True
    ):  # fmt: skip
        share = SMALLEST_TEXT if starts_word(piece, after) else SMALLEST_INSIDE
        out.append(share * max(map(measure, texts), default=0.0))
    return out


def lay_out(
    pieces: list[str],
    bold: list[bool],
    measure: Callable[..., float],
    width: float,
    rooms: Sequence[float] = (),
) -> Layout:
    """Break ``pieces`` into lines of ``width`` ems: between words, inside one only if it is wider
    than a line. A piece takes at least ``rooms`` ems; ``measure`` (text, bold) gives its own."""

    def room_of(i: int, core: str) -> float:
        return max(measure(core, bold[i]), rooms[i] if rooms else 0.0) if core else 0.0

    words: list[list[int]] = []
    empty: list[int] = []  # the first bytes of a character: they go where the character goes
    previous = ""
    for i, piece in enumerate(pieces):
        if not piece:
            empty.append(i)
            continue
        if not words or starts_word(previous, piece):
            words.append([])
        words[-1] += [*empty, i]
        empty, previous = [], piece
    words.append(empty)

    places = [Place() for _ in pieces]
    line, x = 0, 0.0
    for word in words:
        parts = {i: split_piece(pieces[i]) for i in word}
        need = sum(
            measure(lead, bold[i]) + room_of(i, core) for i, (lead, core, _) in parts.items()
        )
        wrapped = x > 0 and x + need > width
        waiting: list[int] = []  # positions whose character ends at a later position
        for i, (lead, core, breaks) in parts.items():
            room = min(room_of(i, core), width)
            gap = measure(lead, bold[i]) if lead and i > 0 else 0.0
            if wrapped or (x > 0 and x + gap + room > width and core):
                line, x, gap = line + 1, 0.0, 0.0
            wrapped = False
            x += gap
            waiting.append(i)
            if core:
                part = room / len(waiting)
                for k, j in enumerate(waiting):
                    places[j] = Place(line, x + k * part, part, x, room)
                waiting = []
            else:
                # Nothing but a line break, or the first bytes of a character: a block that takes
                # no room.
                places[i] = Place(line, x, 0.6, x, 0.6)
            x += room if core else 0.0
            if breaks:
                line, x, waiting = line + breaks, 0.0, []
    return Layout(places, line + 1)


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
