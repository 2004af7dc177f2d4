"""What a terminal shows: a text that fills in place while it is written, and a film that is played.

Texts and films are drawn on the alternate screen, as large as the window is at that moment. At the
end the whole text stays on the normal screen.
"""

from __future__ import annotations

import os
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from diffusion.errors import printable
from diffusion.views.film import Film, Moment, Track
from diffusion.views.frames import Frame, State, legend, status_line
from diffusion.views.layout import lay_out, reserved, starts_word

# Distinguishable by glyph and weight first, by colour second. Tints are equally light, so that they
# read on a dark and on a light screen.
STYLES = {
    State.GIVEN: "bold",
    State.MASKED: "dim",
    State.FRESH: "bold underline green",
    State.SETTLED: "",
    State.REMASKED: "yellow",
    State.REPLACED: "underline cyan",
    State.NOISE: "dim italic",
    "doubt1": "#857391",
    "doubt2": "#9b5fb0",
    "doubt3": "#b13fd0",
    "end": "dim",
}
# An open position takes about the width of a token, so that the text around it moves little.
GLYPHS = {State.MASKED: " ░░░", State.REMASKED: " ▓▓▓"}
NOISE_COLUMNS = 4  # of a random token

WIDTH = 100  # columns of a text: longer lines are hard to read
GAP = 3


def supports_live(stream: TextIO) -> bool:
    """Whether a `LiveView` on this stream draws: a terminal, not a dumb one, and no NO_COLOR."""
    kind = os.environ.get("TERM") or ("windows" if os.name == "nt" else "dumb")
    return stream.isatty() and not os.environ.get("NO_COLOR") and kind != "dumb"


def screen_of(stream: TextIO) -> Console:
    """A terminal to draw on."""
    return Console(file=stream, force_terminal=True, legacy_windows=False, markup=False,
                   emoji=False, highlight=False)  # fmt: skip


class Pane:
    """The text of a track in a window. While masks are left, each line keeps its positions, so that a
    token that comes in moves what follows it on its line and nothing else.

    Args:
        track: with all its frames, lines have room for the widest token that each position ever
            shows, and the finished text has its room from the start; without any it is being
            written, and a mask has the room of an average token.
    """

    def __init__(self, track: Track):
        self.track, self.top = track, 0
        self.lines: dict[int, list[int]] = {}  # the line of each position, by columns

    def text(self, frame: Frame, columns: int, height: int | None = None) -> Text:
        """As many lines of a frame as there is room for; ``height`` None: all, and nothing is new."""
        if height is None:
            new = (State.FRESH, State.REPLACED)
            settled = [State.SETTLED if state in new else state for state in frame.states]
            frame = replace(frame, states=settled)
        rows = self.rows(frame, columns)
        if self.track.frames:
            rows += [Text()] * (len(self.rows(self.track.frames[-1], columns)) - len(rows))
        height = min(len(rows), height or len(rows))
        self.top = scroll(rows, height, self.top)
        return Text("\n", no_wrap=True).join(rows[self.top : self.top + height])

    def rows(self, frame: Frame, columns: int) -> list[Text]:
        """All lines of a frame; a wide character that does not fit a line is left out."""
        if columns not in self.lines:
            self.lines[columns] = _lines(self.track.frames or [frame], columns)
        lines = self.lines[columns]
        text, line, previous = Text(), 0, "\n"
        for i in range(len(frame.pieces)):
            piece, own = _piece(frame, i), lines[i] if i < len(lines) else line
            if own > line and starts_word(previous, piece):  # the rest of a word stays with it
                line = own
                if not previous.endswith("\n"):
                    text.append("\n")
                    previous = "\n"
            core = piece.lstrip(" ")
            if not previous.endswith("\n"):
                text.append(" " * (len(piece) - len(core)))  # without a style, between new words
            text.append(core, STYLES[frame.kind(i)])
            previous = piece or previous
        return _wrapped(text, columns)


# The flag of a country is a pair of letters, between which rich would break a line. The pair that
# stands for it is as wide and as long, and rich keeps it together.
_COUNTRY, _PAIR = re.compile("[\U0001f1e6-\U0001f1ff]{2}"), "\u4e00\U000e01ef"


def _wrapped(text: Text, columns: int) -> list[Text]:
    """The lines of a text, without spaces at their ends."""
    flags = iter(_COUNTRY.findall(text.plain))
    text.plain = _COUNTRY.sub(_PAIR, text.plain)
    rows = list(text.wrap(None, columns, overflow="fold"))
    for row in rows:
        row.plain = re.sub(_PAIR, lambda _: next(flags), row.plain.rstrip())
    return rows


def _piece(frame: Frame, position: int) -> str:
    text, state = frame.shown(position), frame.states[position]
    if state is State.NOISE:
        return f" {set_cell_size(text.strip(), NOISE_COLUMNS)}"
    return GLYPHS[state] if state.open else text


def _lines(frames: Sequence[Frame], columns: int) -> list[int]:
    """The line of each position, if each is as wide as it may become."""
    pieces, _ = reserved(frames)
    rooms = [
        max(cell_len(_piece(f, i)) for f in frames if i < len(f.pieces)) - piece.startswith(" ")
        for i, piece in enumerate(pieces)
    ]
    places = lay_out(pieces, lambda i, text: cell_len(text), columns, rooms)
    return [place.line for place in places]


def scroll(rows: Sequence[Text], height: int, top: int) -> int:
    """The first row to show in a window of ``height`` rows that showed ``top`` first: it moves as
    little as possible, and only to reach the first row that changes."""
    new = {STYLES[kind] for kind in (State.FRESH, State.REPLACED, State.REMASKED)}
    busy = (i for i, row in enumerate(rows) if any(span.style in new for span in row.spans))
    changed = next(busy, top)
    return min(max(top, changed - height + 1), changed, max(0, len(rows) - height))


def line(text: str, style: str = "") -> Text:
    """One line, cut where there is no room for it."""
    return Text(printable(text), style, no_wrap=True, overflow="ellipsis")


def bar(over: float, whole: float, columns: int) -> Padding:
    """A line of which a part is over."""
    green = {"style": "dim", "complete_style": "green", "finished_style": "green"}
    return Padding(ProgressBar(max(whole, 1e-9), over, columns, **green), 0)


def window(
    panes: Sequence[Pane], frames: Sequence[Frame], columns: int, lines: int | None, foot: Sequence
) -> Group:
    """Tracks side by side: a name (if they have one), the text and a status line of each, with the
    lines ``foot`` below. ``lines`` None: as many as it takes."""
    n = len(panes)
    width = max(1, (min(columns, n * (WIDTH + GAP) - GAP) - GAP * (n - 1)) // n)
    grid = Table.grid(padding=(0, GAP, 0, 0))
    for _ in panes:
        grid.add_column(width=width, no_wrap=True)
    named = any(pane.track.name for pane in panes)
    if named:
        grid.add_row(*(line(f" {pane.track.name} ", "reverse") for pane in panes))
    room = lines and max(1, lines - len(foot) - 2 - named)
    shown = list(zip(panes, frames, strict=True))
    grid.add_row(*(pane.text(frame, width, room) for pane, frame in shown))
    grid.add_row("")
    grid.add_row(*(line(pane.track.status(frame), "dim") for pane, frame in shown))
    return Group(grid, *foot)


def legend_row(kinds: set[str]) -> Text:
    """What styles and signs mean."""
    row = line("")
    for kind, label in legend(kinds):
        sign = f"{GLYPHS.get(kind, '')} {label}".strip()
        row.append("   " if row else "").append(sign, STYLES[kind])
    return row


class LiveView(ExitStack):
    """Shows frames in place while they are made, as a context, and leaves the finished text and its
    status line on the normal screen. Where a stream does not support that it is silent.

    Args:
        stream: where to draw.
        status: frame -> the line below the text.
    """

    def __init__(self, stream: TextIO, status: Callable[[Frame], str] = status_line):
        super().__init__()  # which holds the alternate screen
        self.hold = 0.0  # least seconds between two frames, for models faster than the eye
        self._console = screen_of(stream) if supports_live(stream) else None
        self._last: Frame | None = None
        self._kinds: set[str] = set()  # what the legend has to explain
        self._next_draw = 0.0
        self._pane = Pane(Track((), status=status))

    def __exit__(self, kind, *exc) -> None:
        super().__exit__(kind, *exc)
        if kind is None and self._last is not None:
            track, columns = self._pane.track, min(self._console.width, WIDTH)
            text, status = Pane(track).text(self._last, columns), track.status(self._last)
            self._console.print(Group(text, line(status, "dim")))

    def show(self, frame: Frame) -> None:
        """Draw a frame in the window as large as it is now."""
        if self._console is None:
            return
        if self._last is None:
            self.enter_context(self._console.screen())
        self._last = frame
        time.sleep(max(0.0, self._next_draw - time.monotonic()))
        columns, lines = self._console.size
        self._kinds |= frame.kinds()
        foot = []
        if lines >= 10:
            whole = len(frame.states) - frame.states.count(State.GIVEN)
            foot = [bar(frame.written, whole, min(columns, WIDTH)), legend_row(self._kinds)]
        self._console.update_screen(window([self._pane], [frame], columns, lines, foot))
        self._next_draw = time.monotonic() + self.hold


def film_window(
    film: Film, panes: Sequence[Pane], moment: Moment, columns: int, lines: int | None
) -> Group:
    """A moment of a film on a clock, with a time line for each track on one scale; ``lines`` None:
    as it stays, in as many rows as it takes, and without a legend."""
    foot, part = [line("")], min(columns, WIDTH) // 4
    for track, end in zip(film.tracks, film.ends, strict=True):
        row = Table.grid(padding=(0, 1, 0, 0))
        row.add_column(width=part)
        over = bar(min(moment.time, end), max(film.ends), 2 * part)
        row.add_row(line(track.name), over, line(f"{end:.2f} s"))
        foot.append(row)
    foot.append(line(film.verdict if moment is film.moments[-1] else film.note))
    if lines and lines >= 12 + len(foot):
        foot.append(legend_row(film.kinds))
    return window(panes, film.frames(moment), columns, lines, foot)


def play(film: Film, stream: TextIO) -> None:
    """Play a film on a clock once in a terminal, and leave its last moment on the normal screen. A
    slow terminal leaves moments out and is never late."""
    console, panes = screen_of(stream), [Pane(track) for track in film.tracks]
    final = film.moments[-1]
    with console.screen():
        began, i = time.monotonic(), 0
        while True:
            console.update_screen(film_window(film, panes, film.moments[i], *console.size))
            if film.moments[i] is final:
                break
            time.sleep(max(0.0, began + film.starts[i + 1] - time.monotonic()))
            i = max(i + 1, bisect_right(film.starts, time.monotonic() - began) - 1)
        time.sleep(min(1.0, final.hold))
    console.print(film_window(film, panes, final, console.width, None))
