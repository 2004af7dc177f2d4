"""Samplers that can mask again what they wrote."""

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from diffusion import rng
from diffusion.samplers.base import Decision, Sampler, Timed, ranks
from diffusion.samplers.spec import Choices, Range
from diffusion.samplers.unmasking import Ancestral


class RandomRemask(Timed):
    """The loop of RoBERTaDiffusion (nathan-barry): step k of N leaves each editable position
    masked with probability 1 - k/N, whatever it was before, and writes the rest.

    With copy-through (a visible token predicts itself) this is ReMDM at sigma = 1 - a_s.
    """

    def select(self, state):
        masks_left = self.time(state, state.turn)
        state.memory["noise"] = state.editable & (state.uniform(0) < masks_left)
        return state.masked & ~state.memory["noise"]

    def decide(self, state, proposal):
        return Decision(proposal.query_mask, state.memory["noise"] & ~state.masked)

    def settled(self, state):
        return state.turn >= self.planned(state) - 1  # the last step masks nothing again

    def finished(self, state):
        return (state.turn >= self.planned(state))[:, 0]


@dataclass
class ReMDM(Ancestral):
    """Ancestral sampling that may open written positions again without changing how many are
    masked at any time (ReMDM, arXiv:2503.00307). With a = 1 - r, from t to s a written position
    becomes a mask with probability sigma, and a mask stays one with probability
    (r_s - sigma a_t) / r_t. The largest valid sigma is sigma_max = min(1, r_s / a_t).

    ``remask`` chooses sigma:
        cap: min(eta, sigma_max).
        rescale: eta sigma_max.
        conf: sigma_max times a softmax over the written positions of minus the probability each
            had when it was written, and 0 in the rule for masks.
        loop: ancestral until 90 % are written at t = 0.55; then that share stays, with sigma as
            in cap, until t = 0.05; then the rest.
        psi: (1 - kappa) r_s, kappa times ancestral and the rest `RandomRemask` (s-sahoo/duo).
    """

    ON, OFF, WRITTEN = 0.55, 0.05, 0.9
    REMASK = Choices({
        "cap": "at most eta",
        "rescale": "eta times the largest valid one",
        "conf": "more for tokens that were written with low confidence",
        "loop": "eta while a tenth stays masked, in the middle of the time",
        "psi": "kappa times ancestral, the rest as random-remask",
    })  # fmt: skip

    remask: Annotated[str, REMASK, "how the probability of re-masking is chosen"] = "cap"
    eta: Annotated[
        float | None, Range(0, 1), "default 0.04 (cap), 0.015 (rescale), 0.02 (loop)"
    ] = None
    kappa: Annotated[float, Range(0, 1), "psi: 1 is ancestral, 0 random-remask"] = 0.9

    def __post_init__(self):
        if self.eta is None:
            cap = 0.04 if self.n_steps < 1024 else 0.008
            self.eta = {"cap": cap, "rescale": 0.015, "loop": 0.02}.get(self.remask, 1.0)

    def rate(self, t):
        if self.remask != "loop":
            return super().rate(t)
        # Masks fall to 10 % at t = ON, stay, and fall to none from t = OFF on.
        first = 1 - self.WRITTEN * (1 - t) / (1 - self.ON)
        return first.maximum((1 - self.WRITTEN) * (t / self.OFF).clamp(max=1))

    def start(self, state):
        if self.remask == "conf":  # of a token that was there from the start nothing is known
            state.memory["confidence"] = torch.ones_like(state.ids, dtype=torch.float32)

    def sigma(self, state, before: Tensor, after: Tensor) -> Tensor:
        """Probability (B, 1) or (B, L) of masking a written position again in this step."""
        largest = (after / (1 - before)).clamp(max=1)  # r / 0 is inf, and then 1
        if self.remask == "cap":
            return largest.clamp(max=self.eta)
        if self.remask == "rescale":
            return self.eta * largest
        if self.remask == "psi":
            return (1 - self.kappa) * after
        if self.remask == "loop":
            t = self.time(state, state.turn - 1)
            return largest.clamp(max=self.eta) * ((t > self.OFF) & (t <= self.ON))
        score = -state.memory["confidence"].to(largest.dtype)
        weight = score.masked_fill(~state.visible, -torch.inf).softmax(1)
        return largest * weight.nan_to_num(0)  # nan where nothing is written yet

    def select(self, state):
        before, after = self.rates(state)
        last = self.greedy(state)
        sigma = self.sigma(state, before, after).masked_fill(last, 0)
        u = state.uniform(0)
        state.memory["forget"] = state.visible & (u < sigma)
        return state.masked & (last | (u >= (after - sigma * (1 - before)) / before))

    def decide(self, state, proposal):
        if self.remask == "conf":
            new = proposal.query_mask
            known = state.memory["confidence"]
            state.memory["confidence"] = torch.where(new, proposal.probability, known)
        return Decision(proposal.query_mask, state.memory["forget"])

    def settled(self, state):
        never = self.eta == 0 or (self.remask == "psi" and self.kappa == 1)
        return (state.turn >= self.planned(state)) | never

    def finished(self, state):
        return ~state.masked.any(1) & self.settled(state)[:, 0]


@dataclass
class P2(Timed):
    """Path planning by self-correction (P2, arXiv:2502.03540): step k of N keeps the best k/N of
    all editable positions, written or just drawn, and masks the others.

    The score is the log-probability, for written positions times ``eta``: at 0 they always stay,
    above 1 they go more easily. Hidden scores come from shadow copies; the authors' code has those of
    released tokens.
    """

    SCORES = Choices({
        "hidden": "log-probability of the token, unseen by the model",
        "released": "of a fresh draw by a model that sees the token",
    })  # fmt: skip

    eta: Annotated[float, Range(0), "weight of the scores of written tokens"] = 1.0
    score: Annotated[str, SCORES, "score of a written token"] = "hidden"
    clock_delay: float = field(default=0.0, init=False)  # one clock for all

    @property
    def hides(self):
        return self.score == "hidden" and self.eta > 0  # else nothing that is written is judged

    def masks(self, state, turn: Tensor) -> Tensor:
        """(B, 1) positions that step ``turn`` leaves masked."""
        editable = state.editable.sum(1, keepdim=True)
        return (self.time(state, turn) * editable + 1e-9).floor()  # 10 * (1 - 0.9) is one

    def select(self, state):
        # Where all will stay no score counts; after that there is nothing left to do.
        judged = state.visible & (self.masks(state, state.turn) > 0)
        return state.masked | judged if self.eta else state.masked

    def decide(self, state, proposal):
        p = proposal.probability
        if self.hides:
            p = torch.where(state.masked, p, proposal.probability_of(state.ids))
        # Clamped: 0 times the log of a forbidden token is 0.
        score = p.log().clamp(min=-1e4)
        # With eta 0 nothing that is written has to give way to a certain prediction.
        score = torch.where(state.masked, score, self.eta * score if self.eta else torch.inf)
        score = score.masked_fill(~state.editable, -torch.inf)
        masks = self.masks(state, state.turn)
        keep = ranks(score) < state.editable.sum(1, keepdim=True) - masks
        return Decision(proposal.query_mask & state.masked & keep, state.visible & ~keep)

    def settled(self, state):
        return self.masks(state, state.turn + 1) == 0

    def finished(self, state):
        return (state.turn >= self.planned(state))[:, 0]


@dataclass
class Wino(Sampler):
    """Wide in, narrow out (WINO, arXiv:2507.18578): every mask whose drawn token has a probability
    above ``threshold`` is written, at least one and at most clamp(0.7 n, 5, 20) of n; in the same
    forward pass shadow copies, which do not see the token they judge, give each written token a
    probability, and below ``threshold_back`` it becomes a mask again. A step takes back fewer
    tokens than the one before wrote, and none when it writes but one, so the loop ends.
    """

    hides = True
    LEAST, MOST, SHARE = 5, 20, 0.7

    threshold: Annotated[float, Range(0), "least probability of a drafted token"] = 0.6
    threshold_back: Annotated[float, Range(0, 1), "of a written token that stays"] = 0.9

    def start(self, state):
        state.memory["accepted"] = torch.zeros_like(state.since)

    def select(self, state):
        # Nothing is taken back after a step that wrote one token, or in one that can write no more.
        several = (state.memory["accepted"] > 1) & (state.masked.sum(1, keepdim=True) > 1)
        return state.masked | (state.visible & several)

    def decide(self, state, proposal):
        score = proposal.probability.masked_fill(~state.masked, -torch.inf)
        place = ranks(score)
        cap = (state.masked.sum(1, keepdim=True) * self.SHARE).long().clamp(self.LEAST, self.MOST)
        write = state.masked & ((place == 0) | ((score > self.threshold) & (place < cap)))
        accepted = write.sum(1, keepdim=True)

        back = proposal.probability_of(state.ids).masked_fill(~state.visible, torch.inf)
        most = (state.memory["accepted"] - 1) * (accepted > 1)
        unlikely = state.visible & (back < self.threshold_back) & (ranks(-back) < most)
        state.memory["accepted"] = accepted
        return Decision(write, unlikely)

    def settled(self, state):
        return ~state.masked.any(1, keepdim=True)


@dataclass
class Saber(Sampler):
    """Adaptive pace and a way back (Saber, arXiv:2510.18165): every mask more confident than the written
    tokens were on average when they were written, and at least ``min_tokens``; then, of the
    tokens written before, those whose probability fell most since the last step become masks
    again: one for each ``mu`` written now, rounded up, and fewer than were written.

    Probabilities of written tokens come from shadow copies, which do not see them; the authors'
    code reads the visible position. Only tokens that did fall are taken back.
    """

    hides = True

    min_tokens: Annotated[int, Range(2), "write at least so many a step"] = 2
    mu: Annotated[int, Range(1), "re-mask one token for so many written"] = 8

    def start(self, state):
        # Probabilities when a token was written, and the latest; nan where nothing was.
        unknown = torch.full_like(state.ids, math.nan, dtype=torch.float32)
        state.memory["first"] = state.memory["last"] = unknown

    def select(self, state):
        # A step that writes one token takes none back.
        several = state.masked.sum(1, keepdim=True) > 1
        return state.masked | (state.visible & several)

    def decide(self, state, proposal):
        first, last = state.memory["first"], state.memory["last"]
        score = proposal.probability.masked_fill(~state.masked, -torch.inf)
        written = state.visible & ~first.isnan()
        # In float64, so that equal probabilities are not above their own mean.
        total = first.to(rng.double(first.device)).masked_fill(~written, 0).sum(1, keepdim=True)
        mean = torch.where(written.any(1, keepdim=True), total / written.sum(1, keepdim=True), 1.0)
        write = state.masked & ((score > mean) | (ranks(score) < self.min_tokens))

        now = proposal.probability_of(state.ids)
        fall = (last - now).nan_to_num(-torch.inf).masked_fill(~written, -torch.inf)
        accepted = write.sum(1, keepdim=True)
        most = ((accepted + self.mu - 1) // self.mu).minimum(accepted - 1)
        revert = written & (fall > 0) & (ranks(fall) < most)

        state.memory["first"] = torch.where(write, proposal.probability, first)
        state.memory["first"] = state.memory["first"].masked_fill(revert, math.nan)
        last = torch.where(write, proposal.probability, torch.where(written, now, last))
        state.memory["last"] = last.masked_fill(revert, math.nan)
        return Decision(write, revert)

    def settled(self, state):
        return ~state.masked.any(1, keepdim=True)
