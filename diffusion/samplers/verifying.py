"""Samplers that verify what they drafted.

``memory["draft"]`` (B, L) are tokens that the next pass shows at masks although they are not
written, -1 elsewhere: `select` queries them, and `decide` accepts or refuses each.
"""

from typing import Annotated

import torch
from torch import Tensor

from diffusion.samplers.base import Decision, Sampler
from diffusion.samplers.spec import Range

# Random streams of a step: whether a draft is accepted, the token at the stop, the next draft.
ACCEPT, TOKEN, DRAFT = range(3)


class Speculative(Sampler):
    """Drafts of the noisy stream, verified by the clean one (arXiv:2211.17192), with a denoiser that
    does both (see `diffusion.speculative`). Draft y is accepted with probability min(1, p(y) / q(y)),
    the first that is not is drawn anew from (p - q)+, and after a draft that was accepted whole
    stands one more token from p. So the text has exactly the distribution of `LeftToRight`.

    ``memory["drafted"]`` (B, K) is the draft of each row, of which the first ``memory["count"]`` (B,)
    tokens are there, and ``memory["q"]`` (B, K, V) what it was drawn from.
    """

    def __init__(
        self,
        draft_length: Annotated[int, Range(1, 64), "tokens of the longest draft"] = 2,
        *,
        end_id: int | None = None,
    ):
        self.draft_length, self.end_id = draft_length, end_id

    def start(self, state):
        rows = len(state.ids)
        state.memory["drafted"] = state.ids.new_zeros(rows, self.draft_length)
        state.memory["count"] = state.ids.new_zeros(rows)

    def select(self, state):
        waiting = state.masked & ~self.finished(state)[:, None]
        return waiting & (waiting.cumsum(1) <= state.memory["count"][:, None] + 1)

    def decide(self, state, proposal):
        memory, rule = state.memory, proposal.rule
        row = proposal.query_mask.any(1).nonzero()[:, 0]
        draft, count = memory["drafted"][row], memory["count"][row]
        here = proposal.query_mask[row].int().argmax(1)
        place = torch.arange(self.draft_length + 1, device=row.device)
        known = proposal.distribution()
        p = known.new_zeros(len(row), len(place), known.shape[1])
        p[place <= count[:, None]] = known
        q = torch.zeros_like(p[:, :-1]) if "q" not in memory else memory["q"][row]
        u = [state.uniform(stream, self.draft_length)[row] for stream in (ACCEPT, TOKEN, DRAFT)]
        accepted, weights = verify(p, q, draft, count, u[ACCEPT])
        token = draw(weights, u[TOKEN][:, 0])[:, None]
        new = torch.cat([draft, token], 1).scatter(1, accepted[:, None], token)
        fresh = place <= accepted[:, None]
        if self.end_id is not None:  # nothing stands after the end
            over = (new == self.end_id) & fresh
            fresh = fresh & (over.cumsum(1) - over.long() == 0)
        r, k = fresh.nonzero().unbind(1)
        spot = row[r], here[r] + k
        write, tokens = torch.zeros_like(state.masked), state.ids.clone()
        write[spot], tokens[spot] = True, new[r, k]

        # A draft leaves room for the token after it.
        room = (state.masked[row].sum(1) - accepted - 2).clamp(0, self.draft_length)
        nexts = state.denoiser.ahead(accepted)
        nexts = rule.dense(nexts.flatten(0, 1)).view(q.shape)
        drafted = draw(nexts, u[DRAFT])
        if "q" not in memory:
            memory["q"] = nexts.new_zeros(len(state.ids), *nexts.shape[1:])
        for name, value in (("q", nexts), ("drafted", drafted), ("count", room)):
            memory[name] = memory[name].index_copy(0, row, value)
        r, k = (place[:-1] < room[:, None]).nonzero().unbind(1)
        memory["draft"] = torch.full_like(state.ids, -1)
        memory["draft"][row[r], (here + accepted)[r] + 1 + k] = drafted[r, k]
        return Decision(write, tokens=tokens)

    def finished(self, state):
        done = ~state.masked.any(1)
        if self.end_id is None:
            return done
        return done | (state.visible & (state.ids == self.end_id)).any(1)


def draw(p: Tensor, u: Tensor) -> Tensor:
    """Tokens (...) from weights (..., V) by the uniforms (...)."""
    cdf = p.cumsum(-1)
    pick = torch.searchsorted(cdf, (u.to(cdf.dtype) * cdf[..., -1])[..., None], right=True)
    return pick[..., 0].clamp(max=p.shape[-1] - 1)


def verify(p: Tensor, q: Tensor, draft: Tensor, count: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """(how many of each draft are accepted (R,), the weights (R, V) of the token after them).

    Args:
        p: (R, K + 1, V) at the places of the draft and after it.
        q: (R, K, V) what the draft (R, K) was drawn from; its first ``count`` (R,) tokens are there.
        u: (R, K) uniforms.
    """
    place = torch.arange(draft.shape[1], device=draft.device)
    ratio = [x.gather(2, draft[..., None])[..., 0] for x in (p[:, :-1], q)]
    fits = (u.to(q.dtype) * ratio[1] < ratio[0]) & (place < count[:, None])
    accepted = fits.long().cumprod(1).sum(1)
    row = torch.arange(len(p), device=p.device)
    weights = p[row, accepted]
    left = (weights - q[row, accepted.clamp(max=draft.shape[1] - 1)]).clamp(min=0)
    # Where p and q differ by rounding alone, nothing is left.
    stopped = (accepted < count) & (left.sum(1) > 0)
    return accepted, torch.where(stopped[:, None], left, weights)
