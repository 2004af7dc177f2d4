"""How a token is drawn from a prediction, and with what confidence."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion import rng

_CPU_PART = 2**20  # numbers of logits: what stays in the cache of a CPU
_GPU_PART = 2**26  # 256 MiB in float32


def rows_at_once(logits: Tensor) -> int:
    """How many rows of (N, V) are processed at once."""
    return max(1, (_CPU_PART if logits.is_cpu else _GPU_PART) // logits.shape[1])


MIN_TEMPERATURE = 1e-4  # below, the most probable token is taken
_GROUP = 64  # tokens


def invert(cdf: Tensor, u: Tensor) -> Tensor:
    """The places (N, 1) that the uniforms ``u`` (N,) pick by a distribution function (N, K) that
    need not end at 1; never one without probability."""
    total = cdf[:, -1:].contiguous()
    pick = torch.searchsorted(cdf, u.to(cdf.dtype)[:, None] * total, right=True)
    return pick.minimum(torch.searchsorted(cdf, total))


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from a prediction: temperature (0: the most probable token), then top-k (0:
    off), then top-p (1: off), which keeps the token that crosses, as ``TopPLogitsWarper`` does.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature < MIN_TEMPERATURE

    def shortlist(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """(logits (N, K) of the tokens that may be drawn, before top-p, and their ids (N, K), or
        None when K is the whole vocabulary in its own order)."""
        if self.greedy:
            return logits.max(-1, keepdim=True)
        if 0 < self.top_k < logits.shape[-1]:
            return logits.topk(self.top_k)
        return logits.sort(descending=True) if self.top_p < 1 else (logits, None)

    def distribution(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """(probabilities (N, K) in float64, their token ids (N, K) or None, see `shortlist`)."""
        logits, ids = self.shortlist(logits)
        return self._probabilities(logits), ids

    def dense(self, logits: Tensor) -> Tensor:
        """Probabilities (N, V) in float64, after temperature, top-k and top-p."""
        p, ids = self.distribution(logits.float())
        return p if ids is None else torch.zeros_like(logits, dtype=p.dtype).scatter_(1, ids, p)

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Of a shortlist (N, K), in float64: float32 loses rare tokens, which silently lowers the
        temperature (arXiv:2409.02908)."""
        p = logits.to(rng.double(logits.device))
        if self.greedy:
            return torch.ones_like(p)
        p = (p / self.temperature).softmax(-1)
        if self.top_p < 1:
            mass_above = p.cumsum(-1) - p
            p = p.masked_fill(mass_above >= self.top_p, 0)
            p = p / p.sum(-1, keepdim=True)
        return p

    def choose(self, logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """From a shortlist, the places (N,) in it that the uniforms ``u`` (N,) pick by inverting
        the distribution function, and their probabilities (N,) after all filters."""
        if logits.shape[-1] > 4 * _GROUP and self.top_p == 1 and not self.greedy:
            return self._choose_from_many(logits, u)
        p = self._probabilities(logits)
        pick = invert(p.cumsum(-1), u)
        return pick[:, 0], p.gather(-1, pick)[:, 0]

    def _choose_from_many(self, logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """`choose` for a whole vocabulary: first a group of tokens, then one of them, so that nothing
        of the size of the vocabulary is in float64, which takes four times as long."""
        p = (logits - logits.amax(-1, keepdim=True)).div_(self.temperature).exp_()
        p = F.pad(p, (0, -p.shape[-1] % _GROUP)).view(len(p), -1, _GROUP)
        mass = p.sum(-1).to(rng.double(p.device)).cumsum(-1)
        group = invert(mass, u)
        before = F.pad(mass, (1, 0)).gather(-1, group)[:, 0]
        here = mass.gather(-1, group)[:, 0] - before
        cdf = p.gather(1, group[..., None].expand(-1, -1, _GROUP))[:, 0].to(mass.dtype).cumsum(-1)
        pick = invert(cdf, (u.to(mass.dtype) * mass[:, -1] - before) / here)
        chosen = group[:, 0] * _GROUP + pick[:, 0]
        return chosen, p.flatten(1).gather(-1, chosen[:, None])[:, 0] / mass[:, -1]

    def draw(self, logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N,) drawn from logits (N, V) with the uniforms ``u`` (N,), and their
        probabilities (N,) after temperature, top-k and top-p."""
        short, ids = self.shortlist(logits)
        pick, p = self.choose(short, u)
        return (pick if ids is None else ids.gather(-1, pick[:, None])[:, 0]), p


class Proposal:
    """One drawn token for each queried position, and the confidence of the denoiser in it.

    Args:
        logits: (N, V), from a denoiser; all arithmetic on them is done in float32.
        query_mask: (B, L) bool, the N positions.
        sampling: how tokens are drawn.
        u: (B, L) uniforms, one for each position; None draws nothing.
        best: (B, 1) bool, rows that take the most probable tokens whatever ``sampling`` says.
    """

    def __init__(
        self,
        logits: Tensor,
        query_mask: Tensor,
        sampling: Sampling,
        u: Tensor | None,
        best: Tensor | None = None,
    ):
        self.query_mask = query_mask
        # By their places, found once: a GPU is waited for wherever a mask selects.
        self._at = query_mask.nonzero(as_tuple=True)
        self._logits, self.rule = logits, sampling
        if u is None:
            (self._total,) = self._map(lambda logits: (_normaliser(logits, logits.argmax(-1)),))
            return

        def draw(logits: Tensor, u: Tensor, greedily: Tensor) -> tuple[Tensor, ...]:
            short, ids = sampling.shortlist(logits)
            best = logits.argmax(-1) if ids is None else ids[:, 0]
            total = _normaliser(logits, best)
            pick, sharpened = sampling.choose(short, u)
            # In a sorted shortlist the best token stands first.
            pick = torch.where(greedily, best if ids is None else 0, pick)[:, None]
            token = pick if ids is None else ids.gather(-1, pick)
            probability = (short.gather(-1, pick)[:, 0] - total).exp()
            return token[:, 0], probability, sharpened, total

        greedily = torch.zeros_like(query_mask) if best is None else best.expand_as(query_mask)
        drawn = self._map(draw, u[self._at], greedily[self._at])
        self._tokens, self._probability, self._sharpened, self._total = drawn

    def only(self, query_mask: Tensor) -> "Proposal":
        """The same proposal as a sampler sees it that queried only ``query_mask`` (B, L)."""
        part = copy.copy(self)
        part.query_mask = self.query_mask & query_mask
        return part

    def _map(self, function: Callable[..., tuple[Tensor, ...]], *columns: Tensor) -> list[Tensor]:
        """``function`` of the float32 logits and of tensors (N, ...), chunk by chunk."""
        rows = rows_at_once(self._logits)
        chunks = zip(*(x.split(rows) for x in (self._logits, *columns)), strict=True)
        parts = [function(logits.float(), *rest) for logits, *rest in chunks]
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def _each(self, function: Callable[..., Tensor], *columns: Tensor) -> Tensor:
        """(B, L) `_map` of a function with one result; nan where none was queried."""
        return self.spread(*self._map(lambda *chunk: (function(*chunk),), *columns), torch.nan)

    def spread(self, values: Tensor, fill: float) -> Tensor:
        """Values (N,) of the queried positions as (B, L), ``fill`` elsewhere."""
        out = torch.full(self.query_mask.shape, fill, dtype=values.dtype, device=values.device)
        out[self._at] = values
        return out

    @cached_property
    def tokens(self) -> Tensor:
        """(B, L) drawn tokens; -1 where none was queried."""
        return self.spread(self._tokens, -1)

    @cached_property
    def probability(self) -> Tensor:
        """(B, L) probability of the drawn token at temperature 1; nan where none was drawn."""
        return self.spread(self._probability, torch.nan)

    @cached_property
    def best(self) -> Tensor:
        """(B, L) the most probable tokens; -1 where none was queried."""
        return self.spread(*self._map(lambda logits: (logits.argmax(-1),)), -1)

    def probability_of(self, tokens: Tensor) -> Tensor:
        """(B, L) probability at temperature 1 of other ``tokens`` (B, L); nan where nothing was
        queried."""
        logits = self._logits.gather(-1, tokens[self._at][:, None])[:, 0].float()
        return self.spread((logits - self._total).exp(), torch.nan)

    def distribution(self) -> Tensor:
        """(N, V) what the tokens were drawn from, in float64."""
        return self.rule.dense(self._logits)

    def chance_of(self, tokens: Tensor) -> Tensor:
        """(B, L) the same after temperature, top-k and top-p: how probable it was to be drawn."""

        def chance(logits: Tensor, tokens: Tensor) -> Tensor:
            p, ids = self.rule.distribution(logits)
            if ids is None:
                return p.gather(-1, tokens[:, None])[:, 0]
            return (p * (ids == tokens[:, None])).sum(-1)

        return self._each(chance, tokens[self._at])

    def chance_besides(self, tokens: Tensor) -> Tensor:
        """(B, L) the largest `chance_of` any other token than ``tokens`` (B, L)."""

        def chance(logits: Tensor, tokens: Tensor) -> Tensor:
            p, ids = self.rule.distribution(logits)
            ids = torch.arange(p.shape[1], device=p.device) if ids is None else ids
            return p.masked_fill(ids == tokens[:, None], 0).amax(-1)

        return self._each(chance, tokens[self._at])

    def drawn(
        self, rule: Sampling, u: Tensor, warmth: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(tokens, their probabilities after all filters) of a draw by another ``rule`` with the
        uniforms ``u``, all (B, L); -1 and nan where none was queried. The temperature of each row is
        ``warmth`` (B, 1) times that of the rule."""
        draw, columns = rule.draw, [u[self._at]]
        if warmth is not None:
            columns.append(warmth.clamp(min=MIN_TEMPERATURE).float()[self._at[0]])

            def draw(logits, u, warmth):
                return rule.draw(logits / warmth, u)

        tokens, chance = self._map(draw, *columns)
        return self.spread(tokens, -1), self.spread(chance, torch.nan)

    def divergence(self, previous: "Proposal", where: Tensor) -> Tensor:
        """(B, L) KL(this || previous) in nats, over the whole vocabulary at temperature 1, at the
        positions ``where`` (B, L); inf elsewhere and where either has no prediction."""
        where = where & self.query_mask & previous.query_mask
        out = torch.full(where.shape, torch.inf, device=where.device)
        here = where.nonzero(as_tuple=True)
        if not len(here[0]):
            return out
        rows = [
            p.spread(torch.arange(len(p._logits), device=where.device), -1)[here]
            for p in (self, previous)
        ]
        parts = []
        for own, other in zip(*(x.split(rows_at_once(self._logits)) for x in rows), strict=True):
            # sum p (log p - log q); the clamps make the summand of a forbidden token 0.
            now = self._logits[own].float().clamp(min=-1e4)
            before = previous._logits[other].float().clamp(min=-1e4)
            p = (now - self._total[own, None]).exp_()
            mean = p.mul_(now.sub_(before)).sum(-1)
            parts.append(mean - self._total[own] + previous._total[other])
        out[here] = torch.cat(parts)
        return out

    def entropy(self) -> Tensor:
        """(B, L) entropy in nats at the sampling temperature (at 1 when that is 0); nan elsewhere."""
        temperature = 1.0 if self.rule.greedy else self.rule.temperature

        def entropy(logits: Tensor, total: Tensor) -> Tensor:
            # H = log sum exp(l) - sum p l, with l = 0 at the best token. The clamp makes the
            # summand of a forbidden token 0.
            peak = logits.amax(-1)
            scaled = ((logits - peak[:, None]) / temperature).clamp_(min=-1e4)
            total = total - peak if temperature == 1 else scaled.logsumexp(-1)
            p = (scaled - total[:, None]).exp_()
            return total - p.mul_(scaled).sum(-1)

        return self._each(entropy, self._total)

    def sharpened(self) -> Tensor:
        """(B, L) probability of the drawn token after temperature, top-k and top-p (at temperature
        1 when that is 0, as Dream's); nan elsewhere."""
        if self.rule.greedy:
            warm = replace(self.rule, temperature=1.0)
            return self._each(lambda logits: warm.distribution(logits)[0].amax(-1))
        return self.spread(self._sharpened, torch.nan)

    def margin(self) -> Tensor:
        """(B, L) probability of the best minus that of the second best token; nan elsewhere."""
        return self._each(lambda logits: _lead(logits.softmax(-1)))

    def gap(self) -> Tensor:
        """(B, L) largest minus second largest logit; nan elsewhere."""
        return self._each(_lead)

    def score(self, kind: str) -> Tensor:
        """(B, L) confidence of one of four kinds, larger is higher; -inf where no token was drawn."""
        score = {
            "probability": lambda: self.probability,
            "sharpened": self.sharpened,
            "margin": self.margin,
            "entropy": lambda: -self.entropy(),
        }[kind]()
        return score.masked_fill(~self.query_mask, -torch.inf)


def _normaliser(logits: Tensor, best: Tensor) -> Tensor:
    """Log sum exp, as the loss of the best token plus its logit: one fused pass."""
    loss = F.cross_entropy(logits, best, reduction="none")
    return loss + logits.gather(-1, best[:, None])[:, 0]


def _lead(values: Tensor) -> Tensor:
    best, second = values.topk(2).values.unbind(-1)
    return best - second
