"""The live view: a canvas that fills in place in the terminal.

The view draws on the alternate screen, row by row at absolute places and with line wrapping off,
so a resize, a text taller than the window or a character that is wider than we think can spoil
one row of one frame at most. When it is finished, the whole text stays on the normal screen.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, TextIO

from diffusion.views.frames import Frame, State, status_line

# Told apart by glyph and weight first, by colour second.
STYLES = {
    State.GIVEN: "1",  # bold
    State.MASKED: "2",  # dim
    State.FRESH: "1;4;32",  # bold, underlined, green
    State.SETTLED: "",
    State.REMASKED: "33",  # yellow
}
# An open position takes about the width of a token, so that the text around it moves little.
GLYPHS = {State.MASKED: " ░░░", State.REMASKED: " ▓▓▓"}
ASCII_GLYPHS = {State.MASKED: " ___", State.REMASKED: " ###"}

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # alternate screen, no cursor, no line wrapping
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"


def colour_enabled(stream: TextIO) -> bool:
    """Whether escape sequences may be written: a terminal, not a dumb one, and no NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def supports_live(stream: TextIO) -> bool:
    """Whether a `LiveView` on this stream draws; otherwise it is silent."""
    return colour_enabled(stream) and (os.name == "nt" or bool(os.environ.get("TERM")))


def glyphs_of(stream: TextIO) -> dict[State, str]:
    """What open positions look like on a terminal of this encoding."""
    try:
        "░▓█∎·".encode(stream.encoding or "utf-8")
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


def char_width(char: str) -> int:
    """Columns of one character: 0 for combining and format characters, 2 for wide ones."""
    if " " <= char <= "~":
        return 1
    if unicodedata.category(char) in ("Mn", "Me", "Cf") or "\u1160" <= char <= "\u11ff":
        return 0 if char != "\N{SOFT HYPHEN}" else 1
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def clusters(text: str) -> list[tuple[str, int]]:
    """(characters that share a place, columns): combining marks stay with what they modify.

    Terminals disagree about joined emoji; the width is that of the widest reading.
    """
    out: list[tuple[str, int]] = []
    for char in text:
        width = char_width(char)
        joined = bool(out) and out[-1][0].endswith("\N{ZERO WIDTH JOINER}")
        if out and (width == 0 or joined) and out[-1][0] != "\n":
            base, base_width = out[-1]
            wide_form = char == "\N{VARIATION SELECTOR-16}"
            out[-1] = (base + char, max(base_width + width, 2 if wide_form else 0))
        else:
            out.append((char, width))
    return out


@dataclass
class Row:
    """One line on the screen: runs of text in one state each."""

    runs: list[tuple[str, State]]

    def has(self, *states: State) -> bool:
        return any(state in states for _, state in self.runs)

    def styled(self) -> str:
        """The row with its escape sequences."""
        return "".join(
            f"\x1b[{STYLES[state]}m{text}\x1b[0m" if STYLES[state] else text
            for text, state in self.runs
        )


class _Wrapper:
    """Greedy line breaking of (text, width, state) cells at spaces and around wide characters."""

    def __init__(self, columns: int):
        self.columns = columns
        self.rows: list[list[tuple[str, State]]] = [[]]
        self.used = 0
        self.gap: list[tuple[str, int, State]] = []  # spaces that wait for a word to follow
        self.word: list[tuple[str, int, State]] = []

    def add(self, text: str, width: int, state: State) -> None:
        if text == "\n":
            self.flush()
            self.new_row()
        elif text == " ":
            self.flush()
            # Spaces carry no state, so that neighbouring fresh words stay apart.
            self.gap.append((text, width, State.SETTLED))
        else:
            if width > 1 or (self.word and self.word[-1][1] > 1):
                self.flush()
            self.word.append((text, width, state))

    def flush(self) -> None:
        if not self.word:
            return
        cells = self.gap + self.word
        if self.used + sum(width for _, width, _ in cells) > self.columns:
            if self.used:
                self.new_row()
            cells = self.word
        self.gap, self.word = [], []
        for text, width, state in cells:
            if self.used and self.used + width > self.columns:
                self.new_row()
            self.rows[-1].append((text, state))
            self.used += width

    def new_row(self) -> None:
        self.rows.append([])
        self.used, self.gap = 0, []


def wrap(frame: Frame, columns: int, glyphs: dict[State, str] = GLYPHS) -> list[Row]:
    """The frame as rows of at most ``columns`` columns (a lone wide character may need two)."""
    wrapper = _Wrapper(columns)
    for position, state in enumerate(frame.states):
        piece = glyphs[state] if state.open else frame.shown(position)
        if not wrapper.used and not wrapper.word and (state.open or len(wrapper.rows) == 1):
            piece = piece.lstrip(" ")  # the space that begins the first word, or a mask's own
        for text, width in clusters(piece):
            wrapper.add(text, width, state)
    wrapper.flush()
    rows = []
    for cells in wrapper.rows:
        runs: list[tuple[str, State]] = []
        for text, state in cells:
            if runs and runs[-1][1] == state:
                runs[-1] = (runs[-1][0] + text, state)
            else:
                runs.append((text, state))
        rows.append(Row(runs))
    return rows


def scroll(rows: list[Row], height: int, top: int) -> int:
    """The first row to show in a window of ``height`` rows that showed ``top`` first: it moves as
    little as possible, and only to reach the row nearest to it that changes."""
    busy = [i for i, row in enumerate(rows) if row.has(State.FRESH, State.REMASKED)]
    busy = busy or [i for i, row in enumerate(rows) if row.has(State.MASKED)] or [len(rows) - 1]
    limit = max(0, len(rows) - height)
    return min(
        (min(max(top, row - height + 1), row, limit) for row in busy),
        key=lambda moved: abs(moved - top),
    )


def fit_status(frame: Frame, columns: int, status: Callable = status_line) -> str:
    """The status line with as many of its parts as fit, the last ones left out first."""
    parts = status(frame, "\n").split("\n")
    for count in range(len(parts), 0, -1):
        for separator in (" · ", "  ", " "):
            line = separator.join(parts[:count])
            if len(line) <= columns:
                return line
    return parts[0][:columns]


class Screen:
    """The alternate screen of a terminal, restored on leaving whatever happens.

    >>> with Screen(sys.stdout) as screen:
    ...     screen.draw(["first row", "second row"])
    """

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __enter__(self) -> Self:
        if os.name == "nt":
            os.system("")  # switches escape sequences on in the Windows console
        self.write(_ENTER)
        return self

    def __exit__(self, *exc) -> None:
        self.write(_LEAVE)

    def write(self, text: str) -> None:
        encoding = self.stream.encoding or "utf-8"
        self.stream.write(text.encode(encoding, "replace").decode(encoding))
        self.stream.flush()

    def draw(self, rows: list[str]) -> None:
        """Replace what the screen shows by ``rows`` (styled, no longer than the window)."""
        # Each row is erased before it is written: erasing to the right of a full row would take
        # its last character.
        painted = [f"\x1b[{i};1H\x1b[2K{row}" for i, row in enumerate(rows, start=1)]
        if len(rows) < window_size(self.stream).lines:
            painted.append(f"\x1b[{len(rows) + 1};1H\x1b[J")
        self.write("".join(painted))


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
        self.screen: Screen | None = None
        self.last: Frame | None = None
        self._top = 0
        self._next_draw = 0.0
        self.glyphs = glyphs_of(self.stream)

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
        if self.screen is None:
            self.screen = Screen(self.stream)
            self.screen.__enter__()
        time.sleep(max(0.0, self._next_draw - time.monotonic()))
        columns, lines = window_size(self.stream)
        rows = wrap(frame, columns, self.glyphs)
        height = max(1, lines - 2)  # a blank row and the status below
        self._top = scroll(rows, height, self._top)
        shown = [row.styled() for row in rows[self._top : self._top + height]]
        if lines > 2:
            status = fit_status(frame, columns, self.status)
            where = f" · rows {self._top + 1}-{self._top + len(shown)} of {len(rows)}"
            if len(rows) > height and len(status + where) <= columns:
                status += where
            shown += ["", f"\x1b[2m{status}\x1b[0m"]
        self.screen.draw(shown)
        self._next_draw = time.monotonic() + self.hold

    def finish(self) -> None:
        """Back to the normal screen, and leave the last frame there. A second call does nothing."""
        if self.screen is None or self.last is None:
            return
        time.sleep(max(0.0, self._next_draw - time.monotonic()))
        screen = self.screen
        self._close()
        columns = window_size(self.stream).columns
        calm = [State.SETTLED if s is State.FRESH else s for s in self.last.states]
        rows = wrap(replace(self.last, states=calm), columns, self.glyphs)
        lines = [row.styled() for row in rows] + [
            f"\x1b[2m{fit_status(self.last, columns, self.status)}\x1b[0m"
        ]
        screen.write("\n".join(lines) + "\n")

    def _close(self) -> None:
        if self.screen is not None:
            self.screen.__exit__(None, None, None)
            self.screen = None
