"""The training loss, and the likelihood bound used for evaluation.

The bound (NELBO) of a sequence of E editable tokens is J = E_t[w(t) * sum of -log p over masked
positions], in nats. It does not depend on the schedule, and equals the sum over k = 1..E of S_k/k,
S_k being the expected summed cross-entropy with exactly k masks (arXiv:2409.02908). Both forms
are here: the first trains, the second, with its lower variance, evaluates.

Noise with random tokens has a bound of its own (GIDD, arXiv:2503.04482): the integral over its share
r of the expected sum, over all editable positions, of `Interpolating.weight` times `divergence`. For
masks alone that is the first form.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion import rng
from diffusion.collator import IGNORE
from diffusion.noise import SCHEDULES, Interpolating
from diffusion.proposal import rows_at_once

_LEAST = 1e-30  # a divisor


class _CrossEntropy(torch.autograd.Function):
    """-log p of the right tokens, with the gradient made along the way, a few rows at a time and in
    the dtype of the logits: a float32 copy of all of them, and one of its gradient, would leave the
    cache of a CPU, and cost half of the time and most of the memory of a small model's head."""

    @staticmethod
    def rows(logits: Tensor) -> int:
        """How many at a time."""
        return 64 if logits.is_cpu else rows_at_once(logits)

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor) -> Tensor:
        learn = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if learn else logits
        nats = torch.empty(len(logits), device=logits.device)
        rows = _CrossEntropy.rows(logits)
        parts = (part.split(rows) for part in (logits, labels, nats, gradient))
        for some, right, nat, slope in zip(*parts, strict=True):
            log_p = F.log_softmax(some, -1, dtype=torch.float32)
            nat.copy_(-log_p.gather(1, right[:, None])[:, 0])
            if learn:
                slope.copy_(
                    log_p.exp_().scatter_add_(1, right[:, None], -nat.new_ones(len(nat), 1))
                )
        if learn:
            ctx.save_for_backward(gradient)
        return nats

    @staticmethod
    def backward(ctx, weight: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        # In place: a graph is gone through once, and fresh memory of this size costs as much. In
        # parts: on a CPU a product of two number formats makes a copy in the wider one.
        rows = _CrossEntropy.rows(gradient)
        for some, factor in zip(gradient.split(rows), weight.split(rows), strict=True):
            some.mul_(factor[:, None])
        return gradient, None


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p in nats (N,), in float32, from logits (N, V) and the tokens (N,) that are right."""
    return _CrossEntropy.apply(logits, labels)


class _Divergence(torch.autograd.Function):
    """See `divergence`; in parts and with its gradient along the way, as `_CrossEntropy`."""

    @staticmethod
    def forward(ctx, logits, clean, seen, keep, masks, random, noise):
        learn = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if learn else logits
        nats = torch.empty(len(logits), device=logits.device)
        rows = _CrossEntropy.rows(logits)
        columns = clean, seen, keep, masks, random / len(noise.tokens)
        parts = (part.split(rows) for part in (logits, *columns, nats, gradient))
        others = noise.random.to(logits.device).float()
        mask = torch.tensor([noise.mask_id], device=logits.device)
        for some, *given, nat, slope in zip(*parts, strict=True):
            x, z, a, b, c = (part[:, None] for part in given)
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
            nat.copy_(((a + f_x) * total - beside + e - e.log1p())[:, 0])
            if learn:
                # p times the slope by p; the softmax makes of it the slope by the logits.
                pull = -f * chance / (chance + f).clamp(min=_LEAST)
                at_x = -(a + f_x) * (a.log() + log_x - f_x.log()).sigmoid()
                pull.scatter_(1, x, at_x.float())
                pull.scatter_add_(1, z, (-e * a * p_z / below).float())
                slope.copy_(pull - p * pull.sum(1, keepdim=True))
        if learn:
            ctx.save_for_backward(gradient)
        return nats

    @staticmethod
    def backward(ctx, weight):
        return *_CrossEntropy.backward(ctx, weight), None, None, None, None, None


def divergence(
    logits: Tensor, clean: Tensor, seen: Tensor, r: Tensor, noise: Interpolating
) -> Tensor:
    """How far what is predicted is from the truth, in nats (N,), in float32: KL(q_r(. | x) || q_r(. |
    p)) and, with R = q_r(z | x) / q_r(z | p), R - log R - 1. It is 0 where p is sure of x, and for
    masks alone, at a mask, 1 - r times the cross-entropy.

    Args:
        logits: (N, V); their p never says ``<mask>``.
        clean, seen: (N,) the true tokens x, and those that stand there, z.
        r: (N,) the noise share, below 1.
    """
    shares = noise.shares(r.to(rng.double(r.device)))
    return _Divergence.apply(logits, clean, seen, *shares, noise)


def plain_divergence(
    clean: Tensor, seen: Tensor, r: Tensor, row: Tensor, p: Tensor, noise: Interpolating
) -> Tensor:
    """`divergence` (N,) of a prediction that is the same everywhere. As what is written does not
    depend on what is seen then, its bound is the likelihood itself, -log p of the tokens.

    Args:
        r: (B,) the noise shares of the rows.
        row: (N,) in which row each token stands.
        p: (B, V) above 0 for all random tokens, and 0 for others; ``clean`` has to be one of them.
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
    """Weight (N,) of each masked token such that the weighted sum of cross-entropies is the sum
    over rows of an unbiased estimate of J / E, the bound in nats per editable token.

    Args:
        labels: (B, L), `IGNORE` where there is no loss; N positions hold a token.
        t, editable: (B,), the times of the rows and their numbers E of editable positions.
    """
    per_row = SCHEDULES[schedule].weight(t) / editable.clamp(min=1)
    return per_row.float()[:, None].expand(labels.shape)[labels != IGNORE]


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
    """The same (N,) for `divergence`.

    Args:
        seen: (B, L) what stands at the positions.
        r: (B,) the noise shares r(t), below 1.
        most: no `Interpolating.weight` is larger.
    """
    rows = labels != IGNORE
    t, r = (x.to(rng.double(x.device)) for x in (t, r))
    weights = noise.weight(r[:, None].expand(labels.shape)[rows], seen[rows], labels[rows])
    slope = SCHEDULES[schedule].weight(t) * r / editable.clamp(min=1)
    return (
        weights.clamp(max=most or torch.inf) * slope[:, None].expand(labels.shape)[rows]
    ).float()
