"""Frames in the terminal: a text that fills in place while it is written, or a film that is played.

Both draw on the alternate screen, as large as the window is at that moment. At the end the whole
text stays on the normal screen.
"""

from __future__ import annotations

import os
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Self, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.text import Text

from diffusion.errors import printable
from diffusion.views.film import Film, Moment, Track
from diffusion.views.frames import END_MARK, Frame, State, legend, status_line
from diffusion.views.layout import lay_out, reserved, starts_word

# Distinguishable by glyph and weight first, by colour second. Tints and shades are equally light, so
# that they read on a dark and on a light screen.
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
    "guess1": "italic #8f8f8f",
    "guess2": "italic #7d8a99",
    "guess3": "italic #6b87a8",
    "end": "dim",
}
# An open position takes about the width of a token, so that the text around it moves little.
GLYPHS = {State.MASKED: " ░░░", State.REMASKED: " ▓▓▓", "end": f" {END_MARK}"}

WIDEST = 100  # columns of a text: longer lines are hard to read
GAP = 3
GUESS_COLUMNS = 6


def colour_enabled(stream: TextIO) -> bool:
    """Whether escape sequences may be written: a terminal, not a dumb one, and no NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def supports_live(stream: TextIO) -> bool:
    """Whether a `LiveView` on this stream draws; otherwise it is silent."""
    return colour_enabled(stream) and (os.name == "nt" or bool(os.environ.get("TERM")))


def screen_of(stream: TextIO) -> Console:
    """A terminal to draw on."""
    return Console(file=stream, force_terminal=True, legacy_windows=False, markup=False,
                   emoji=False, highlight=False)  # fmt: skip


class Lines:
    """Breaks the frames of one generation into lines, between words. While masks are left, each
    line keeps its positions, so that a token that comes in moves what follows it on its line and
    nothing else.

    Args:
        columns: of the window; a wide character that does not fit it is left out.
        frames: all frames, where they are known: lines then have room for the widest token that
            each position ever shows. Otherwise a mask is given the room of an average token.
    """

    def __init__(self, columns: int, frames: Sequence[Frame] = ()):
        self.columns = max(1, columns)
        self.starts = self._break(frames) if frames else []  # the positions at which lines begin

    def rows(self, frame: Frame) -> list[Text]:
        """The frame as lines of at most ``columns`` columns."""
        if not self.starts:
            self.starts = self._break([frame])
        pieces = [self._piece(frame, i) for i in range(len(frame.pieces))]
        # Where a word began on the line before, its rest stays with it.
        befores = [" ", *pieces]
        words = [i for i, piece in enumerate(pieces) if starts_word(befores[i], piece)]
        moved = (next((i for i in words if i >= start), len(pieces)) for start in self.starts)
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
            rows += line.wrap(None, self.columns, overflow="fold") if line else [line]
        for row in rows:
            row.rstrip()
        return rows

    def _piece(self, frame: Frame, position: int) -> str:
        text, state = frame.drawn(position), frame.states[position]
        if not state.pending:
            return text
        text = text.strip()
        fits = set_cell_size(text, min(GUESS_COLUMNS, max(3, cell_len(text))))
        return f" {fits}" if text else GLYPHS.get(state, " ")

    def _break(self, frames: Sequence[Frame]) -> list[int]:
        """Where lines begin, if every position is as wide as it may become."""
        pieces, seen = reserved(frames)
        first = [state.pending for state in frames[0].states]
        first += [False] * (len(pieces) - len(first))
        if len(frames) == 1:  # what will stand at a mask is not known yet
            pieces = [" words" if o else p for o, p in zip(first, pieces, strict=True)]
        glyphs = [(4 - piece.startswith(" ")) * o for o, piece in zip(first, pieces, strict=True)]
        rooms = [max([g, *map(cell_len, ts)]) for g, ts in zip(glyphs, seen, strict=True)]
        places = lay_out(pieces, lambda i, text: cell_len(text), self.columns, rooms)
        lines = [place.line for place in places]
        return [i for i, line in enumerate(lines) if not i or line != lines[i - 1]]


def scroll(rows: Sequence[Text], height: int, top: int) -> int:
    """The first row to show in a window of ``height`` rows that showed ``top`` first: it moves as
    little as possible, and only to reach the row nearest to it that changes."""

    for kinds in ((State.FRESH, State.REPLACED, State.REMASKED), (State.MASKED, State.NOISE)):
        styles = {STYLES[kind] for kind in kinds}
        busy = [i for i, row in enumerate(rows) if any(s.style in styles for s in row.spans)]
        if busy:
            break
    limit = max(0, len(rows) - height)
    return min(
        (min(max(top, row - height + 1), row, limit) for row in busy or [len(rows) - 1]),
        key=lambda moved: abs(moved - top),
    )


class Panes:
    """Tracks in a window, side by side: a name (if it has one), the text and a status line of each.

    Args:
        known: the tracks have all their frames; the room of the finished texts is then kept from
            the start, so that nothing moves.
    """

    def __init__(self, tracks: Sequence[Track], known: bool = True):
        self.tracks, self.known = tracks, known
        self.tops = [0] * len(tracks)
        self.lines: dict[tuple[int, int], Lines] = {}

    def rows(self, frames: Sequence[Frame], columns: int, lines: int | None, foot: list) -> list:
        """The rows of a window; ``lines`` None: as many as it takes. ``foot`` stands below."""
        n = len(self.tracks)
        width = max(1, (min(columns, n * (WIDEST + GAP) - GAP) - GAP * (n - 1)) // n)
        around = len(foot) + 2 + any(track.name for track in self.tracks)
        room = None if lines is None else max(1, lines - around)
        panes = [self._pane(i, frame, width, room) for i, frame in enumerate(frames)]
        tallest = max(map(len, panes))
        for pane in panes:  # names above, status lines below, the same rows between
            pane[-1:-1] = [Text() for _ in range(tallest + 1 - len(pane))]
            for row in pane:
                row.truncate(width, pad=n > 1)
        body = [Text(" " * GAP).join(parts) for parts in zip(*panes, strict=True)]
        return (body + foot)[:lines]

    def _pane(self, i: int, frame: Frame, columns: int, room: int | None) -> list[Text]:
        """The name, as many rows of the text as there is room, and the status line."""
        track = self.tracks[i]
        if (i, columns) not in self.lines:
            self.lines[i, columns] = Lines(columns, track.frames if self.known else ())
        lines = self.lines[i, columns]
        text = lines.rows(frame)
        if self.known:
            text += [Text() for _ in range(len(lines.rows(track.frames[-1])) - len(text))]
        height = min(len(text), room or len(text))
        self.tops[i] = scroll(text, height, self.tops[i])
        rows = text[self.tops[i] : self.tops[i] + height]
        if track.name:
            rows.insert(0, Text(set_cell_size(" " + printable(track.name), columns), "reverse"))
        status = Text(fit_status(frame, columns, track.status), "dim")
        left = frame.masks + frame.noise
        width = min(30, columns - status.cell_len - 2)
        if not self.known and left and width >= 8:
            over = round(width * frame.written / (frame.written + left))
            status = bar(over, width).append("  ").append(status)
        return [*rows, status]


def bar(over: int, width: int) -> Text:
    """A line of ``width`` columns, the first ``over`` of them filled."""
    return Text("━" * over, "green").append("─" * (width - over), "dim")


def fit_status(frame: Frame, columns: int, status: Callable[[Frame], str] = status_line) -> str:
    """The status line with as many of its parts as fit, the last ones left out first."""
    line = status(frame)
    while len(line) > columns and " · " in line:
        line = line.rpartition(" · ")[0]
    return line[:columns]


def legend_row(kinds: set[str], columns: int) -> Text:
    """What styles and signs mean, as far as they fit."""
    parts = []
    for kind, label in legend(kinds):
        part = Text(GLYPHS.get(kind, label).strip(), STYLES[kind])
        parts.append(part.append(f" {label}", "dim") if kind in GLYPHS else part)
    row = Text("   ").join(parts)
    row.truncate(columns, overflow="ellipsis")
    return row


def settled(frame: Frame) -> Frame:
    """The frame as it stays: nothing in it is new any more."""
    new = (State.FRESH, State.REPLACED)
    states = [State.SETTLED if s in new else s for s in frame.states]
    return replace(frame, states=states)


class LiveView:
    """Shows frames in place while they are made, as a context, and leaves the finished text and its
    status line on the normal screen. Where ``live`` is False (see `supports_live`) it is silent.

    Args:
        stream: where to draw.
        hold: least seconds between two frames, for models faster than the eye.
        status: frame -> the line below the text.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        hold: float = 0.0,
        status: Callable[[Frame], str] = status_line,
    ):
        self.stream, self.hold, self.status = stream or sys.stdout, hold, status
        self.live = supports_live(self.stream)
        self.last: Frame | None = None
        self._kinds: set[str] = set()  # what the legend has to explain
        self._next_draw = 0.0
        self._console: Console | None = None  # once there is something to show
        self._full = ExitStack()  # holds the alternate screen
        self._panes = Panes([Track((), status=status)], known=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind, *exc) -> None:
        if kind is None:
            self.finish()
        self._full.close()

    def show(self, frame: Frame) -> None:
        """Draw a frame in the window as large as it is now."""
        self.last = frame
        if not self.live:
            return
        if self._console is None:
            self._console = screen_of(self.stream)
            self._full.enter_context(self._console.screen())
        time.sleep(max(0.0, self._next_draw - time.monotonic()))
        columns, lines = self._console.size
        self._kinds |= frame.kinds()
        foot = [legend_row(self._kinds, columns)] if lines >= 10 else []
        self._console.update_screen(Group(*self._panes.rows([frame], columns, lines, foot)))
        self._next_draw = time.monotonic() + self.hold

    def finish(self) -> None:
        """Back to the normal screen, and leave the last frame there. A second call does nothing."""
        if self._console is None:
            return
        time.sleep(max(0.0, self._next_draw - time.monotonic()))
        self._full.close()
        console, self._console = self._console, None
        last = settled(self.last)
        status = Text(fit_status(last, console.width, self.status), "dim")
        console.print(Group(*Lines(min(console.width, WIDEST)).rows(last), status))


def time_lines(film: Film, moment: Moment, columns: int) -> list[Text]:
    """A time line for each track on one scale, and the note or the verdict."""
    if not film.ends:
        return []
    label = min(24, columns // 4)
    whole = max(1, columns - label - 10)
    out = [Text()]
    for i, (track, end) in enumerate(zip(film.tracks, film.ends, strict=True)):
        reach = max(1, round(whole * film.filled(i)))
        over = round(whole * film.filled(i, moment.time))
        row = Text(set_cell_size(printable(track.name), label) + " ")
        out.append(row.append(bar(over, reach)).append(f" {end:.2f} s"))
    final = moment is film.moments[-1]
    out.append(Text(printable(film.verdict if final and film.verdict else film.note)))
    for row in out:
        row.truncate(columns)
    return out


def film_rows(film: Film, panes: Panes, moment: Moment, columns: int, lines: int | None) -> list:
    """A moment of a film in a window; ``lines`` None: as many rows as it takes, and no legend."""
    width = min(columns, WIDEST)
    foot = time_lines(film, moment, width)
    if lines is not None and lines >= 12 + len(foot):
        foot.append(legend_row(film.kinds, width))
    return panes.rows(film.frames(moment), columns, lines, foot)


def play(
    film: Film,
    stream: TextIO,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Play a film once in a terminal, and leave its last moment on the normal screen. A slow
    terminal leaves moments out and is never late. Where `supports_live` says no, nothing is done.
    """
    if not supports_live(stream):
        return
    console, panes = screen_of(stream), Panes(film.tracks)
    final = film.moments[-1]
    with console.screen():
        began, i = clock(), 0
        while True:
            rows = film_rows(film, panes, film.moments[i], *console.size)
            console.update_screen(Group(*rows))
            if film.moments[i] is final:
                break
            sleep(max(0.0, began + film.starts[i + 1] - clock()))
            i = max(i + 1, bisect_right(film.starts, clock() - began) - 1)
        sleep(min(1.0, final.hold))
    calm = [replace(t, frames=[*t.frames[:-1], settled(t.frames[-1])]) for t in film.tracks]
    calm_film = replace(film, tracks=calm)
    rows = film_rows(calm_film, Panes(calm), final, console.width, None)
    for row in rows:
        row.rstrip()
    console.print(Group(*rows))
