"""The training loss, and the likelihood bound used for evaluation.

The bound (NELBO) of a sequence of E editable tokens is J = E_t[w(t) * sum of -log p over masked
positions], in nats. It does not depend on the schedule, and equals the sum over k = 1..E of S_k/k,
S_k being the expected summed cross-entropy with exactly k masks (arXiv:2409.02908). Both forms
are here: the first trains, the second, with its lower variance, evaluates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from . import rng
from .collator import IGNORE
from .schedules import SCHEDULES

LOSSES = ("nelbo", "mean")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p in nats (N,), in float32, from logits (N, V) and the tokens (N,) that are right."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


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


@dataclass(frozen=True)
class Bound:
    """An estimate of the bound, with what is needed to compare vocabularies."""

    nats_per_token: float
    standard_error: float  # of nats_per_token, over blocks
    nats_per_byte: float
    tokens: int
    blocks: int
    by_mask_rate: list[float]  # nats per token at mask rates 0-20, 20-40, ..., 80-100 %
    by_block: list[float]  # nats per token of each block

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nats_per_token, 700.0))


def fixed_counts(first: Tensor, editable: Tensor, index: Tensor, total: int) -> Tensor:
    """How many of ``editable`` positions to mask in draw ``index`` of ``total``:
    1 + ((k_1 - 1 + round(index * E / total)) mod E), spread evenly over 1..E (LLaDA's
    likelihood estimator, arXiv:2502.09992). All arguments broadcast; ``first`` is k_1 in 1..E.
    """
    return 1 + (first - 1 + (index * editable / total).round().long()) % editable


def choose_exactly(count: Tensor, candidates: Tensor, uniforms: Tensor) -> Tensor:
    """(B, L) bool: ``count`` (B,) of each row's ``candidates`` (B, L), uniformly at random."""
    order = uniforms.masked_fill(~candidates, 2.0).argsort(1).argsort(1)
    return candidates & (order < count[:, None])


@torch.no_grad()
def likelihood_bound(
    row_logits: Callable[..., Tensor],
    blocks: Tensor,
    editable: Tensor,
    mask_id: int,
    token_bytes: Tensor,
    *,
    draws: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    on_batch: Callable[[int, int], None] | None = None,
    gather: Callable[[Tensor], Tensor] = lambda x: x,
) -> Bound:
    """The bound of ``blocks`` (N, L) under a denoiser, by masking exact counts.

    Draw b of all N * draws masks exactly k_b positions without replacement and estimates J / E by
    the mean cross-entropy over them; k_b is spread evenly over 1..E. A constant cross-entropy c
    gives exactly c on every draw, which masking each position independently would not.

    Args:
        row_logits: `RowLogits` in evaluation mode, or anything called the same way.
        editable: (N, L) bool, the tokens whose likelihood is asked for.
        token_bytes: (V,) length of each token in bytes.
        shard: (rank, world size): evaluate every world-size-th block only; ``gather`` then joins
            a tensor (M, ...) over processes.
        on_batch: told (blocks done, blocks to do) after each batch.
    """
    rank, world = shard
    device = blocks.device
    count = editable.sum(1)
    total = len(blocks) * draws
    mine = torch.arange(rank, len(blocks), world, device=device)
    key = rng.seed_key(seed, device)
    # One k_1 for each row length: (u * E) would differ between rows, the fraction u is shared.
    u = rng.uniform(key, 1)[0]
    values = torch.zeros(len(blocks), draws, dtype=rng.double(device), device=device)
    for start in range(0, len(mine), batch_size):
        index = mine[start : start + batch_size]
        ids, free, n = blocks[index], editable[index], count[index]
        for draw in range(draws):
            number = index * draws + draw
            first = 1 + (u * n).long()
            k = fixed_counts(first, n, number, total)
            masked = choose_exactly(k, free, rng.uniform(rng.fold_in(key, number), ids.shape[1]))
            logits = row_logits(ids.masked_fill(masked, mask_id), masked)
            values[index, draw] = nats_by_row(logits, ids, masked) / k
        if on_batch:
            on_batch(min(start + batch_size, len(mine)), len(mine))

    if world > 1:  # every block was computed by one process and is zero elsewhere
        values = gather(values[None]).sum(0)
    number = torch.arange(total, device=device).view(len(blocks), draws)
    k = fixed_counts(1 + (u * count).long()[:, None], count[:, None], number, total)
    by_rate = _by_mask_rate(values, (k - 0.5) / count[:, None])
    return _summary(values.mean(1), count, blocks, editable, token_bytes, by_rate)


@torch.no_grad()
def bernoulli_bound(
    row_logits: Callable[..., Tensor],
    blocks: Tensor,
    editable: Tensor,
    mask_id: int,
    token_bytes: Tensor,
    *,
    draws: int = 1,
    batch_size: int = 16,
    seed: int = 0,
) -> Bound:
    """The bound of ``blocks`` (N, L) by the NELBO's definition: each token is masked with
    probability t, and the summed cross-entropy weighs 1/t, with t spread evenly over (0, 1) among
    the draws of a block. The same mean as `likelihood_bound`'s with a higher variance:
    the two can be held against each other. Arguments as there.
    """
    device = blocks.device
    count = editable.sum(1)
    values = torch.zeros(len(blocks), draws, dtype=rng.double(device), device=device)
    rates = torch.zeros_like(values)
    key = rng.seed_key(seed, device)
    shift = rng.uniform(rng.fold_in(key, torch.arange(len(blocks), device=device)), 1)
    for start in range(0, len(blocks), batch_size):
        index = torch.arange(start, min(start + batch_size, len(blocks)), device=device)
        ids, free = blocks[index], editable[index]
        for draw in range(draws):
            t = (shift[index] + draw) / draws
            u = rng.uniform(rng.fold_in(rng.fold_in(key, index), draw + 1), ids.shape[1])
            masked = free & (u < t)
            rates[index, draw] = t[:, 0].to(rates.dtype)
            if not masked.any():
                continue
            logits = row_logits(ids.masked_fill(masked, mask_id), masked)
            values[index, draw] = nats_by_row(logits, ids, masked) / t[:, 0] / count[index]
    by_rate = _by_mask_rate(values, rates)
    return _summary(values.mean(1), count, blocks, editable, token_bytes, by_rate)


@torch.no_grad()
def causal_nll(
    row_logits: Callable[..., Tensor],
    blocks: Tensor,
    editable: Tensor,
    token_bytes: Tensor,
    *,
    batch_size: int = 16,
    on_batch: Callable[[int, int], None] | None = None,
) -> Bound:
    """The exact negative log-likelihood of ``blocks`` (N, L) read left to right."""
    values = torch.zeros(len(blocks), dtype=rng.double(blocks.device), device=blocks.device)
    for start in range(0, len(blocks), batch_size):
        ids, rows = blocks[start : start + batch_size], editable[start : start + batch_size]
        logits = row_logits(ids, rows, causal=True)
        values[start : start + batch_size] = nats_by_row(logits, ids, rows) / rows.sum(1)
        if on_batch:
            on_batch(min(start + batch_size, len(blocks)), len(blocks))
    return _summary(values, editable.sum(1), blocks, editable, token_bytes, [])


def _by_mask_rate(values: Tensor, rates: Tensor) -> list[float]:
    """Mean of the draws (N, D) in each fifth of the mask rates (N, D); nan where there is none."""
    bins = (rates * 5).long().clamp(max=4)
    return [values[bins == b].mean().item() if (bins == b).any() else math.nan for b in range(5)]


def _summary(values, count, blocks, editable, token_bytes, by_rate) -> Bound:
    """Pool per-block nats per token ``values`` (N,) over tokens."""
    weight = count / count.sum()
    mean = (values * weight).sum()
    spread = ((weight * (values - mean)) ** 2).sum().sqrt()
    n = len(values)
    size = token_bytes.to(blocks.device)[blocks[editable]].sum()
    return Bound(
        nats_per_token=mean.item(),
        standard_error=(spread * math.sqrt(n / (n - 1))).item() if n > 1 else math.nan,
        nats_per_byte=(mean * count.sum() / size).item(),
        tokens=int(count.sum()),
        blocks=n,
        by_mask_rate=by_rate,
        by_block=values.tolist(),
    )
