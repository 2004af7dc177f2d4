"""How likely a denoiser finds given texts: to compare texts, where `objective` measures models.

Both scores read a text with some of it hidden. The likelihood bound hides random sets of every
size and bounds the log-probability of the whole text. The pseudo-likelihood hides one token at a
time and is no probability of a text; it is cheap, and compares short passages in one context.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import rng
from .canvas import Canvas
from .objective import choose_exactly, cross_entropy, fixed_counts, nats_by_row


@torch.no_grad()
def pseudo_likelihood(
    row_logits: Callable[..., Tensor],
    canvas: Canvas,
    hidden: Tensor,
    mask_id: int,
    batch_size: int = 16,
) -> Tensor:
    """Mean over the positions ``hidden`` (B, L) of log p(token | all other tokens), in nats (B,).

    Each position is masked alone (Salazar et al., arXiv:1910.14659, who sum; a mean is needed to
    compare different lengths). It leans to text whose tokens give each other away: inside a long
    word or a repetition every token is nearly certain once its neighbours are seen.

    Args:
        row_logits: `RowLogits` in evaluation mode, or anything called the same way.
        canvas: (B, L), written.
    """
    row, position = hidden.nonzero().unbind(1)  # (N,) passes, one token hidden in each
    total = torch.zeros(len(hidden), dtype=rng.double(hidden.device), device=hidden.device)
    for r, p in zip(row.split(batch_size), position.split(batch_size), strict=True):
        ids, padding = canvas.ids[r], canvas.padding[r]
        alone = torch.zeros_like(padding)
        alone.scatter_(1, p[:, None], True)
        logits = row_logits(ids.masked_fill(alone, mask_id), alone, _attention(padding))
        total.index_add_(0, r, -cross_entropy(logits, ids[alone]).to(total.dtype))
    return total / hidden.sum(1)


@torch.no_grad()
def text_bounds(
    row_logits: Callable[..., Tensor],
    canvas: Canvas,
    editable: Tensor,
    mask_id: int,
    *,
    draws: int = 16,
    batch_size: int = 16,
    seed: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draws (B, D) of the likelihood bound of each text, in nats per token: their mean is the
    estimate. Text by text it is what `objective.likelihood_bound` gives for that text alone with
    the same seed and draws; the texts may have different lengths.

    Args:
        row_logits: `RowLogits` in evaluation mode, or anything called the same way.
        canvas: (B, L), written.
        editable: (B, L) bool, the tokens whose likelihood is asked for, at least one a row.
        on_batch: told (passes done, passes to do) after each batch.
    """
    device = canvas.ids.device
    key = rng.seed_key(seed, device)
    u = rng.uniform(key, 1)[0]
    values = torch.zeros(len(editable) * draws, dtype=rng.double(device), device=device)
    # Texts of one length share a batch, so that little is padded.
    order = (~canvas.padding).sum(1).argsort(stable=True).repeat_interleave(draws)
    draw = torch.arange(draws, device=device).repeat(len(editable))
    for start in range(0, len(values), batch_size):
        row, number = order[start : start + batch_size], draw[start : start + batch_size]
        width = int((~canvas.padding[row]).sum(1).max())
        ids, padding = canvas.ids[row, :width], canvas.padding[row, :width]
        free = editable[row, :width]
        n = free.sum(1)
        k = fixed_counts(1 + (u * n).long(), n, number, draws)
        # The same draw hides by the same random numbers in every text, whatever is beside it.
        masked = choose_exactly(k, free, rng.uniform(rng.fold_in(key, number), width))
        logits = row_logits(ids.masked_fill(masked, mask_id), masked, _attention(padding))
        values[row * draws + number] = nats_by_row(logits, ids, masked) / k
        if on_batch:
            on_batch(min(start + batch_size, len(values)), len(values))
    return values.view(-1, draws)


@dataclass(frozen=True)
class TextBound:
    """The likelihood bound of one text."""

    nats: float
    standard_error: float | None  # of nats, over draws; a single draw has none
    nats_per_token: float
    nats_per_byte: float
    tokens: int

    @classmethod
    def of(cls, draws: Tensor, tokens: int, size: int) -> "TextBound":
        """From draws (D,) in nats per token of a text of ``size`` bytes.

        The numbers of masks are spread evenly over the draws, so that the part of their spread
        that comes from the mask rate cancels in the mean: the standard error is an upper one.
        """
        nats, n = draws.mean().item() * tokens, len(draws)
        error = draws.std().item() / math.sqrt(n) * tokens if n > 1 else None
        return cls(nats, error, nats / tokens, nats / max(1, size), tokens)


def _attention(padding: Tensor) -> Tensor | None:
    return (~padding).long() if padding.any() else None
