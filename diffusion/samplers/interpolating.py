"""Samplers that follow the noise that a model was trained with, random tokens included.

Where noise has random tokens, the prediction p for a position is one from all the others (see
`noise`): what stands there is the true token, drawn from p, or noise. Both are weighed by Bayes' rule:
with a_t, the share that is kept, and m_t(z), what noise puts at z, a token z is the true one with
probability a_t p(z) / (a_t p(z) + m_t(z)), and else the true one is drawn from p. Of masks alone,
where m_t(z) = 0 at a token, it is always the true one.

Times run from 1 to 1e-5. The last step writes no random tokens, and masks that are left after it are
filled with the most probable tokens.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from diffusion.proposal import Sampling
from diffusion.samplers.base import Decision, ranks
from diffusion.samplers.spec import Choices, Range
from diffusion.samplers.unmasking import Ancestral


class Renewing(Ancestral):
    """What these have in common: a position that changes takes a token of the model, a random token
    or a mask."""

    def shares(self, state) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """`Noise.shares` before and after this step."""
        return tuple(state.noise.shares(r) for r in self.rates(state))

    def last(self, state) -> Tensor:
        """(B, 1) bool: rows whose last planned step this is, or who are beyond it."""
        return self.turn(state) >= self.planned(state)

    def settles(self, state) -> bool:
        """Whether what is written stays, so that a text is done when no mask is left."""
        return not state.noise.has_random_tokens

    def answer(self, state, proposal, model: Tensor, random: Tensor, masked: Tensor) -> Decision:
        """The decision where the model writes, and where random tokens or masks come."""
        last = self.last(state)
        model, random = model | (random & last), random & ~last
        new = state.masked | state.random | (proposal.tokens != state.ids)
        tokens = None
        if random.any():
            tokens = torch.where(random, state.noise.drawn(state.uniform(2)), proposal.tokens)
        return Decision((model & new) | random, masked & state.visible, tokens, random)

    def settled(self, state):
        return self.last(state) | self.settles(state)

    def finished(self, state):
        done = ~state.masked.any(1)
        return done if self.settles(state) else done & self.last(state)[:, 0]


class Posterior(Renewing):
    """The reverse process of any noise (D3PM, arXiv:2107.03006; GIDD, arXiv:2503.04482): from t to
    s < t a position goes to y with the probability q(y at s | z at t, x from p) of Bayes' rule.

    With n(z) the part of m_t(z) that has come in between s and t, a token stays with probability
    1 - n(z) / (a_t p(z) + m_t(z)), and is else drawn from q_s(. | p): from the model with probability
    a_s, a mask with b_s, a random token with c_s. Since p(z) is at least 0, only positions for which
    n(z) / m_t(z) is enough to change need a prediction. Without random tokens this is `Ancestral`.
    """

    def arrivals(self, state) -> tuple[Tensor, Tensor]:
        """m_t(z) and n(z), (B, L)."""
        (a, *noise), (a_s, *noise_s) = self.shares(state)
        kept = torch.where(a_s > 0, a / a_s, 1.0)  # a clock that has not started stands still
        came = (now - kept * before for now, before in zip(noise, noise_s, strict=True))
        return state.noise.at(state.ids, *noise), state.noise.at(state.ids, *came)

    def select(self, state):
        m, came = self.arrivals(state)
        _, (_, masks, _) = self.shares(state)
        move = torch.where(m > 0, came / m, 0.0) * torch.where(state.masked, 1 - masks, 1.0)
        moves = state.uniform(0) >= 1 - move
        return state.editable & (moves | (state.masked & self.greedy(state)))

    def outcomes(self, state, proposal) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L) bool each: what takes a token of the model, a random token, a mask."""
        m, came = self.arrivals(state)
        (a, *_), (a_s, _, c_s) = self.shares(state)
        stays = 1 - came / (a * proposal.chance_of(state.ids) + m)
        moved = proposal.query_mask & (state.masked | (state.uniform(0) >= stays))
        # That a mask opens is decided by then, so that it is none of the outcomes.
        u = state.uniform(1) * torch.where(state.masked, a_s + c_s, 1.0)
        model, random = moved & (u < a_s), moved & (u >= a_s) & (u < a_s + c_s)
        return model, random, moved & ~model & ~random

    def decide(self, state, proposal):
        return self.answer(state, proposal, *self.outcomes(state, proposal))


@dataclass
class Ddim(Renewing):
    """DDIM for categories (arXiv:2010.02502, appendix): from t to s < t a position that holds z
    keeps it with probability sigma, becomes the predicted token with a_s - sigma a_t, and noise with
    what is left. The largest sigma that leaves nothing negative is that of the process whose noise
    is no fresh one: what stands there, or what is predicted. At 0 what stands there is of no account,
    but for the prediction.

    For masks this is ReMDM with the sigma b_s - sigma b_t, and so its remask psi with kappa =
    ``sigma``: 1 is ancestral, 0 the loop of `RandomRemask`.
    """

    sigma: Annotated[float, Range(0, 1), "1: no fresh noise, 0: all noised anew"] = 1.0

    def edges(self, state) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L) where on the way from 0 to 1 the outcomes mask, what stands there, and random token
        end; what is predicted comes last. A mask that stands there is none that comes."""
        before, after = self.shares(state)
        largest = torch.ones_like(before[0])
        for now, then in zip(before, after, strict=True):
            largest = torch.where(now > 0, then / now, 1.0).minimum(largest)
        # After the last planned step nothing changes but masks that are left.
        sigma = torch.where(self.greedy(state), 1.0, self.sigma * largest)
        (_, b, c), (_, b_s, c_s) = before, after
        masks = b_s - sigma * b
        stays = masks + sigma
        fresh = (c_s - sigma * c).masked_fill(self.last(state), 0)
        return masks, stays, stays + fresh

    def select(self, state):
        *_, predicted = self.edges(state)
        (_, *noise), _ = self.shares(state)
        open_ = state.masked | (state.noise.at(state.ids, *noise) > 0)
        last = state.masked & self.greedy(state)
        return state.editable & open_ & ((state.uniform(0) >= predicted) | last)

    def decide(self, state, proposal):
        masks, stays, predicted = self.edges(state)
        (a, *noise), _ = self.shares(state)
        u = state.uniform(0)
        true = a * proposal.chance_of(state.ids)
        noisy = state.noise.at(state.ids, *noise)
        keeps = state.visible & (state.uniform(1) * (true + noisy) < true)
        random = state.editable & (u >= stays) & (u < predicted)
        return self.answer(state, proposal, proposal.query_mask & ~keeps, random, u < masks)

    def settles(self, state):
        return not state.noise.has_random_tokens and self.sigma == 1


@dataclass
class SelfCorrection(Posterior):
    """`Posterior`, and then as GIDD corrects itself (arXiv:2503.04482): in each step one token is
    drawn for every position at a low temperature, and of those that differ from what stands there the
    one with the highest probability takes its place. A text is done when none differs, when for more
    than ``patience`` steps no larger share of its tokens has been the most probable, or after
    ``corrections`` steps.
    """

    corrections: Annotated[int, Range(1, 100_000), "at most so many swaps"] = 128
    patience: Annotated[int, Range(0), "swaps without a larger share of best tokens"] = 32
    swap_temperature: Annotated[float, Range(0), "of the tokens that are swapped in"] = 0.1

    @property
    def total(self):
        return self.n_steps + self.corrections  # at most

    def start(self, state):
        nothing = torch.zeros_like(state.since)
        state.memory |= {
            "correcting": nothing.bool(),  # rows that are written
            "swapped": nothing,  # steps of their correction
            "agreement": nothing.float(),  # the largest share so far
            "waited": nothing,  # steps since
            "done": nothing.bool(),
        }

    def select(self, state):
        judged = state.editable & ~state.memory["done"]
        return torch.where(state.memory["correcting"], judged, super().select(state))

    def decide(self, state, proposal):
        memory, correcting = state.memory, state.memory["correcting"]
        write, remask, first, random = super().decide(state, proposal)
        tokens, chance = proposal.drawn(Sampling(self.swap_temperature), state.uniform(3))
        judged = proposal.query_mask & correcting
        score = chance.masked_fill(~judged | (tokens == state.ids), -1)
        swap = (score >= 0) & (ranks(score) == 0)
        best = torch.where(swap, tokens, state.ids) == proposal.best
        share = (best & judged).sum(1, keepdim=True) / judged.sum(1, keepdim=True).clamp(min=1)
        better = share > memory["agreement"]
        waited = torch.where(better, 0, memory["waited"] + 1)
        tired = waited > self.patience
        swap = swap & ~tired
        memory["waited"], memory["agreement"] = waited, share.maximum(memory["agreement"])
        memory["swapped"] = memory["swapped"] + correcting
        over = tired | ~swap.any(1, keepdim=True) | (memory["swapped"] >= self.corrections)
        memory["done"] = memory["done"] | (correcting & over)
        return Decision(
            torch.where(correcting, swap, write),
            remask & ~correcting,
            torch.where(correcting, tokens, proposal.tokens if first is None else first),
            random & ~correcting,
        )

    def settled(self, state):
        return state.memory["done"]

    def finished(self, state):
        state.memory["correcting"] = super().finished(state)[:, None]
        return (state.memory["correcting"] & state.memory["done"])[:, 0]


@dataclass
class Gibbs(Posterior):
    """`Posterior` with a Gibbs corrector (arXiv:2605.22765; its code: samsongourevitch/rev_udm). Each step
    but the last leads to a time s and is followed by ``corrections`` corrector steps. Each of these
    draws ``positions`` of the positions again, at once, from

        q_s(z_i | z_-i) = a_s p(z_i | z_-i) + m_s(z_i),

    with the m_s of this module; for uniform noise that is a_s p + (1 - a_s) / N. p is the leave-one-out
    prediction, which is what a model trained on the bound of `noise` predicts.

    If p is exact, one position chosen at random leaves the distribution of noisy texts at s unchanged.
    Several positions at once do not see each other, and ``margin`` depends on the tokens that it
    replaces. Both are the published defaults, and only approximate.

    ``choice``:
        margin: without replacement, with weights exp(-margin / ``choice_temperature``), where the margin
            is log q_s of the current token or mask minus that of the most probable alternative.
        random: all positions are equally likely.
    """

    CHOICES = Choices({
        "margin": "rather those whose token is less probable than another one",
        "random": "all positions are equally likely",
    })  # fmt: skip

    corrections: Annotated[int, Range(1, 100), "corrector steps after each step but the last"] = 2
    positions: Annotated[int, Range(1, 100_000), "positions that a corrector step draws again"] = 12
    choice: Annotated[str, CHOICES, "which positions"] = "margin"
    choice_temperature: Annotated[float, Range(0, 1e6), "margin: randomness of the choice"] = 1.0

    @property
    def total(self):
        return self.n_steps + self.corrections * (self.n_steps - 1)

    def turn(self, state):
        each = (state.turn + self.corrections) // (self.corrections + 1)
        # None follow the last planned step.
        return each.maximum(state.turn - self.corrections * (self.planned(state) - 1))

    def correcting(self, state) -> Tensor:
        """(B, 1) bool: rows whose current step is one of the corrector."""
        within = (state.turn - 1) % (self.corrections + 1) > 0
        return within & (self.turn(state) < self.planned(state))

    def settles(self, state):
        return False  # even of masks alone: what is written can become a mask again

    def margin(self, state, proposal) -> Tensor:
        """(B, L) log q_s of the current token or mask minus that of the most probable alternative."""
        _, (a, b, c) = self.shares(state)
        noise = state.noise
        each = c / len(noise.tokens) if noise.has_random_tokens else c  # of no random tokens: 0
        here = a * proposal.chance_of(state.ids) + noise.at(state.ids, b, c)
        token = a * proposal.chance_besides(state.ids) + each
        return here.log() - token.maximum(torch.where(state.masked, 0.0, b)).log()

    def chosen(self, state, proposal=None) -> Tensor:
        """(B, L) bool: the positions that are drawn again; ``random`` needs no proposal."""
        # The n largest of log weight + Gumbel noise are n draws without replacement.
        score = -(-state.uniform(0).log()).log()
        if self.choice == "margin":
            score = self.choice_temperature * score - self.margin(state, proposal)
        score = score.masked_fill(~state.editable, -torch.inf)
        return state.editable & (ranks(score) < self.positions)

    def select(self, state):
        queried = state.editable
        if self.choice == "random":  # what becomes noise needs no prediction
            _, (a, *_) = self.shares(state)
            queried = self.chosen(state) & (state.uniform(1) < a)
        return torch.where(self.correcting(state), queried, super().select(state))

    def outcomes(self, state, proposal):
        _, (a, _, c) = self.shares(state)
        chosen, u = self.chosen(state, proposal), state.uniform(1)
        model, random = chosen & (u < a), chosen & (u >= a) & (u < a + c)
        anew = model, random, chosen & ~model & ~random
        moved = super().outcomes(state, proposal)
        correcting = self.correcting(state)
        return tuple(torch.where(correcting, *pair) for pair in zip(anew, moved, strict=True))
