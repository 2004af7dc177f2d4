"""What a sampler sees, and what it decides.

In each step a sampler says which positions are predicted (`select`) and, given one drawn token for
each, which are written and which written ones become masks again (`decide`). What it keeps between
steps are (B, ...) tensors in ``state.memory``, so rows are independent of each other.
"""

from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from diffusion import rng
from diffusion.noise import Noise
from diffusion.proposal import Proposal
from diffusion.samplers.catalog import SCHEDULES
from diffusion.samplers.spec import Choices, Range

# Options that several samplers share.
SCORES = {
    "probability": "of the drawn token (LLaDA)",
    "sharpened": "the same after temperature, top-k and top-p (Dream)",
    "margin": "probability of the best minus that of the second best token",
    "entropy": "minus the entropy of the prediction",
}
Score = Annotated[str, Choices(SCORES), "confidence of a prediction"]
Steps = Annotated[int, "denoising steps, a flag of its own"]
Schedule = Annotated[str | None, Choices.fromkeys(SCHEDULES, ""), "noise schedule, also a flag"]
TimePower = Annotated[float, Range(0.01, 100), "step k of N ends at time (1 - k/N) to this power"]
ClockDelay = Annotated[
    float, Range(0, 0.999), "the rightmost position starts after this share of the time"
]


@dataclass
class State:
    """What a sampler sees of the canvas (B, L). Wrappers show their sampler a part of it."""

    ids: Tensor  # (B, L) int64
    editable: Tensor  # (B, L) bool
    masked: Tensor  # (B, L) bool, still to be written
    keys: Tensor  # (B,) random keys, one stream a row
    step: int = 0  # the current step of the loop, counted from 1; random numbers depend on it
    memory: dict[str, Tensor] = field(default_factory=dict)
    since: Tensor | None = None  # (B, 1) the step before each row's plan began
    parts: Tensor | None = None  # (B, 1) into how many a fixed number of steps is divided
    noise: Noise | None = None  # what the denoiser removes
    denoiser: object = None  # that of this generation, for what it computes besides logits
    random: Tensor | None = None  # (B, L) bool, visible tokens that are noise, as far as is known
    end_id: int | None = None  # the token that ends a text; None: none does

    def __post_init__(self):
        if self.since is None:
            self.since = torch.zeros_like(self.keys)[:, None]
            self.parts = torch.ones_like(self.since)

    @property
    def turn(self) -> Tensor:
        """(B, 1) the current step of each row's own plan, counted from 1."""
        return self.step - self.since

    @property
    def visible(self) -> Tensor:
        """(B, L) bool: written, and free to be masked again."""
        return self.editable & ~self.masked

    def uniform(self, stream: int | Tensor, n: int | None = None) -> Tensor:
        """(B, n) uniforms of this step, n = L by default; each ``stream`` number is independent, and
        a column (S, 1) of them gives (S, B, n)."""
        key = rng.fold_in(rng.fold_in(self.keys, self.step), stream)
        return rng.uniform(key, n or self.ids.shape[1])


class Decision(NamedTuple):
    """What becomes of the canvas in one step, (B, L) each."""

    write: Tensor  # bool: positions that take a token
    remask: Tensor | None = None  # bool: visible positions that become masks again; None: none
    tokens: Tensor | None = None  # int64: what is written; None: the tokens of the proposal
    random: Tensor | None = None  # bool: written tokens that are noise; None: noise has none


def ranks(score: Tensor) -> Tensor:
    """(B, L) place of each position when its row is sorted by descending score, from 0."""
    return score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


class Sampler:
    """The strategy that predicts every masked position and stops when none is left."""

    # Whether predictions at visible positions must not see the token there. A model that was
    # trained on masks alone just repeats a token it sees, which says nothing about it.
    hides = False
    draws = True  # whether the proposal has a token for each query; else `decide` draws its own

    @property
    def total(self) -> int | None:
        """Planned steps; None when decided as it goes."""
        return getattr(self, "n_steps", None)

    def planned(self, state: State) -> Tensor:
        """(B, 1) steps of each row's plan: an equal share of ``n_steps``, rounded up."""
        return (self.n_steps + state.parts - 1) // state.parts

    def start(self, state: State) -> None:
        """Called once, before the first step; by `Blocks` before that of each block."""

    def select(self, state: State) -> Tensor:
        """(B, L) bool: editable positions to be predicted. A row with none costs no forward pass."""
        return state.masked

    def shown(self, state: State) -> dict[str, Tensor]:
        """More of the `Query` of this step, (B, ...) each: what stands at noisy positions, where that
        is no token."""
        return {}

    def greedy(self, state: State) -> Tensor | None:
        """(B, 1) bool: rows that take the most probable tokens instead of drawing; None: none."""

    def decide(self, state: State, proposal: Proposal) -> Decision:
        """What is written, and what becomes a mask again."""
        return Decision(proposal.query_mask)

    def settled(self, state: State) -> Tensor | bool:
        """(B, 1) bool, or one for all: rows whose written tokens stay. Such a text is done at its
        first end without a mask before it, whatever comes after."""
        return True

    def finished(self, state: State) -> Tensor:
        """(B,) bool: rows that need no further step, before each step."""
        return ~state.masked.any(1)


@dataclass
class Timed(Sampler):
    """A sampler whose N steps lead from time 1, all masks, to time 0.

    With ``clock_delay`` above 0, left positions run on an earlier clock (AR-Diffusion,
    arXiv:2305.09515): the leftmost starts at once and the rightmost when that share of the time is
    over, all equally fast.
    """

    END = 0.0  # the time after the last step

    n_steps: Steps
    _: KW_ONLY
    time_power: TimePower = 1.0
    clock_delay: ClockDelay = 0.0

    def time(self, state: State, turn: Tensor) -> Tensor:
        """Times after step ``turn`` (B, 1), of shape (B, 1), or (B, L) if clocks differ."""
        planned = self.planned(state)
        dtype = rng.double(turn.device)
        progress = turn.clamp(0).minimum(planned).to(dtype) / planned
        if self.time_power != 1:
            progress = 1 - (1 - progress) ** self.time_power
        if self.clock_delay:
            number = (state.editable.cumsum(1) - 1).clamp(min=0).to(dtype)
            place = number / (state.editable.sum(1, keepdim=True) - 1).clamp(min=1)
            late = self.clock_delay * place
            progress = ((progress - late) / (1 - self.clock_delay)).clamp(0, 1)
        return 1 - progress * (1 - self.END)
