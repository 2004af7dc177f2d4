"""Samplers that only open masks: what is written stays."""

import itertools
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from diffusion import rng
from diffusion.noise import SCHEDULES
from diffusion.samplers.base import Decision, Sampler, Schedule, Score, Steps, Timed, ranks
from diffusion.samplers.spec import Range


@dataclass
class Ancestral(Timed):
    """The reverse process of masked diffusion (MDLM, arXiv:2406.07524): from t to s < t each mask
    stays one with probability r(s) / r(t), else it is drawn from the denoiser.

    Times run from 1 to 1e-5; what is left then is filled with the most probable tokens. Staying
    is drawn first and apart from the token, so only positions that open need a prediction, and a
    step in which none opens costs no forward pass.
    """

    END = 1e-5
    schedule: Schedule = field(default="linear", kw_only=True)

    def rate(self, t: Tensor) -> Tensor:
        """The mask rate at the time ``t``."""
        return SCHEDULES[self.schedule].rate(t)

    def turn(self, state) -> Tensor:
        """(B, 1) the current step of the reverse process, counted from 1."""
        return state.turn

    def rates(self, state) -> tuple[Tensor, Tensor]:
        """Mask rates before and after this step."""
        return tuple(self.rate(self.time(state, self.turn(state) - ago)) for ago in (1, 0))

    def greedy(self, state):
        return self.turn(state) > self.planned(state)

    def select(self, state):
        before, after = self.rates(state)
        return state.masked & ((state.uniform(0) >= after / before) | self.greedy(state))


class LeftToRight(Sampler):
    """The leftmost mask first, one a step: with a denoiser that reads causally (see
    `models.cached`), ordinary autoregressive sampling."""

    def select(self, state):
        return state.masked & (state.masked.cumsum(1) == 1)


class FirstHitting(Sampler):
    """Exact continuous-time sampling without empty steps (arXiv:2409.02908): with n masks left
    the next one opens when the rate has fallen from r to r * u**(1/n), at a position chosen
    uniformly. ``memory["rate"]`` (B,) is the mask rate of each row's own clock."""

    def start(self, state):
        state.memory["rate"] = torch.ones(len(state.ids), device=state.ids.device)

    def select(self, state):
        left = state.masked.sum(1)
        u = state.uniform(1, 1)[:, 0]
        fall = u ** (1 / left.clamp(min=1))
        state.memory["rate"] = torch.where(left > 0, state.memory["rate"] * fall, 0.0)
        return state.masked & (ranks(state.uniform(0).masked_fill(~state.masked, -1)) == 0)


@dataclass
class Confidence(Sampler):
    """The highest confidence first (LLaDA, arXiv:2502.09992; Dream, arXiv:2508.15487).

    Without a schedule the n masks of a row are shared evenly, n // N a step and one more in the first
    n mod N; a schedule opens round(n * (1 - r(s) / r(t))) of the masks left, and steps that would
    open none are skipped. With ``alg_temp`` positions are drawn without replacement with weights
    exp(score / alg_temp).
    """

    n_steps: Steps
    score: Score = "probability"
    schedule: Schedule = None
    alg_temp: Annotated[float, Range(0, 1e6), "randomness of the order"] = 0.0

    def start(self, state):
        masks, steps = state.masked.sum(1), self.planned(state)[:, 0]
        state.memory["plan"] = quotas(masks, steps, self.schedule)

    def select(self, state):
        plan = state.memory["plan"]
        # (B, 1) positions to write in this step
        state.memory["quota"] = plan.gather(1, (state.turn - 1).clamp(0, plan.shape[1] - 1))
        return state.masked & (state.memory["quota"] > 0)

    def decide(self, state, proposal):
        score = proposal.score(self.score)
        if self.alg_temp > 0:
            # The n largest of score / tau + Gumbel noise are n draws without replacement.
            gumbel = -(-state.uniform(0).log()).log()
            # In float64, where no temperature that is allowed becomes 0 or infinite.
            score = score.to(gumbel.dtype) / self.alg_temp + gumbel
        return Decision(proposal.query_mask & (ranks(score) < state.memory["quota"]))


def quotas(masks: Tensor, n_steps: Tensor | int, schedule: str | None) -> Tensor:
    """(B, largest n_steps) int64: how many of ``masks`` (B,) each of a row's ``n_steps`` (B,)
    writes, zeros last. Rows sum to ``masks``; the last step takes what is left."""
    n_steps = torch.as_tensor(n_steps, device=masks.device).expand_as(masks)
    step = torch.arange(int(n_steps.max()), device=masks.device)
    steps = n_steps[:, None]
    if schedule is None:
        return (masks[:, None] // steps + (step < masks[:, None] % steps)) * (step < steps)
    rate, dtype = SCHEDULES[schedule].rate, rng.double(masks.device)
    start = 1 - step.to(dtype) / steps  # not above 0 where a row has fewer steps
    end = (1 - (step + 1).to(dtype) / steps).clamp(min=0)
    share = torch.where(step + 1 < steps, 1 - rate(end) / rate(start), 1.0)
    left, plan = masks, []
    for column in share.T:
        take = (left * column).round().long()
        left = left - take
        plan.append(take)
    table = torch.stack(plan, 1)
    # A stable sort by "is zero" moves the empty steps to the end, where the row has finished.
    return table.gather(1, (table == 0).long().argsort(dim=1, stable=True))


@dataclass
class Threshold(Sampler):
    """Every prediction whose score reaches a threshold; if none does, the one with the highest
    (Fast-dLLM, arXiv:2505.22618)."""

    threshold: Annotated[float, "least score that is written"] = 0.9
    score: Score = "probability"

    def decide(self, state, proposal):
        score = proposal.score(self.score)
        return Decision(proposal.query_mask & ((score >= self.threshold) | (ranks(score) == 0)))


@dataclass
class Factor(Sampler):
    """The n most confident predictions, n as large as (n + 1) (1 - c_n) < f allows, where c_n is the
    probability of the n-th; at least one (Fast-dLLM's factor rule, arXiv:2505.22618). Where all
    exceed 1 - 1 / (n + 1), drawing the best of each alone draws the best of all together."""

    factor: Annotated[float, Range(0), "the larger, the more at once"] = 1.0

    def decide(self, state, proposal):
        score = proposal.score("probability")
        place = ranks(score)
        # The left side grows along the order, so testing each place tests the whole prefix.
        accepted = (place + 2) * (1 - score) < self.factor
        return Decision(proposal.query_mask & (accepted | (place == 0)))


@dataclass
class EntropyBound(Sampler):
    """Sorted by confidence, the longest prefix of positions whose entropies H satisfy
    sum H - max H <= gamma, at least one (arXiv:2505.24857). The left side bounds, in nats, the
    divergence of independent draws from the joint distribution."""

    entropy_bound: Annotated[float, Range(0), "bound on the joint error in nats (gamma)"] = 0.1
    score: Score = "entropy"

    def decide(self, state, proposal):
        order = proposal.score(self.score).argsort(dim=1, descending=True, stable=True)
        entropy = proposal.entropy().nan_to_num(torch.inf).gather(1, order)
        entropy = entropy.to(rng.double(entropy.device))
        excess = entropy.cumsum(1) - entropy.cummax(1).values  # nan where inf - inf: not accepted
        accepted = excess <= self.entropy_bound
        accepted[:, 0] = True
        accepted = torch.zeros_like(accepted).scatter(1, order, accepted)
        return Decision(proposal.query_mask & accepted)


@dataclass
class Klass(Sampler):
    """Confident and stable (KLASS, arXiv:2511.05664): every prediction whose token has a
    probability above ``threshold`` and that in each of the last ``history`` steps changed by less than
    ``kl_threshold`` nats, KL(now || before); if there is none, the most confident."""

    threshold: Annotated[float, Range(0), "least probability of a token"] = 0.9
    kl_threshold: Annotated[float, Range(0), "a stable prediction changes less, nats"] = 0.01
    history: Annotated[int, Range(1), "steps for which it must be stable"] = 2

    def decide(self, state, proposal):
        # Remembered are whole predictions, the one thing that is no (B, ...) tensor. A position
        # has one from each step since its block began, so there is nothing to begin anew.
        chain = [proposal, *state.memory.get("predictions", [])]
        state.memory["predictions"] = chain[: self.history]
        score = proposal.score("probability")
        stable = (score > self.threshold) & (len(chain) > self.history)
        for now, before in itertools.pairwise(chain):  # only where it still matters
            stable = stable & (now.divergence(before, stable) < self.kl_threshold)
        best = (ranks(score) == 0) & ~stable.any(1, keepdim=True)
        return Decision(proposal.query_mask & (stable | best))
