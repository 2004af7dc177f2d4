"""A film of several tracks in the terminal: panes side by side, or one above the other when the
window is narrow, played on the clock of the film."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TextIO

from rich.cells import set_cell_size
from rich.text import Text

from diffusion.errors import printable
from diffusion.views.film import Film, Moment
from diffusion.views.frames import Frame, State
from diffusion.views.terminal import (
    GLYPHS,
    WIDEST,
    Lines,
    Screen,
    fit_status,
    legend,
    scroll,
    settled,
    supports_live,
)

NARROWEST = 34  # columns of a pane; below that they stand one above the other
GAP = 3
BAR = "█", "░"  # what is over, what is to come
ASCII_BAR = "#", "-"


class Panes:
    """Draws the moments of a film into a window as large as it is now."""

    def __init__(self, film: Film, glyphs: dict[State, str] = GLYPHS):
        self.film, self.glyphs = film, glyphs
        self.bar = BAR if glyphs is GLYPHS else ASCII_BAR
        self.tops = [0] * len(film.tracks)
        self.lines: dict[tuple[int, int], tuple[Lines, int]] = {}

    def rows(self, moment: Moment, columns: int, lines: int | None) -> list[Text]:
        """The rows of a window; ``lines`` None: as many as it takes."""
        n = len(self.film.tracks)
        frames = self.film.frames(moment)
        columns = min(columns, n * (WIDEST + GAP) - GAP)
        beside = (columns - GAP * (n - 1)) // n
        foot = self._foot(moment, min(columns, WIDEST), lines)
        if beside >= NARROWEST:
            height = max(self._lines(i, beside)[1] for i in range(n))
            if lines is not None:
                height = min(height, max(1, lines - 3 - len(foot)))
            panes = [self._pane(i, frame, beside, height) for i, frame in enumerate(frames)]
            body = [Text(" " * GAP).join(parts) for parts in zip(*panes, strict=True)]
        else:
            body = []
            for i, frame in enumerate(frames):
                height = self._lines(i, columns)[1]
                if lines is not None:
                    height = max(1, min(height, (lines - len(foot)) // n - 3))
                body += self._pane(i, frame, columns, height)
        rows = body + foot
        return rows if lines is None else rows[:lines]

    def _lines(self, i: int, columns: int) -> tuple[Lines, int]:
        """The line breaks of a track, and the rows of its finished text: room that is kept from
        the start, so that nothing moves."""
        if (i, columns) not in self.lines:
            frames = self.film.tracks[i].frames
            lines = Lines(columns, self.glyphs, frames)
            self.lines[i, columns] = lines, len(lines.rows(frames[-1]))
        return self.lines[i, columns]

    def _pane(self, i: int, frame: Frame, columns: int, height: int) -> list[Text]:
        """Name, ``height`` rows of text, and status line of one track."""
        track = self.film.tracks[i]
        text = self._lines(i, columns)[0].rows(frame)
        self.tops[i] = scroll(text, height, self.tops[i])
        rows = text[self.tops[i] : self.tops[i] + height]
        rows += [Text()] * (height - len(rows))
        name = Text(set_cell_size(" " + printable(track.name), columns), "reverse")
        status = Text(fit_status(frame, columns, track.status), "dim")
        pane = [name, *rows, Text(), status]
        for row in pane:
            row.truncate(columns, pad=True)
        return pane

    def _foot(self, moment: Moment, columns: int, lines: int | None) -> list[Text]:
        """A time line for each track on one scale, the note or the verdict, and a legend."""
        line = self.film.time_line
        if line is None:
            return []
        label = min(24, columns // 4)
        whole = max(1, columns - label - 10)
        out = [Text()]
        for i, (track, end) in enumerate(zip(self.film.tracks, line.ends, strict=True)):
            reach = max(1, round(whole * line.filled(i, end)))
            over = round(whole * line.filled(i, moment.time))
            bar = self.bar[0] * over + self.bar[1] * (reach - over)
            name = set_cell_size(printable(track.name), label)
            out.append(Text(f"{name} {bar} {end:.2f} s"))
        final = moment is self.film.moments[-1]
        out.append(Text(printable(line.verdict if final and line.verdict else moment.note)))
        if lines is not None and lines >= 16:
            states = self.film.states
            looks = self.film.knows_doubt, True, states, self.film.knows_guesses
            out.append(legend(self.glyphs, columns, *looks))
        for row in out:
            row.truncate(columns)
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
    screen = Screen(stream)
    panes = Panes(film, screen.glyphs)
    starts, start = [], 0.0
    for moment in film.moments:
        starts.append(start)
        start += moment.hold
    with screen.full():
        began = clock()
        i, last = 0, len(film.moments) - 1
        while True:
            screen.draw(panes.rows(film.moments[i], *screen.measure()))
            if i == last:
                break
            sleep(max(0.0, began + starts[i + 1] - clock()))
            i += 1
            while i < last and starts[i + 1] <= clock() - began:
                i += 1
        sleep(min(1.0, film.moments[last].hold))
    final = film.moments[-1]
    calm = [
        replace(track, frames=[*track.frames[:-1], settled(track.frames[-1])])
        for track in film.tracks
    ]
    panes = Panes(replace(film, tracks=calm), screen.glyphs)
    rows = panes.rows(final, screen.measure()[0], None)
    for row in rows:
        row.rstrip()
    screen.leave(rows)
