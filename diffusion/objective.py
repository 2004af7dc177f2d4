"""The training loss, and the likelihood bound used for evaluation.

The bound (NELBO) of a sequence of E editable tokens is J = E_t[w(t) * sum of -log p over masked
positions], in nats. It does not depend on the schedule, and equals the sum over k = 1..E of S_k/k,
S_k being the expected summed cross-entropy with exactly k masks (arXiv:2409.02908). Both forms
are here: the first trains, the second, with its lower variance, evaluates.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion import rng
from diffusion.collator import IGNORE
from diffusion.noise import SCHEDULES


class _CrossEntropy(torch.autograd.Function):
    """-log p of the right tokens, with the gradient made along the way, a few rows at a time and in
    the dtype of the logits: a float32 copy of all of them, and one of its gradient, would leave the
    cache of a CPU, and cost half of the time and most of the memory of a small model's head."""

    ROWS = 64

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor) -> Tensor:
        learn = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if learn else logits
        nats = torch.empty(len(logits), device=logits.device)
        rows = max(1, _CrossEntropy.ROWS if logits.device.type == "cpu" else len(logits))
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
        # In place: a graph is gone through once, and fresh memory of this size costs as much.
        return gradient.mul_(weight[:, None]), None


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p in nats (N,), in float32, from logits (N, V) and the tokens (N,) that are right."""
    return _CrossEntropy.apply(logits, labels)


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
