"""A film of several tracks in the terminal: panes side by side, or one above the other when the
window is narrow, played on the clock of the film."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TextIO

from diffusion.views.film import Film, Moment
from diffusion.views.frames import Frame, State, printable
from diffusion.views.terminal import (
    GLYPHS,
    Row,
    Screen,
    clusters,
    fit_status,
    glyphs_of,
    scroll,
    supports_live,
    window_size,
    wrap,
)

NARROWEST = 34  # columns of a pane; below that they stand one above the other
GAP = 3
BAR = "█", "░"  # what is over, what is to come
ASCII_BAR = "#", "-"


def fit(text: str, columns: int) -> str:
    """The text cut or filled with spaces to so many columns."""
    out, used = "", 0
    for cluster, width in clusters(text):
        if used + width > columns:
            break
        out, used = out + cluster, used + width
    return out + " " * (columns - used)


def fit_row(row: Row, columns: int) -> str:
    """A wrapped row with its styles, filled with spaces."""
    used = sum(width for text, _ in row.runs for _, width in clusters(text))
    return row.styled() + " " * max(0, columns - used)


class Panes:
    """Draws the moments of a film into a window as large as it is now."""

    def __init__(self, film: Film, glyphs: dict[State, str] = GLYPHS):
        self.film, self.glyphs = film, glyphs
        self.bar = BAR if glyphs is GLYPHS else ASCII_BAR
        self.tops = [0] * len(film.tracks)
        self.heights: dict[tuple[int, int], int] = {}

    def rows(self, moment: Moment, columns: int, lines: int | None) -> list[str]:
        """The styled rows of a window; ``lines`` None: as many as it takes."""
        n = len(self.film.tracks)
        beside = (columns - GAP * (n - 1)) // n
        frames = self.film.frames(moment)
        foot = self._foot(moment, columns)
        if beside >= NARROWEST:
            height = None if lines is None else max(1, lines - 3 - len(foot))
            tallest = max(self._final_height(i, beside) for i in range(n))
            height = tallest if height is None else min(height, tallest)
            panes = [self._pane(i, frame, beside, height) for i, frame in enumerate(frames)]
            body = [(" " * GAP).join(parts) for parts in zip(*panes, strict=True)]
        else:
            body = []
            for i, frame in enumerate(frames):
                height = self._final_height(i, columns)
                if lines is not None:
                    height = max(1, min(height, (lines - len(foot)) // n - 3))
                body += self._pane(i, frame, columns, height)
        rows = body + foot
        return rows if lines is None else rows[:lines]

    def _final_height(self, i: int, columns: int) -> int:
        """Rows of the finished text: room that is kept from the start, so that nothing moves."""
        if (i, columns) not in self.heights:
            final = self.film.tracks[i].frames[-1]
            self.heights[i, columns] = len(wrap(final, columns, self.glyphs))
        return self.heights[i, columns]

    def _pane(self, i: int, frame: Frame, columns: int, height: int) -> list[str]:
        """Name, ``height`` rows of text, and status line of one track."""
        track = self.film.tracks[i]
        text = wrap(frame, columns, self.glyphs)
        self.tops[i] = scroll(text, height, self.tops[i])
        rows = [fit_row(row, columns) for row in text[self.tops[i] : self.tops[i] + height]]
        rows += [" " * columns] * (height - len(rows))
        name = f"\x1b[7m{fit(' ' + printable(track.name), columns)}\x1b[0m"
        status = f"\x1b[2m{fit(fit_status(frame, columns, track.status), columns)}\x1b[0m"
        return [name, *rows, " " * columns, status]

    def _foot(self, moment: Moment, columns: int) -> list[str]:
        """A time line for each track on one scale, and the note or the verdict."""
        line = self.film.time_line
        if line is None:
            return []
        label = min(24, columns // 4)
        whole = max(1, columns - label - 10)
        out = [""]
        for i, (track, end) in enumerate(zip(self.film.tracks, line.ends, strict=True)):
            reach = max(1, round(whole * line.filled(i, end)))
            over = round(whole * line.filled(i, moment.time))
            bar = self.bar[0] * over + self.bar[1] * (reach - over)
            seconds = f" {end:.2f} s"
            out.append(fit(printable(track.name), label) + " " + bar + seconds)
        final = moment is self.film.moments[-1]
        closing = printable(line.verdict if final and line.verdict else moment.note)
        out.append(fit(closing, columns).rstrip())
        return out


def play(
    film: Film,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Play a film once in a terminal, and leave its last moment on the normal screen. A slow
    terminal leaves moments out and is never late. Where `supports_live` says no, nothing is done.
    """
    stream = stream or sys.stdout
    if not supports_live(stream):
        return
    panes = Panes(film, glyphs_of(stream))
    starts, start = [], 0.0
    for moment in film.moments:
        starts.append(start)
        start += moment.hold
    with Screen(stream) as screen:
        began = clock()
        i, last = 0, len(film.moments) - 1
        while True:
            size = window_size(stream)
            screen.draw(panes.rows(film.moments[i], size.columns, size.lines))
            if i == last:
                break
            sleep(max(0.0, began + starts[i + 1] - clock()))
            i += 1
            while i < last and starts[i + 1] <= clock() - began:
                i += 1
        sleep(min(1.0, film.moments[last].hold))
    final = film.moments[-1]
    calm = [
        replace(track, frames=[*track.frames[:-1], _settled(track.frames[-1])])
        for track in film.tracks
    ]
    rows = Panes(replace(film, tracks=calm), panes.glyphs).rows(
        final, window_size(stream).columns, None
    )
    screen.write("\n".join(row.rstrip(" ") for row in rows) + "\n")


def _settled(frame: Frame) -> Frame:
    states = [State.SETTLED if s is State.FRESH else s for s in frame.states]
    return replace(frame, states=states)
