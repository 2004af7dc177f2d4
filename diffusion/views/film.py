"""Films: which frame of which generation stands on the picture, and for how long."""

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from diffusion.errors import UserError
from diffusion.views.frames import Frame, State, status_line

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
    note: str = ""
    time: float = 0.0  # seconds on the clock of the tracks, where the film has one


@dataclass(frozen=True)
class TimeLine:
    """The one clock that all tracks of a film run on.

    ``ends`` are the seconds at which each track has its last frame; ``verdict`` is shown with the
    last moment.
    """

    ends: tuple[float, ...]
    verdict: str = ""

    def filled(self, track: int, time: float) -> float:
        """How much of the line of a track is over at ``time``, as a share of the longest one."""
        return min(time, self.ends[track]) / max(max(self.ends), 1e-9)


@dataclass(frozen=True)
class Film:
    tracks: Sequence[Track]
    moments: Sequence[Moment]
    title: str = ""
    time_line: TimeLine | None = None

    @property
    def knows_doubt(self) -> bool:
        """Whether any probability is known, so that there is something to explain."""
        frames = (track.frames[-1] for track in self.tracks)
        return any(p is not None for frame in frames for p in frame.confidence)

    @cached_property
    def knows_guesses(self) -> bool:
        """Whether any mask shows what it remembers."""
        return any(frame.knows_guesses for track in self.tracks for frame in track.frames)

    @cached_property
    def states(self) -> set[State]:
        """All that occur."""
        return {s for track in self.tracks for frame in track.frames for s in frame.states}

    def frames(self, moment: Moment) -> list[Frame]:
        """The frame of each track."""
        return [track.frames[i] for track, i in zip(self.tracks, moment.shown, strict=True)]


def film_of(
    frames: Sequence[Frame],
    title: str = "",
    fps: float | None = None,
    slowdown: float | None = None,
    status: Callable[[Frame], str] = status_line,
) -> Film:
    """A film of one generation.

    Args:
        fps: frames per second, all held equally long. None chooses: 2 for a few frames, up to 20
            for many.
        slowdown: hold every frame in proportion to its measured time instead, so many times
            slower than it was.
        status: see `Track`.
    """
    if not frames:
        raise ValueError("an animation needs at least one frame")
    for name, value in (("fps", fps), ("slowdown", slowdown)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name} {value} is not a number above 0.")
    if slowdown is None:
        holds = [1 / (fps or min(20.0, max(2.0, len(frames) / 8)))] * (len(frames) - 1)
        note = ""
    else:
        seconds = [frame.seconds for frame in frames]
        holds = [
            max(0.0, after - before) * slowdown for before, after in itertools.pairwise(seconds)
        ]
        note = "true time" if slowdown == 1 else f"time slowed {slowdown:g}×"
    moments = [Moment((i,), hold, note) for i, hold in enumerate([*holds, LAST_HOLD])]
    return Film([Track(frames, status=status)], moments, title)


def synchronized(
    tracks: Sequence[Track],
    title: str = "",
    slowdown: float = 1.0,
    note: str = "",
    verdict: str = "",
) -> Film:
    """A film in which all tracks run on one true clock: at every time each shows the last frame
    that it had by then, and nothing between two frames.

    Args:
        slowdown: one factor for all: the film takes so many times longer than the models did.
        note, verdict: shown all the time, and with the last moment.
    """
    check_slowdown(slowdown)
    clocks = [[frame.seconds for frame in track.frames] for track in tracks]
    if any(clock != sorted(clock) for clock in clocks):
        raise ValueError("the seconds of a track must not fall")
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
    note = ", ".join(filter(None, (speed, note)))
    moments = []
    for now, then in itertools.pairwise([*times, math.inf]):
        shown = tuple(max(0, bisect.bisect_right(clock, now) - 1) for clock in clocks)
        hold = LAST_HOLD if then == math.inf else (then - now) * slowdown
        moments.append(Moment(shown, hold, note, now))
    return Film(tracks, moments, title, TimeLine(ends, verdict))


def check_slowdown(slowdown: float) -> None:
    if not 0 < slowdown < math.inf:
        raise UserError(f"--slowdown {slowdown} must be a number above 0")


def rate_line(frame: Frame, separator: str = " · ", unit: str = "token") -> str:
    """Seconds, what is written by then and how fast, forward passes, and tokens for each of them.

    With ``unit`` "character" texts of models with different tokenizers can be compared.
    """
    new = [i for i, s in enumerate(frame.states) if s is not State.GIVEN and not s.pending]
    tokens = len(new)
    count = tokens if unit == "token" else sum(len(frame.pieces[i]) for i in new)
    parts = [f"{frame.seconds:.2f} s", f"{count} {unit}" + ("" if count == 1 else "s")]
    if frame.seconds > 0:
        parts.append(f"{count / frame.seconds:.0f}/s")
    parts.append(f"{frame.nfe} pass" + ("" if frame.nfe == 1 else "es"))
    if frame.nfe:
        parts.append(f"{tokens / frame.nfe:.1f} {'' if unit == 'token' else 'tokens '}a pass")
    return separator.join(parts)


def ticks(moments: Sequence[Moment], tick: float) -> list[tuple[Moment, int]]:
    """The moments on a clock that ticks every ``tick`` seconds, each with its number of ticks: at
    every tick stands the last moment that has begun by then. Moments that fall between two ticks
    drop out; the last one always stays."""
    out, start, begun = [], 0.0, 0
    for i, moment in enumerate(moments):
        start += moment.hold
        end = math.ceil(start / tick - 1e-6)  # the first tick that is not ours any more
        if i == len(moments) - 1:
            end = max(end, begun + 1)
        if end > begun:
            out.append((moment, end - begun))
        begun = end
    return out
