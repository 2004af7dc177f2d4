"""Samplers that verify what they drafted, by the same model reading from left to right."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from diffusion.proposal import invert
from diffusion.rng import TOKENS
from diffusion.samplers.base import Decision, Sampler, ranks
from diffusion.samplers.spec import Choices, Range

# Random streams of a step: whether a draft is accepted, the token at the stop, the next draft.
ACCEPT, TOKEN, DRAFT = range(3)


@dataclass
class Speculative(Sampler):
    """Drafts of the noisy stream, verified by the clean one (arXiv:2211.17192), with a denoiser that
    does both (see `diffusion.speculative`). Draft y is accepted with probability min(1, p(y) / q(y)),
    the first that is not is drawn anew from (p - q)+, and after a draft that was accepted whole
    stands one more token from p. So the text has exactly the distribution of `LeftToRight`.

    ``memory["draft"]`` (B, L) are tokens that the next pass shows at masks although they are not
    written, -1 elsewhere, and ``memory["q"]`` (B, K, V) what they were drawn from.
    """

    draws = False

    draft_length: Annotated[int, Range(1, 64), "tokens of the longest draft"] = 2

    def start(self, state):
        state.memory["draft"] = torch.full_like(state.ids, -1)

    def select(self, state):
        drafted = (state.memory["draft"] >= 0).sum(1, keepdim=True)
        return state.masked & (state.masked.cumsum(1) <= drafted + 1)

    def decide(self, state, proposal):
        row = proposal.query_mask.any(1).nonzero()[:, 0]
        here = proposal.query_mask[row].int().argmax(1)
        count = proposal.query_mask[row].sum(1) - 1
        place = torch.arange(self.draft_length + 1, device=row.device)
        known = proposal.distribution()
        p = known.new_zeros(len(row), len(place), known.shape[1])
        p[place <= count[:, None]] = known
        memory = state.memory
        q = memory.setdefault("q", torch.zeros_like(p[:1, 1:]).repeat(len(state.ids), 1, 1))
        spots = (here[:, None] + place[:-1]).clamp(max=state.ids.shape[1] - 1)
        draft = memory["draft"][row].gather(1, spots).clamp(min=0)
        streams = torch.arange(3, device=row.device)[:, None]
        u = state.uniform(streams, self.draft_length)[:, row]
        accepted, weights = verify(p, q[row], draft, count, u[ACCEPT])
        token = draw(weights, u[TOKEN][:, 0])[:, None]
        new = torch.cat([draft, token], 1).scatter(1, accepted[:, None], token)
        fresh = place <= accepted[:, None]

        nexts = state.denoiser.ahead(accepted)
        nexts = proposal.rule.dense(nexts.flatten(0, 1)).view(nexts.shape)
        memory["q"] = q.index_copy(0, row, nexts)
        # A draft leaves room for the token after it.
        room = (state.masked[row].sum(1) - accepted - 2).clamp(0, self.draft_length)
        drafted = draw(nexts, u[DRAFT])
        some = place[:-1] < room[:, None]
        if state.end_id is not None:  # what a draft has after an end is never read
            end = drafted == state.end_id
            some = some & (end.cumsum(1) == end)
        memory["draft"] = laid(state.ids, row, here + accepted + 1, drafted, some)
        tokens = laid(state.ids, row, here, new, fresh)
        return Decision(tokens >= 0, tokens=torch.where(tokens >= 0, tokens, state.ids))


@dataclass
class DraftVerifyRemask(Sampler):
    """Draft, verify, re-mask (ARPC, arXiv:2606.02241): one forward pass drafts all masks of a block, the
    next one reads its n tokens from left to right (see `models.cached.Verifying`), and after draft k of
    K those round((1 - k/K) n), at least one, with the worst score are masks again. What the last draft
    writes stays, so a block costs 2 K - 1 passes. K is n / ``tokens_per_draft``, rounded up.

    The temperature falls evenly from ``first`` to ``last`` times the given one, which is not published:
    early drafts bring variety and are verified often, the last one never is.
    """

    draws = False

    SCORES = Choices({
        "nll": "minus the log-probability of the token, given those before it",
        "gap": "log-probability of the best token minus that of the token",
    })  # fmt: skip

    tokens_per_draft: Annotated[
        int, Range(1, 100_000), "a block of n tokens is drafted n / N times, rounded up"
    ] = 7
    score: Annotated[str, SCORES, "how bad a token is"] = "gap"
    first: Annotated[
        float, Range(0, 100), "temperature of the first draft, times --temperature"
    ] = 1.5
    last: Annotated[float, Range(0, 100), "the same of the last draft"] = 0.15

    def drafts(self, state) -> tuple[Tensor, Tensor]:
        """(K, the number k of the current draft, from 1), (B, 1) each."""
        size = state.editable.sum(1, keepdim=True)
        return (size - 1) // self.tokens_per_draft + 1, (state.turn + 1) // 2

    def select(self, state):
        # A block without masks is read; all rows are at the same block.
        read = ~state.masked.any(1, keepdim=True) & ~self.finished(state)[:, None]
        return state.masked | (state.visible & read)

    def decide(self, state, proposal):
        most, number = self.drafts(state)
        query_mask = proposal.query_mask
        if (query_mask & state.masked).any():  # in all rows
            progress = (number - 1) / (most - 1).clamp(min=1)
            warmth = self.first + (self.last - self.first) * progress
            tokens, _ = proposal.drawn(proposal.rule, state.uniform(TOKENS), warmth)
            return Decision(query_mask, tokens=torch.where(query_mask, tokens, state.ids))
        score = -proposal.probability_of(state.ids).log()
        if self.score == "gap":
            score = score + proposal.probability_of(proposal.best.clamp(min=0)).log()
        size = state.editable.sum(1, keepdim=True)
        again = (size * (most - number) / most).round().clamp(min=1)
        worst = ranks(score.masked_fill(~query_mask, -torch.inf)) < again
        return Decision(torch.zeros_like(query_mask), query_mask & worst, state.ids)

    def settled(self, state):
        most, _ = self.drafts(state)
        return state.turn >= 2 * most - 2  # the last draft alone is left, and stays

    def finished(self, state):
        most, _ = self.drafts(state)
        return (state.turn >= 2 * most - 1)[:, 0] & ~state.masked.any(1)


def laid(ids: Tensor, row: Tensor, first: Tensor, tokens: Tensor, some: Tensor) -> Tensor:
    """As ``ids`` (B, L), of ``tokens`` (R, K) those in ``some``, from ``first`` (R,) on; else -1."""
    length = ids.shape[1]
    place = first[:, None] + torch.arange(tokens.shape[1], device=ids.device)
    # The others go to a column that is cut off.
    out = torch.full_like(ids[:, :1], -1).repeat(1, length + 1)
    out[row[:, None], torch.where(some, place, length)] = tokens
    return out[:, :length]


def draw(p: Tensor, u: Tensor) -> Tensor:
    """Tokens (...) from weights (..., V) by the uniforms (...)."""
    return invert(p.flatten(0, -2).cumsum(-1), u.flatten()).view(u.shape)


def verify(p: Tensor, q: Tensor, draft: Tensor, count: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """(how many of each draft are accepted (R,), the weights (R, V) of the token after them).

    Args:
        p: (R, K + 1, V) at the places of the draft and after it.
        q: (R, K, V) what the draft (R, K) was drawn from, of which ``count`` (R,) tokens are there.
        u: (R, K) uniforms.
    """
    row, place = (torch.arange(n, device=draft.device) for n in draft.shape)
    target, drafted = (x.gather(2, draft[..., None])[..., 0] for x in (p[:, :-1], q))
    fits = (u.to(q.dtype) * drafted < target) & (place < count[:, None])
    accepted = fits.long().cumprod(1).sum(1)
    weights = p[row, accepted]
    left = (weights - q[row, accepted.clamp(max=len(place) - 1)]).clamp(min=0)
    # Where p and q differ by rounding alone, nothing is left.
    stopped = (accepted < count) & (left.sum(1) > 0)
    return accepted, torch.where(stopped[:, None], left, weights)
