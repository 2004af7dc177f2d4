"""Which positions to write, and which to open again: one small class per published strategy.

A sampler answers two questions in each step, with tensors alone and all rows at once: for which
positions it wants a prediction (`wanted`), and, having seen one drawn token for each, which of
them are written and which written ones become masks again (`decide`). What it remembers between
steps are (B, ...) tensors in ``state.memory``, so rows do not know of each other.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from . import rng
from .denoiser import Proposal
from .options import STEPPED
from .schedules import SCHEDULES


@dataclass
class State:
    """What a sampler sees of the canvas (B, L)."""

    ids: Tensor  # (B, L) int64
    editable: Tensor  # (B, L) bool
    masked: Tensor  # (B, L) bool, still to be written
    keys: Tensor  # (B,) random keys, one stream a row
    step: int = 0  # the current step, counted from 1
    memory: dict[str, Tensor] = field(default_factory=dict)

    def uniform(self, stream: int, n: int | None = None) -> Tensor:
        """(B, n) uniforms of this step, n = L by default; each ``stream`` number is independent."""
        key = rng.fold_in(rng.fold_in(self.keys, self.step), stream)
        return rng.uniform(key, n or self.ids.shape[1])


def ranks(score: Tensor) -> Tensor:
    """(B, L) place of each position when its row is sorted by descending score, from 0."""
    return score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


class Sampler:
    """The strategy that asks for every masked position and stops when none is left."""

    total: int | None = None  # planned steps; None when decided as it goes

    def start(self, state: State) -> None:
        """Called once, before the first step."""

    def wanted(self, state: State) -> Tensor:
        """(B, L) bool: masked positions to be predicted in this step. A row with none costs no
        forward pass."""
        return state.masked

    def greedy(self, state: State) -> bool:
        """Whether this step takes the most probable tokens instead of drawing."""
        return False

    def decide(self, state: State, proposal: Proposal) -> tuple[Tensor, Tensor | None]:
        """(positions to write, positions to mask again or None), both (B, L) bool."""
        raise NotImplementedError

    def finished(self, state: State) -> Tensor:
        """(B,) bool: rows that need no further step."""
        return ~state.masked.any(1)


class Seed(Sampler):
    """The loop of RoBERTaDiffusion (nathan-barry): step k of N leaves each editable position
    masked with probability 1 - k/N, whatever it was before, and writes the rest.

    With copy-through (a visible token predicts itself) this is ReMDM at sigma = 1 - a_s.
    """

    def __init__(self, n_steps: int):
        self.total = n_steps

    def wanted(self, state):
        masks_left = 1 - state.step / self.total
        state.memory["noise"] = state.editable & (state.uniform(0) < masks_left)
        return state.masked & ~state.memory["noise"]

    def decide(self, state, proposal):
        return proposal.rows, state.memory["noise"] & ~state.masked

    def finished(self, state):
        return torch.full_like(state.keys, state.step >= self.total, dtype=torch.bool)


class Ancestral(Sampler):
    """The reverse process of masked diffusion (MDLM, arXiv:2406.07524): from t to s < t each mask
    stays one with probability r(s) / r(t), else it is drawn from the denoiser.

    Times run evenly from 1 to 1e-5; what is left then is filled with the most probable tokens.
    Staying is drawn first and apart from the token, so only positions that open need a
    prediction, and a step in which none opens costs no forward pass.
    """

    END = 1e-5

    def __init__(self, n_steps: int, schedule: str = "linear"):
        self.total = n_steps
        self.rate = SCHEDULES[schedule].rate

    def time(self, step: int) -> Tensor:
        return torch.tensor(1 - step / self.total * (1 - self.END), dtype=torch.float64)

    def wanted(self, state):
        if state.step > self.total:
            return state.masked
        stay = self.rate(self.time(state.step)) / self.rate(self.time(state.step - 1))
        return state.masked & (state.uniform(0) >= stay.item())

    def greedy(self, state):
        return state.step > self.total

    def decide(self, state, proposal):
        return proposal.rows, None


class FirstHitting(Sampler):
    """Exact continuous-time sampling without empty steps (arXiv:2409.02908): with n masks left
    the next one opens when the rate has fallen from r to r * u**(1/n), at a position chosen
    uniformly. ``memory["rate"]`` (B,) is the mask rate of each row's own clock."""

    def start(self, state):
        state.memory["rate"] = torch.ones(len(state.ids), device=state.ids.device)

    def wanted(self, state):
        left = state.masked.sum(1)
        u = state.uniform(1, 1)[:, 0]
        fall = u ** (1 / left.clamp(min=1))
        state.memory["rate"] = torch.where(left > 0, state.memory["rate"] * fall, 0.0)
        return state.masked & (ranks(state.uniform(0).masked_fill(~state.masked, -1)) == 0)

    def decide(self, state, proposal):
        return proposal.rows, None


class Confidence(Sampler):
    """The surest predictions first (LLaDA, arXiv:2502.09992; Dream, arXiv:2508.15487).

    Args:
        score: see `Proposal.score`.
        schedule: None shares the n masks of a row evenly, n // N a step and one more in the first
            n mod N; a schedule opens round(n * (1 - r(s) / r(t))) of the masks left, and steps
            that would open none are skipped.
        alg_temp: above 0, positions are drawn without replacement with weights exp(score /
            alg_temp) instead of taken in order.
    """

    def __init__(
        self,
        n_steps: int,
        score: str = "probability",
        schedule: str | None = None,
        alg_temp: float = 0.0,
    ):
        self.total = n_steps
        self.score, self.schedule, self.alg_temp = score, schedule, alg_temp

    def start(self, state):
        state.memory["plan"] = quotas(state.masked.sum(1), self.total, self.schedule)

    def wanted(self, state):
        quota = state.memory["plan"][:, state.step - 1]
        return state.masked & (quota > 0)[:, None]

    def decide(self, state, proposal):
        score = proposal.score(self.score)
        if self.alg_temp > 0:
            # The n largest of score / tau + Gumbel noise are n draws without replacement.
            gumbel = -(-state.uniform(0).log()).log()
            score = score / self.alg_temp + gumbel
        quota = state.memory["plan"][:, state.step - 1]
        return proposal.rows & (ranks(score) < quota[:, None]), None


def quotas(masks: Tensor, n_steps: int, schedule: str | None) -> Tensor:
    """(B, n_steps) int64: how many of ``masks`` (B,) each step writes, zeros last. Rows sum to
    ``masks``; the last step takes what is left."""
    step = torch.arange(n_steps, device=masks.device)
    if schedule is None:
        return masks[:, None] // n_steps + (step < masks[:, None] % n_steps)
    rate = SCHEDULES[schedule].rate
    t = 1 - torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    left, plan = masks, []
    for share in (1 - rate(t[1:]) / rate(t[:-1])).tolist():
        take = left if len(plan) == n_steps - 1 else (left * share).round().long()
        left = left - take
        plan.append(take)
    table = torch.stack(plan, 1)
    # A stable sort by "is zero" moves the empty steps to the end, where the row has finished.
    return table.gather(1, (table == 0).long().argsort(dim=1, stable=True))


class Threshold(Sampler):
    """Every prediction whose score reaches tau; if none does, the surest (Fast-dLLM,
    arXiv:2505.22618)."""

    def __init__(self, threshold: float = 0.9, score: str = "probability"):
        self.threshold, self.score = threshold, score

    def decide(self, state, proposal):
        score = proposal.score(self.score)
        return proposal.rows & ((score >= self.threshold) | (ranks(score) == 0)), None


class EntropyBound(Sampler):
    """Sorted by sureness, the longest prefix of positions whose entropies H satisfy
    sum H - max H <= gamma, at least one (arXiv:2505.24857). The left side bounds, in nats, the
    divergence of independent draws from the joint distribution."""

    def __init__(self, entropy_bound: float = 0.1, score: str = "entropy"):
        self.gamma, self.score = entropy_bound, score

    def decide(self, state, proposal):
        order = proposal.score(self.score).argsort(dim=1, descending=True, stable=True)
        entropy = proposal.entropy().nan_to_num(torch.inf).gather(1, order)
        entropy = entropy.to(rng.double(entropy.device))
        excess = entropy.cumsum(1) - entropy.cummax(1).values  # nan where inf - inf: not accepted
        accepted = excess <= self.gamma
        accepted[:, 0] = True
        return proposal.rows & torch.zeros_like(accepted).scatter(1, order, accepted), None


class Blocks(Sampler):
    """Semi-autoregressive order (LLaDA's generate.py): another sampler works on one block of
    editable positions at a time, left to right, while the masks further right stay in view of the
    model. Each row goes on to its next block when its own is full.
    """

    def __init__(self, inner: Sampler, block_length: int):
        if inner.total is not None:
            raise ValueError("a sampler with a fixed number of steps cannot be divided into blocks")
        self.inner, self.block_length = inner, block_length

    def _block(self, state: State) -> State:
        """The state as the inner sampler sees it: only the first block with a mask is masked."""
        number = (state.editable.cumsum(1) - 1) // self.block_length
        last = number.masked_fill(~state.masked, number.shape[1])
        return replace(state, masked=state.masked & (number == last.amin(1, keepdim=True)))

    def start(self, state):
        self.inner.start(state)

    def wanted(self, state):
        return self.inner.wanted(self._block(state))

    def decide(self, state, proposal):
        return self.inner.decide(self._block(state), proposal)


_CLASSES = {
    "seed": Seed,
    "ancestral": Ancestral,
    "first-hitting": FirstHitting,
    "confidence": Confidence,
    "threshold": Threshold,
    "entropy-bound": EntropyBound,
}


def make_sampler(name: str, n_steps: int = 0, block_length: int = 0, **own) -> Sampler:
    """The sampler ``name`` (see `options.SAMPLERS`) with its own options, in blocks if asked."""
    kind = _CLASSES[name]
    sampler = kind(n_steps, **own) if name in STEPPED else kind(**own)
    return Blocks(sampler, block_length) if block_length else sampler
