"""Films: which frame of which generation stands on the picture, and for how long."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .errors import UserError
from .frames import Frame, status_line

LAST_HOLD = 3.0  # seconds that the last moment stays


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


@dataclass(frozen=True)
class Film:
    tracks: Sequence[Track]
    moments: Sequence[Moment]
    title: str = ""

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
