"""Films: which frame of which generation is shown when."""

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from diffusion.errors import UserError
from diffusion.views.frames import Frame, status_line

LAST_HOLD = 3.0  # seconds that the last moment stays
LONGEST = 600  # seconds of a film on a clock
CLOCK_STEP = 0.1  # seconds of film after which a time line moves, whether or not a text changes


@dataclass(frozen=True)
class Track:
    """One generation: its frames, a heading (may be empty), and the line to show below them."""

    frames: Sequence[Frame]
    name: str = ""
    status: Callable[[Frame], str] = status_line


@dataclass(frozen=True)
class Moment:
    """From here on, for ``hold`` seconds of the film, track i shows its frame ``shown[i]``."""

    shown: tuple[int, ...]
    hold: float
    time: float = 0.0  # seconds on the clock of the tracks, where the film has one


@dataclass(frozen=True)
class Film:
    """Tracks, and the moments at which their frames change.

    Attributes:
        ends: where all tracks run on one clock, the seconds at which each has its last frame.
        note: shown all the time.
        verdict: shown with the last moment.
    """

    tracks: Sequence[Track]
    moments: Sequence[Moment]
    title: str = ""
    note: str = ""
    ends: tuple[float, ...] = ()
    verdict: str = ""

    @cached_property
    def kinds(self) -> set[str]:
        """The entries of the legend that explain any frame."""
        return set().union(*(frame.kinds() for track in self.tracks for frame in track.frames))

    @cached_property
    def starts(self) -> list[float]:
        """The seconds of the film at which each moment begins."""
        return list(itertools.accumulate((m.hold for m in self.moments[:-1]), initial=0.0))

    def frames(self, moment: Moment) -> list[Frame]:
        """The frame of each track."""
        return [track.frames[i] for track, i in zip(self.tracks, moment.shown, strict=True)]

    def filled(self, track: int, time: float = math.inf) -> float:
        """How much of the time line of a track is over at ``time``; 1 is the longest line."""
        return min(time, self.ends[track]) / max(*self.ends, 1e-9)


def film_of(
    frames: Sequence[Frame], title: str = "", status: Callable[[Frame], str] = status_line
) -> Film:
    """A film of one generation, all frames held equally long: 2 a second of a few, up to 20 of many.

    Args:
        status: see `Track`.
    """
    if not frames:
        raise ValueError("an animation needs at least one frame")
    hold = 1 / min(20.0, max(2.0, len(frames) / 8))
    moments = [Moment((i,), hold) for i in range(len(frames) - 1)]
    moments.append(Moment((len(frames) - 1,), LAST_HOLD))
    return Film([Track(frames, status=status)], moments, title)


def synchronized(tracks: Sequence[Track], slowdown: float = 1.0, note: str = "", **said) -> Film:
    """A film in which all tracks run on one true clock: at every time each shows the last frame
    that it had by then, and nothing between two frames.

    Args:
        slowdown: one factor for all: the film takes so many times longer than the models did.
        note, said: see `Film`.

    Raises:
        UserError: a slowdown that makes the film too long.
    """
    clocks = [[frame.seconds for frame in track.frames] for track in tracks]
    ends = tuple(clock[-1] for clock in clocks)
    if max(ends) * slowdown > LONGEST:
        raise UserError(
            f"--slowdown {slowdown:g} makes a film of {max(ends) * slowdown:.0f} seconds; at most "
            f"{LONGEST} are drawn, so use {LONGEST / max(ends):.3g} or less"
        )
    step = CLOCK_STEP / slowdown
    steps = (k * step for k in range(math.ceil(max(ends) / step)))
    times = sorted({0.0, *itertools.chain(*clocks, steps)})
    speed = "true time" if slowdown == 1 else f"time slowed {slowdown:g}×"
    note = f"{speed}, {note}" if note else speed
    moments = []
    for now, then in itertools.pairwise([*times, times[-1] + LAST_HOLD / slowdown]):
        shown = tuple(max(0, bisect.bisect_right(clock, now) - 1) for clock in clocks)
        moments.append(Moment(shown, (then - now) * slowdown, now))
    return Film(tracks, moments, note=note, ends=ends, **said)


def ticks(film: Film, tick: float) -> list[tuple[Moment, int]]:
    """The moments on a clock that ticks every ``tick`` seconds, each with its number of ticks: at
    every tick stands the last moment that has begun by then. Moments that fall between two ticks
    drop out; the last one always stays."""
    starts = zip(film.starts, film.moments, strict=True)
    first = {math.ceil(t / tick - 1e-6): moment for t, moment in starts}
    end = film.starts[-1] + film.moments[-1].hold
    bounds = [*first, max(math.ceil(end / tick - 1e-6), max(first) + 1)]
    counts = (b - a for a, b in itertools.pairwise(bounds))
    return list(zip(first.values(), counts, strict=True))
