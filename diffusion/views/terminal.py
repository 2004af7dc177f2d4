"""What a terminal shows: a text that fills in place while it is written, a film that is played, and
tables.

Texts and films are drawn on the alternate screen, as large as the window is at that moment. At the
end the whole text stays on the normal screen.
"""

from __future__ import annotations

import io
import os
import textwrap
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
from diffusion.views.frames import END_MARK, Frame, State, legend, status_line
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
GLYPHS = {State.MASKED: " ░░░", State.REMASKED: " ▓▓▓", "end": f" {END_MARK}"}
NOISE_COLUMNS = 4  # of a random token

WIDTH = 100  # columns of a text or a table: longer lines are hard to read
GAP = 3
NAME = 24  # columns that a name has at least, if it needs them


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
        self.starts: dict[int, list[int]] = {}  # the positions at which lines begin, by columns

    def text(self, frame: Frame, columns: int, height: int | None = None) -> Text:
        """As many lines of a frame as there is room for; ``height`` None: all of them."""
        rows = self.rows(frame, columns)
        if self.track.frames:
            rows += [Text()] * (len(self.rows(self.track.frames[-1], columns)) - len(rows))
        height = min(len(rows), height or len(rows))
        self.top = scroll(rows, height, self.top)
        return Text("\n", no_wrap=True).join(rows[self.top : self.top + height])

    def rows(self, frame: Frame, columns: int) -> list[Text]:
        """All lines of a frame; a wide character that does not fit a line is left out."""
        if columns not in self.starts:
            self.starts[columns] = _line_starts(self.track.frames or [frame], columns)
        pieces = [_piece(frame, i) for i in range(len(frame.pieces))]
        # Where a word began on the line before, its rest stays with it.
        befores = [" ", *pieces]
        words = [i for i, piece in enumerate(pieces) if starts_word(befores[i], piece)]
        starts = self.starts[columns]
        moved = (next((i for i in words if i >= start), len(pieces)) for start in starts)
        begins = sorted({0, *moved} - {len(pieces)})
        rows: list[Text] = []
        for begin, end in zip(begins, [*begins[1:], len(pieces)], strict=True):
            line = Text()
            for i in range(begin, end):
                core = pieces[i].lstrip(" ")
                if line:  # spaces have no style, so that neighbouring new words stay apart
                    line.append(pieces[i][: len(pieces[i]) - len(core)])
                line.append(core, STYLES[frame.kind(i)])
            if line.plain.endswith("\n") and end < len(pieces):
                line.right_crop()  # the line ends there anyway
            rows += line.wrap(None, columns, overflow="fold") if line else [line]
        for row in rows:
            row.rstrip()
        return rows


def _piece(frame: Frame, position: int) -> str:
    text, state = frame.shown(position), frame.states[position]
    if state is State.NOISE:
        return f" {set_cell_size(text.strip(), NOISE_COLUMNS)}"
    return GLYPHS[state] if state.open else text


def _line_starts(frames: Sequence[Frame], columns: int) -> list[int]:
    """Where lines begin, if every position is as wide as it may become."""
    pieces, seen = reserved(frames)
    pending = dict(enumerate(state.pending for state in frames[0].states))
    rooms = [
        max([(4 - piece.startswith(" ")) * pending.get(i, False), *map(cell_len, texts)])
        for i, (piece, texts) in enumerate(zip(pieces, seen, strict=True))
    ]
    places = lay_out(pieces, lambda i, text: cell_len(text), columns, rooms)
    lines = [place.line for place in places]
    return [i for i, line in enumerate(lines) if not i or line != lines[i - 1]]


def scroll(rows: Sequence[Text], height: int, top: int) -> int:
    """The first row to show in a window of ``height`` rows that showed ``top`` first: it moves as
    little as possible, and only to reach the row nearest to it that changes."""
    new = {STYLES[kind] for kind in (State.FRESH, State.REPLACED, State.REMASKED)}
    busy = [i for i, row in enumerate(rows) if any(span.style in new for span in row.spans)]
    limit = max(0, len(rows) - height)
    return min(
        (min(max(top, row - height + 1), row, limit) for row in busy or [top]),
        key=lambda moved: abs(moved - top),
    )


def line(text: str, style: str = "") -> Text:
    """One line, cut where there is no room for it."""
    return Text(printable(text), style, no_wrap=True, overflow="ellipsis")


def bar(over: float, whole: float, columns: int) -> Padding:
    """A line of which a part is over."""
    green = {"style": "dim", "complete_style": "green", "finished_style": "green"}
    return Padding(ProgressBar(max(whole, 1e-9), over, columns, **green), 0)


def status_row(track: Track, frame: Frame, columns: int) -> Text:
    """The status line with as many of its parts as fit, the last ones left out first."""
    status = track.status(frame)
    while len(status) > columns and " · " in status:
        status = status.rpartition(" · ")[0]
    return line(status, "dim")


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
    grid.add_row(*(status_row(pane.track, frame, width) for pane, frame in shown))
    return Group(grid, *foot)


def legend_row(kinds: set[str]) -> Text:
    """What styles and signs mean."""
    row = line("")
    for kind, label in legend(kinds):
        row.append("   " if row else "").append(GLYPHS.get(kind, label).strip(), STYLES[kind])
        if kind in GLYPHS:
            row.append(f" {label}", "dim")
    return row


def settled(frame: Frame) -> Frame:
    """The frame as it stays: nothing in it is new any more."""
    new = (State.FRESH, State.REPLACED)
    states = [State.SETTLED if s in new else s for s in frame.states]
    return replace(frame, states=states)


class LiveView(ExitStack):
    """Shows frames in place while they are made, as a context, and leaves the finished text and its
    status line on the normal screen. Where ``live`` is False (see `supports_live`) it is silent.

    Args:
        stream: where to draw.
        status: frame -> the line below the text.
    """

    def __init__(self, stream: TextIO, status: Callable[[Frame], str] = status_line):
        super().__init__()  # which holds the alternate screen
        self.stream = stream
        self.hold = 0.0  # least seconds between two frames, for models faster than the eye
        self.live = supports_live(self.stream)
        self.last: Frame | None = None
        self._kinds: set[str] = set()  # what the legend has to explain
        self._next_draw = 0.0
        self._console: Console | None = None  # once there is something to show
        self._pane = Pane(Track((), status=status))

    def __exit__(self, kind, *exc) -> None:
        if kind is None:
            self.finish()
        super().__exit__(kind, *exc)

    def show(self, frame: Frame) -> None:
        """Draw a frame in the window as large as it is now."""
        self.last = frame
        if not self.live:
            return
        if self._console is None:
            self._console = screen_of(self.stream)
            self.enter_context(self._console.screen())
        time.sleep(max(0.0, self._next_draw - time.monotonic()))
        columns, lines = self._console.size
        self._kinds |= frame.kinds()
        foot = []
        if lines >= 10:
            over, whole = frame.written, frame.written + frame.masks + frame.noise
            foot = [bar(over, whole, min(columns, WIDTH)), legend_row(self._kinds)]
        self._console.update_screen(window([self._pane], [frame], columns, lines, foot))
        self._next_draw = time.monotonic() + self.hold

    def finish(self) -> None:
        """Back to the normal screen, and leave the last frame there. A second call does nothing."""
        if self._console is None:
            return
        time.sleep(max(0.0, self._next_draw - time.monotonic()))
        console, self._console = self._console, None
        self.close()
        last = settled(self.last)
        text = Pane(self._pane.track).text(last, min(console.width, WIDTH))
        console.print(Group(text, status_row(self._pane.track, last, console.width)))


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
    frames = film.frames(moment)
    if lines is None:
        frames = [settled(frame) for frame in frames]
    elif lines >= 12 + len(foot):
        foot.append(legend_row(film.kinds))
    return window(panes, frames, columns, lines, foot)


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


# ---------------------------------------------------------------- tables


def wrapped(text: str) -> list[str]:
    """The lines of a text, those that are too long in several parts."""
    return [part for line in text.splitlines() for part in textwrap.wrap(line, WIDTH) or [""]]


def aligned(table: Sequence[Sequence[str]], names: int) -> list[str]:
    """The lines of a table whose first row is its head: the first ``names`` columns hold words, to
    the left, the others numbers, to the right. Long words and heads take several lines, and columns
    that still do not fit follow below, beside the names again."""
    widths = []
    for i, (head, *cells) in enumerate(zip(*table, strict=True)):
        words = [head] if i < names else head.split()
        widths.append(2 + max(map(cell_len, [*words, *cells]), default=1))
    room = WIDTH + 2 - sum(min(width, NAME + 2) for width in widths[:names])
    parts: list[list[int]] = [[]]
    for i in range(names, len(widths)):
        if parts[-1] and sum(widths[j] for j in [*parts[-1], i]) > room:
            parts.append([])
        parts[-1].append(i)
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    for part in parts if table else ():
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for i in [*range(names), *part]:
            number = {"justify": "right", "width": widths[i] - 2} if i in part else {}
            grid.add_column(Text(table[0][i]), overflow="fold", **number)
        for row in table[1:]:
            grid.add_row(*(Text(row[i]) for i in [*range(names), *part]))
        console.print(grid)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]
