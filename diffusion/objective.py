"""The training loss: cross-entropy or divergence of each token, and its weight in the bound.

The bound (NELBO) of a sequence of E editable tokens is J = E_t[w(t) * sum of -log p over masked
positions], in nats. With random tokens it is the integral over the noise share r of the expected sum,
over all editable positions, of `Interpolating.weight` times `divergence` (GIDD, arXiv:2503.04482).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion import rng
from diffusion.noise import SCHEDULES, Interpolating
from diffusion.proposal import rows_at_once

IGNORE = -100  # the label of a position without loss, as everywhere in transformers
_LEAST = 1e-30  # a divisor
_CPU_ROWS = 64  # of logits at once


def _rows(logits: Tensor) -> int:
    return _CPU_ROWS if logits.is_cpu else rows_at_once(logits)


class _InParts(torch.autograd.Function):
    """``nats`` of a few rows at a time, with the gradient made along the way in the dtype of the
    logits: float32 copies of all of them would take half of the time of a small model's head."""

    @staticmethod
    def forward(ctx, nats: Callable, logits: Tensor, *columns: Tensor) -> Tensor:
        learn = ctx.needs_input_grad[1]
        gradient = torch.empty_like(logits) if learn else logits
        found = torch.empty(len(logits), device=logits.device)
        parts = (part.split(_rows(logits)) for part in (logits, *columns, found, gradient))
        for some, *given, out, slope in zip(*parts, strict=True):
            value, by_logits = nats(some, *(column[:, None] for column in given), learn)
            out.copy_(value[:, 0])
            if learn:
                slope.copy_(by_logits)
        if learn:
            ctx.save_for_backward(gradient)
            ctx.columns = len(columns)
        return found

    @staticmethod
    def backward(ctx, weight: Tensor):
        (gradient,) = ctx.saved_tensors
        # In place, since new memory is slow; in parts, since the product makes a copy in float32.
        rows = _rows(gradient)
        for some, factor in zip(gradient.split(rows), weight.split(rows), strict=True):
            some.mul_(factor[:, None])
        return None, gradient, *[None] * ctx.columns


def _cross_entropy(logits: Tensor, labels: Tensor, learn: bool):
    log_p = F.log_softmax(logits, -1, dtype=torch.float32)
    nats = -log_p.gather(1, labels)
    return nats, log_p.exp_().scatter_add_(1, labels, -torch.ones_like(nats)) if learn else None


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p in nats (N,), in float32, from logits (N, V) and the correct tokens (N,)."""
    return _InParts.apply(_cross_entropy, logits, labels)


def divergence(
    logits: Tensor, clean: Tensor, seen: Tensor, r: Tensor, noise: Interpolating
) -> Tensor:
    """KL(q_r(. | x) || q_r(. | p)) + R - log R - 1 of a prediction p, in nats (N,) in float32, with R =
    q_r(z | x) / q_r(z | p) (GIDD, arXiv:2503.04482). For masks alone, at a mask, it is 1 - r times
    the cross-entropy.

    Args:
        logits: (N, V); ``<mask>`` gets no probability.
        clean, seen: (N,) the true tokens x, and the visible ones z.
        r: (N,) the noise share, below 1.
    """
    keep, masks, random = noise.shares(r.to(rng.double(r.device)))
    others = noise.random.to(logits.device).float()
    mask = torch.full((1,), noise.mask_id, device=logits.device)

    def nats(some: Tensor, x: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor, learn: bool):
        log_p = F.log_softmax(some.index_fill(1, mask, -torch.inf), -1, dtype=torch.float32)
        log_x = log_p.gather(1, x)
        p = log_p.exp_()
        # q(y | x) is f(y), and a more at x; q(y | p) is f(y) + a p(y). At <mask> they are equal.
        f, f_x = c.float() * others, c * others[x]
        chance = a.float() * p
        total = (a + f_x).log() - torch.logaddexp(a.log() + log_x, f_x.log())
        beside = f * torch.log1p(chance / f.clamp(min=_LEAST))
        beside = beside.sum(1, keepdim=True) - beside.gather(1, x)
        # The same at the token that stands there: 1 + e is the first over the second.
        f_z, p_z = torch.where(z == mask, b, c * others[z]), p.gather(1, z).to(a.dtype)
        below = (a * p_z + f_z).clamp(min=_LEAST)
        e = a * ((x == z).to(a.dtype) - p_z) / below
        value = (a + f_x) * total - beside + e - e.log1p()
        if not learn:
            return value, None
        # p times the slope by p; the softmax makes of it the slope by the logits.
        pull = -f * chance / (chance + f).clamp(min=_LEAST)
        at_x = -(a + f_x) * (a.log() + log_x - f_x.log()).sigmoid()
        pull.scatter_(1, x, at_x.float())
        pull.scatter_add_(1, z, (-e * a * p_z / below).float())
        return value, pull - p * pull.sum(1, keepdim=True)

    return _InParts.apply(nats, logits, clean, seen, keep, masks, random / len(noise.tokens))


def plain_divergence(
    clean: Tensor, seen: Tensor, r: Tensor, row: Tensor, p: Tensor, noise: Interpolating
) -> Tensor:
    """`divergence` (N,) of a prediction that is the same everywhere, whose bound is -log p itself.

    Args:
        r: (B,) the noise shares of the rows.
        row: (N,) the row of each token.
        p: (B, V) above 0 for all random tokens, which contain ``clean``, and 0 for others.
    """
    keep, masks, random = (share[:, None] for share in noise.shares(r))
    floor = random / len(noise.tokens)
    at = keep * p + floor  # q(y | p)
    each = torch.xlogy(floor, floor / at) * (p > 0)  # of those that are not the true one
    keep, floor, every = keep[row, 0], floor[row, 0], each.sum(1)[row]
    at_x, at_z = at[row, clean], torch.where(seen == noise.mask_id, masks[row, 0], at[row, seen])
    total = torch.xlogy(keep + floor, (keep + floor) / at_x) + every - each[row, clean]
    there = torch.where(seen == noise.mask_id, masks[row, 0], floor + keep * (seen == clean))
    excess = there / at_z - 1
    return total + excess - excess.log1p()


def nats_by_row(logits: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
    """Summed -log p (B,), in double precision where there is one, of the tokens of ``ids`` (B, L)
    at the N positions ``rows`` (B, L), from their logits (N, V)."""
    nats = cross_entropy(logits, ids[rows]).to(rng.double(logits.device))
    return nats.new_zeros(len(ids)).index_add(0, rows.nonzero()[:, 0], nats)


def token_weights(labels: Tensor, t: Tensor, editable: Tensor, schedule: str) -> Tensor:
    """Weights (B, L) with which the sum of cross-entropies is the sum over rows of an unbiased estimate
    of J / E, the bound in nats per editable token.

    Args:
        labels: (B, L), `IGNORE` where there is no loss; the weight there is 0.
        t, editable: (B,), the times of the rows and their numbers E of editable positions.
    """
    per_row = SCHEDULES[schedule].weight(t) / editable.clamp(min=1)
    return per_row.float()[:, None] * (labels != IGNORE)


def noise_weights(
    labels: Tensor,
    seen: Tensor,
    t: Tensor,
    r: Tensor,
    editable: Tensor,
    schedule: str,
    noise: Interpolating,
    most: float | None = None,
) -> Tensor:
    """The same (B, L) for `divergence`.

    Args:
        seen: (B, L) the noisy tokens.
        r: (B,) the noise shares r(t), below 1.
        most: no `Interpolating.weight` is larger.
    """
    t, r = (x.to(rng.double(x.device))[:, None] for x in (t, r))
    rows = labels != IGNORE
    weights = noise.weight(r.expand(labels.shape), seen, labels.where(rows, seen))
    slope = SCHEDULES[schedule].weight(t) * r / editable.clamp(min=1)[:, None]
    return (weights.clamp(max=most or torch.inf) * slope * rows).float()
