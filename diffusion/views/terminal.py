"""The live view: a canvas that fills in place in the terminal.

The view draws on the alternate screen, row by row at absolute places and with line wrapping off,
so a resize, a text taller than the window or a character that is wider than we think can spoil
one row of one frame at most. When it is finished, the whole text stays on the normal screen.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Self, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from diffusion.views.frames import END_MARK, Frame, State, status_line

# Told apart by glyph and weight first, by colour second.
STYLES = {
    State.GIVEN: "bold",
    State.MASKED: "dim",
    State.FRESH: "bold underline green",
    State.SETTLED: "",
    State.REMASKED: "yellow",
    State.REPLACED: "underline cyan",
    State.NOISE: "dim italic",
}
# Settled tokens by `Frame.doubt`: equally light, so that they read on a dark and on a light screen.
DOUBT_STYLES = ("", "#857391", "#9b5fb0", "#b13fd0")
# What a mask remembers, by `Frame.guess`, as the doubts: readable on dark and on light screens.
GUESS_STYLES = ("", "italic #8f8f8f", "italic #7d8a99", "italic #6b87a8")
GUESS_COLUMNS = 6
# An open position takes about the width of a token, so that the text around it moves little.
GLYPHS = {State.MASKED: " ░░░", State.REMASKED: " ▓▓▓"}
ASCII_GLYPHS = {State.MASKED: " ___", State.REMASKED: " ###"}

WIDEST = 100  # columns of a text: longer lines are hard to read
# Columns of a token that is still to be written, with its space: mean and standard deviation.
TOKEN, SPREAD = 4.6, 2.6


def colour_enabled(stream: TextIO) -> bool:
    """Whether escape sequences may be written: a terminal, not a dumb one, and no NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def supports_live(stream: TextIO) -> bool:
    """Whether a `LiveView` on this stream draws; otherwise it is silent."""
    return colour_enabled(stream) and (os.name == "nt" or bool(os.environ.get("TERM")))


def glyphs_of(stream: TextIO) -> dict[State, str]:
    """What open positions look like on a terminal of this encoding."""
    try:
        "░▓█∎·━".encode(stream.encoding or "utf-8")
        return GLYPHS
    except UnicodeEncodeError:
        return ASCII_GLYPHS


def window_size(stream: TextIO) -> os.terminal_size:
    """(columns, lines) of the terminal as it is now."""
    try:
        size = os.get_terminal_size(stream.fileno())
        if size.columns and size.lines:
            return size
    except (OSError, ValueError, AttributeError):
        pass
    return shutil.get_terminal_size()


class Screen:
    """A terminal that is drawn on: `full` is the alternate screen, as large as the window."""

    def __init__(self, stream: TextIO):
        self.stream, self.glyphs = stream, glyphs_of(stream)
        self.console = Console(
            file=stream,
            force_terminal=True,
            legacy_windows=False,
            markup=False,
            emoji=False,
            highlight=False,
        )
        self.measure()

    def measure(self) -> tuple[int, int]:
        """(columns, lines) as they are now."""
        self.console.size = size = window_size(self.stream)
        return size.columns, size.lines

    @contextmanager
    def full(self) -> Iterator[None]:
        """The alternate screen, restored on leaving whatever happens."""
        with self.console.screen():
            self.stream.write("\x1b[?7l")  # no line wrapping: a row that is too wide stays one
            try:
                yield
            finally:
                self.stream.write("\x1b[0m\x1b[?7h")

    def draw(self, rows: Sequence) -> None:
        """Replace what the full screen shows by ``rows``, one renderable a line."""
        self.console.update_screen(Group(*rows[: self.console.height]))
        self.stream.flush()

    def leave(self, rows: Sequence) -> None:
        """Print the rows on the normal screen, where they stay."""
        self.console.print(Group(*rows))


class Lines:
    """Breaks the frames of one generation into lines, between words. While masks are left, each
    line keeps its positions, so that a token that comes in moves what follows it on its line and
    nothing else.

    Args:
        columns: of the window; a wide character that does not fit it is left out.
        final: all frames, where they are known: lines then have room for the widest token that
            each position ever shows. Otherwise a mask is given the room of an average token.
    """

    def __init__(self, columns: int, glyphs: dict[State, str], final: Sequence[Frame] = ()):
        self.columns, self.glyphs, self.final = max(1, columns), glyphs, final
        self.starts: list[int] = []  # the positions at which lines begin

    def rows(self, frame: Frame) -> list[Text]:
        """The frame as lines of at most ``columns`` columns."""
        if not self.starts:
            self.starts = self._break(frame)
        pieces = [
            self._pending(frame, i) if state.pending else frame.shown(i)
            for i, state in enumerate(frame.states)
        ]
        rows: list[Text] = []
        begins = self._whole_words(frame, pieces)
        for begin, end in zip(begins, [*begins[1:], len(pieces)], strict=True):
            line = Text()
            for i in range(begin, end):
                core = pieces[i].lstrip(" ")
                if line:  # spaces have no style, so that neighbouring new words stay apart
                    line.append(pieces[i][: len(pieces[i]) - len(core)])
                line.append(core, style_of(frame, i))
            if line.plain.endswith("\n") and end < len(pieces):
                line.right_crop()  # the line ends there anyway
            rows += line.wrap(None, self.columns, overflow="fold") if line else [line]
        for row in rows:
            row.rstrip()
        return rows

    def _pending(self, frame: Frame, position: int) -> str:
        """A mask, or what it remembers, or noise."""
        text, shade = frame.guess(position)
        if frame.states[position] is State.NOISE:
            text = frame.shown(position).strip()
        elif not shade:
            return self.glyphs[frame.states[position]]
        return " " + set_cell_size(text, min(GUESS_COLUMNS, max(3, cell_len(text))))

    def _break(self, frame: Frame) -> list[int]:
        """Where lines begin: as many words as surely fit, while masks are left."""
        if not self.final and not (frame.masks or frame.noise):
            return [0]
        frames = self.final or [frame]
        starts, used, unknown = [0], 0.0, 0  # of the line so far
        word, width, hidden = 0, 0.0, 0  # where the word began, and the same of it
        length = max(len(f.pieces) for f in frames)
        for i in range(length + 1):
            texts = [f.shown(i) for f in frames if i < len(f.pieces) and not f.states[i].pending]
            if i == length or not texts or texts[-1].startswith((" ", "\n")):
                if used + width + 1.5 * SPREAD * math.sqrt(unknown + hidden) > self.columns:
                    starts.append(word)
                    used, unknown = 0.0, 0
                used, unknown = used + width, unknown + hidden
                word, width, hidden = i, 0.0, 0
            if self.final and any(f.states[i].pending for f in frames if i < len(f.pieces)):
                texts.insert(0, self.glyphs[State.MASKED])
            width += max(map(cell_len, texts), default=TOKEN)
            hidden += not texts
            if texts and texts[-1].endswith("\n"):
                starts.append(i + 1)
                used, unknown, word, width, hidden = 0.0, 0, i + 1, 0.0, 0
        return sorted({start for start in starts if start < length} | {0})

    def _whole_words(self, frame: Frame, pieces: list[str]) -> list[int]:
        """The starts, moved to the right over the rest of a word that began on the line before."""
        if self.final:
            return [start for start in self.starts if start < max(1, len(pieces))]
        moved = []
        for start in self.starts:
            while (
                0 < start < len(pieces)
                and not frame.states[start].pending
                and not pieces[start].startswith(" ")
                and pieces[start - 1][-1:].strip()
            ):
                start += 1
            if start < len(pieces) and start > (moved[-1] if moved else -1):
                moved.append(start)
        return moved


def style_of(frame: Frame, position: int) -> str:
    state = frame.states[position]
    if shade := frame.guess(position)[1]:
        return GUESS_STYLES[shade]
    return DOUBT_STYLES[frame.doubt(position)] if state is State.SETTLED else STYLES[state]


def scroll(rows: Sequence[Text], height: int, top: int) -> int:
    """The first row to show in a window of ``height`` rows that showed ``top`` first: it moves as
    little as possible, and only to reach the row nearest to it that changes."""

    def having(*states: State) -> list[int]:
        styles = {STYLES[state] for state in states}
        styles |= set(GUESS_STYLES[1:]) if State.MASKED in states else set()
        return [i for i, row in enumerate(rows) if any(s.style in styles for s in row.spans)]

    busy = having(State.FRESH, State.REPLACED, State.REMASKED)
    busy = busy or having(State.MASKED, State.NOISE) or [len(rows) - 1]
    limit = max(0, len(rows) - height)
    return min(
        (min(max(top, row - height + 1), row, limit) for row in busy),
        key=lambda moved: abs(moved - top),
    )


def settled(frame: Frame) -> Frame:
    """The frame as it stays: nothing in it is new any more."""
    new = (State.FRESH, State.REPLACED)
    states = [State.SETTLED if s in new else s for s in frame.states]
    return replace(frame, states=states)


def fit_status(frame: Frame, columns: int, status: Callable = status_line) -> str:
    """The status line with as many of its parts as fit, the last ones left out first."""
    parts = status(frame, "\n").split("\n")
    for count in range(len(parts), 0, -1):
        for separator in (" · ", "  ", " "):
            line = separator.join(parts[:count])
            if len(line) <= columns:
                return line
    return parts[0][:columns]


def legend(
    glyphs: dict[State, str],
    columns: int,
    doubt: bool,
    masks: bool = True,
    states: Collection[State] = (),
    guesses: bool = False,
) -> Text:
    """What styles and signs mean, as far as they fit; ``states``: what else occurs; ``guesses``:
    whether masks show what they remember."""
    parts = [Text("given", STYLES[State.GIVEN]), Text("just written", STYLES[State.FRESH])]
    if masks:
        for state, name in ((State.MASKED, "masked"), (State.REMASKED, "re-masked")):
            parts.append(Text(glyphs[state].strip(), STYLES[state]).append(f" {name}", "dim"))
    if guesses:
        parts.append(Text("guess", GUESS_STYLES[2]).append(" of a mask", "dim"))
    for state, name in ((State.REPLACED, "replaced"), (State.NOISE, "noise")):
        if state in states:
            parts.append(Text(name, STYLES[state]))
    if doubt:
        ramp = Text("less", DOUBT_STYLES[1]).append(" and ", "dim")
        parts.append(ramp.append("less", DOUBT_STYLES[2]).append(" sure", DOUBT_STYLES[3]))
    if glyphs is GLYPHS:
        parts.append(Text(f"{END_MARK} end", "dim"))
    while parts and sum(part.cell_len + 3 for part in parts) - 3 > columns:
        parts.pop()
    return Text("   ").join(parts)


def progress(frame: Frame, columns: int, status: str):
    """A bar of what is written, and the status line beside it if there is room for both."""
    line = Text(status, "dim")
    left = frame.masks + frame.noise
    room, whole = columns - len(status) - 2, frame.written + left
    if room < 10 or not left:
        return line
    looks = {"style": "dim", "complete_style": "green", "finished_style": "green"}
    bar = ProgressBar(whole, frame.written, min(30, room), **looks)
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_row(bar, line)
    return row


class LiveView:
    """Shows frames in place while they are made.

    >>> with LiveView(sys.stdout) as view:
    ...     for step in steps:
    ...         view.show(framer.frame(step))

    Where `supports_live` says no, nothing is written: the script prints the text (``view.live``
    tells). Otherwise the finished text and its status line are left on the normal screen.

    Args:
        stream: where to draw.
        hold: least seconds between two frames, for models faster than the eye.
        status: (frame, separator) -> the line below the text.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        hold: float = 0.0,
        status: Callable[[Frame, str], str] = status_line,
    ):
        self.stream = stream or sys.stdout
        self.hold = hold
        self.status = status
        self.live = supports_live(self.stream)
        self.last: Frame | None = None
        self._screen: Screen | None = None
        self._full = None  # the context of the full screen, once there is something to show
        self._lines: Lines | None = None
        self._masks = self._doubt = self._guesses = False  # what the legend has to explain
        self._states: set[State] = set()
        self._top = 0
        self._next_draw = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind, *exc) -> None:
        if kind is None:
            self.finish()
        else:
            self._close()

    def show(self, frame: Frame) -> None:
        """Draw a frame in the window as large as it is now."""
        self.last = frame
        if not self.live:
            return
        if self._full is None:
            self._screen = Screen(self.stream)
            self._full = self._screen.full()
            self._full.__enter__()
        time.sleep(max(0.0, self._next_draw - time.monotonic()))
        columns, lines = self._screen.measure()
        width = min(columns, WIDEST)
        if self._lines is None or self._lines.columns != width:
            self._lines = Lines(width, self._screen.glyphs)
        self._masks |= frame.masks > 0
        self._states |= set(frame.states)
        self._doubt |= any(p is not None for p in frame.confidence)
        self._guesses |= frame.knows_guesses
        rows = self._lines.rows(frame)
        foot = self._foot(frame, columns, lines)
        height = max(1, lines - len(foot))
        self._top = scroll(rows, height, self._top)
        shown = rows[self._top : self._top + height]
        if len(rows) > height and len(foot) > 1:
            where = f" · rows {self._top + 1}-{self._top + len(shown)} of {len(rows)}"
            foot = self._foot(frame, columns, lines, where)
        self._screen.draw([*shown, *foot])
        self._next_draw = time.monotonic() + self.hold

    def _foot(self, frame: Frame, columns: int, lines: int, where: str = "") -> list:
        """What stands below the text: nothing in a window of two lines, a legend in one of ten."""
        if lines <= 2:
            return []
        status = fit_status(frame, columns, self.status)
        status += where if len(status + where) <= columns else ""
        foot = [Text(), progress(frame, columns, status)]
        if lines >= 10:
            looks = self._doubt, self._masks, self._states, self._guesses
            foot.append(legend(self._screen.glyphs, columns, *looks))
        return foot

    def finish(self) -> None:
        """Back to the normal screen, and leave the last frame there. A second call does nothing."""
        if self._full is None or self.last is None:
            return
        time.sleep(max(0.0, self._next_draw - time.monotonic()))
        self._close()
        columns, _ = self._screen.measure()
        last = settled(self.last)
        lines = Lines(min(columns, WIDEST), self._screen.glyphs)
        status = Text(fit_status(last, columns, self.status), "dim")
        self._screen.leave([*lines.rows(last), status])

    def _close(self) -> None:
        if self._full is not None:
            full, self._full = self._full, None
            full.__exit__(None, None, None)
