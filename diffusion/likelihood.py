"""The likelihood of text under a model: of data, to compare models, or of each of several texts.

The bound (NELBO) that `objective` trains with equals the sum over k = 1..E of S_k/k, S_k being the
expected summed cross-entropy with exactly k masks (arXiv:2409.02908): this form has lower variance and
is estimated here. For noise with random tokens the bound is the integral that `objective` describes.

The pseudo-likelihood hides one token at a time and is no probability of a text; it is cheap, and
compares short passages in one context.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffusion import rng
from diffusion.canvas import Canvas
from diffusion.collator import StreamCollator, editable_positions
from diffusion.models.layouts import Slots
from diffusion.noise import Absorbing, Interpolating, Noise, choose_exactly
from diffusion.objective import IGNORE, cross_entropy, divergence, nats_by_row, plain_divergence

Model = Callable[..., Tensor]  # `Backbone` in evaluation mode, or anything called the same way


@dataclass(frozen=True)
class Bound:
    """An estimate of the bound, with what is needed to compare vocabularies."""

    nats_per_token: float
    standard_error: float  # of nats_per_token, over blocks
    nats_per_byte: float
    tokens: int
    blocks: int
    by_mask_rate: list[float]  # nats per token at mask rates 0-20, 20-40, ..., 80-100 %, or none
    by_block: list[float]  # nats per token of each block

    @property
    def perplexity(self) -> float:
        return perplexity(self.nats_per_token)


def perplexity(nats: float) -> float:
    """Of ``nats`` per token or byte, at most as large as a float can be."""
    return math.exp(min(nats, 700.0))


def fixed_counts(first: Tensor, editable: Tensor, index: Tensor, total: int) -> Tensor:
    """How many of ``editable`` positions to mask in draw ``index`` of ``total``:
    1 + ((k_1 - 1 + round(index * E / total)) mod E), spread evenly over 1..E (LLaDA's
    likelihood estimator, arXiv:2502.09992). All arguments broadcast; ``first`` is k_1 in 1..E.
    """
    return 1 + (first - 1 + (index * editable / total).round().long()) % editable


def _measured(
    count, shape, measure, device, batch_size=16, shard=(0, 1), gather=None, on_batch=None
) -> Tensor:
    """(count, *shape): ``measure`` of the indices below ``count``, in batches. Of a ``shard`` (rank,
    world size) only every world-size-th is measured, and ``gather`` joins (M, ...) over processes;
    ``on_batch`` is called with (done, to do)."""
    rank, world = shard
    mine = torch.arange(rank, count, world, device=device)
    found = torch.zeros(count, *shape, dtype=rng.double(device), device=device)
    done = 0
    for index in mine.split(batch_size) if len(mine) else ():
        found[index] = measure(index).to(found.dtype)
        done += len(index)
        if on_batch:
            on_batch(done, len(mine))
    # Every index was measured by one process, and is zero in the others.
    return gather(found[None]).sum(0) if world > 1 else found


def _fixed_count_draws(backbone, ids, free, noise, key, number, total, padding=None):
    """Estimates of the bound in nats per token of the tokens ``free`` (B, L), and their mask rates,
    (B,) both: draw ``number`` (B,) of ``total``. The random numbers do not depend on the row."""
    n = free.sum(1)
    # One k_1 for each row length: (u * E) would differ between rows, the fraction u is shared.
    u = rng.uniform(key, 1)[0]
    k = fixed_counts(1 + (u * n).long(), n, number, total)
    masked = choose_exactly(k, free, rng.uniform(rng.fold_in(key, number), ids.shape[1]))
    logits = backbone(noise.corrupt(ids, masked), masked, _attention(padding))
    return nats_by_row(logits, ids, masked) / k, (k - 0.5) / n


def _frequencies(ids: Tensor, where: Tensor, noise: Interpolating) -> Tensor:
    """(B, V) how frequent the random tokens are among those of each row ``where`` (B, L); a tenth is
    shared evenly by all."""
    random = noise.random.to(ids.device)
    counts = torch.zeros(len(ids), len(random), dtype=rng.double(ids.device), device=ids.device)
    counts = counts.scatter_add_(1, ids, where.to(counts.dtype)) * random
    return 0.9 * counts / counts.sum(1, keepdim=True).clamp(min=1) + 0.1 * random / random.sum()


def _noise_draws(backbone, ids, free, noise, key, number, total, padding=None, plain=None):
    """The same of noise with random tokens, with its shares. Those of draw ``number`` of ``total``
    are spread evenly over the square root, for the fewer random tokens there are, the more each of
    them weighs.

    What is drawn is how far the bound is from that of a prediction ``plain`` (1, V) which is the same
    everywhere, whose bound is known: it has most of the variance. None: the frequencies of each text.
    """
    u = rng.uniform(key, 1)
    u = (u + number.to(u.dtype) / total) % 1
    r, keys = u**2, rng.fold_in(key, number)
    v = [rng.uniform(rng.fold_in(keys, stream), ids.shape[1]) for stream in range(2)]
    seen = noise.noised(ids, free, r[:, None], *v)
    x, z, row = ids[free], seen[free], free.nonzero()[:, 0]
    nats = divergence(backbone(seen, free, _attention(padding)), x, z, r[row], noise)
    p = _frequencies(ids, free, noise) if plain is None else plain.expand(len(ids), -1)
    known = p[row, x] > 0
    apart = nats - torch.where(known, plain_divergence(x, z, r, row, p, noise), 0.0)
    values = (2 * u)[row] * noise.weight(r[row], z, x) * apart
    values = values - torch.where(known, p[row, x].log(), 0.0)
    return torch.zeros_like(r).index_add(0, row, values) / free.sum(1), r


def _bernoulli_draws(backbone, ids, free, noise, key, number, total, draws):
    """The same by the bound's definition: each token is masked with probability t, and the summed
    cross-entropy weighs 1/t; t is spread evenly over (0, 1) among the ``draws`` of a block."""
    key, draw = rng.fold_in(key, number // draws), number % draws
    t = (rng.uniform(key, 1) + draw[:, None]) / draws
    u = rng.uniform(rng.fold_in(key, draw + 1), ids.shape[1])
    masked = free & (u < t)
    nats = torch.zeros_like(t[:, 0])
    if masked.any():
        nats = nats_by_row(backbone(noise.corrupt(ids, masked), masked), ids, masked)
    return nats / t[:, 0] / free.sum(1), t[:, 0]


@torch.no_grad()
def likelihood_bound(
    backbone: Model,
    blocks: Tensor,
    editable: Tensor,
    noise: Noise,
    token_bytes: Tensor,
    *,
    draws: int = 1,
    seed: int = 0,
    estimator: str = "fixed-count",
    **how,
) -> Bound:
    """The bound of ``blocks`` (N, L) under a denoiser, for masks by masking exact counts.

    Draw b of all N * draws masks exactly k_b positions without replacement and estimates J / E by
    the mean cross-entropy over them; k_b is spread evenly over 1..E. A constant cross-entropy c
    gives exactly c on every draw, which masking each position independently would not.

    Args:
        editable: (N, L) bool, the tokens whose likelihood is measured.
        token_bytes: (V,) length of each token in bytes.
        estimator: "fixed-count", or "bernoulli" for the bound's definition: the same mean with a
            higher variance, so that the two can be compared.
        how: ``batch_size``, ``shard``, ``gather`` and ``on_batch`` of `_measured`.
    """
    key = rng.seed_key(seed, blocks.device)
    masks, estimate = not isinstance(noise, Interpolating), _fixed_count_draws
    if estimator == "bernoulli":
        estimate = partial(_bernoulli_draws, draws=draws)
    elif not masks:
        whole = _frequencies(blocks.flatten()[None], editable.flatten()[None], noise)
        estimate = partial(_noise_draws, plain=whole)

    def measure(index: Tensor) -> Tensor:
        text, total = (backbone, blocks[index], editable[index], noise, key), len(blocks) * draws
        pairs = [estimate(*text, index * draws + draw, total) for draw in range(draws)]
        return torch.stack([torch.stack(pair, 1) for pair in pairs], 1)

    found = _measured(len(blocks), (draws, 2), measure, blocks.device, **how)
    values, rates = found.unbind(2)
    # In the fifths of the mask rates; nan where there is none.
    fifth = (rates * 5).long().clamp(max=4)
    by_rate = [values[fifth == k].mean().item() if (fifth == k).any() else math.nan
               for k in range(5 if masks else 0)]  # fmt: skip
    return _summary(values.mean(1), blocks, editable, token_bytes, by_rate)


@torch.no_grad()
def causal_nll(
    backbone: Model, blocks: Tensor, editable: Tensor, token_bytes: Tensor, **how
) -> Bound:
    """The exact negative log-likelihood of ``blocks`` (N, L) from left to right; ``how``: see
    `likelihood_bound`."""

    def measure(index: Tensor) -> Tensor:
        ids, rows = blocks[index], editable[index]
        return nats_by_row(backbone(ids, rows, causal=True), ids, rows) / rows.sum(1)

    values = _measured(len(blocks), (), measure, blocks.device, **how)
    return _summary(values, blocks, editable, token_bytes)


@torch.no_grad()
def ordered_nll(
    backbone: Model,
    blocks: Tensor,
    editable: Tensor,
    noise: Absorbing,
    token_bytes: Tensor,
    **how,
) -> Bound:
    """The exact negative log-likelihood of ``blocks`` (N, L) under what a denoiser writes on the
    full canvas from left to right (arXiv:2603.01367): each token is predicted with itself and all
    editable ones after it hidden. A forward pass for each token; ``how``: see `likelihood_bound`."""
    row, place = editable.nonzero().unbind(1)
    column = torch.arange(blocks.shape[1], device=blocks.device)

    def measure(index: Tensor) -> Tensor:
        r, p = row[index], place[index]
        ids = noise.corrupt(blocks[r], editable[r] & (column >= p[:, None]))
        return cross_entropy(backbone(ids, column == p[:, None]), blocks[r, p])

    nats = _measured(len(row), (), measure, blocks.device, **how)
    values = nats.new_zeros(len(blocks)).index_add_(0, row, nats)
    return _summary(values / editable.sum(1), blocks, editable, token_bytes)


@torch.no_grad()
def stream_bound(
    backbone: Model,
    blocks: Tensor,
    collate: StreamCollator,
    slots: Slots,
    token_bytes: Tensor,
    *,
    draws: int = 1,
    **how,
) -> Bound:
    """The bound of ``blocks`` (N, L) written from block to block, or in the layout ``causal`` their
    exact negative log-likelihood.

    Args:
        collate: for a global batch of N * draws; with a causal weight of 0, or 1 if causal.
        slots: of its layout, on the device and in the dtype of the model's attention.
        others: see `likelihood_bound`.
    """
    device = blocks.device

    def once(index: Tensor, draw: int) -> Tensor:
        rows = zip(blocks[index].cpu(), (index * draws + draw).tolist(), strict=True)
        batch = collate([{"input_ids": ids, "draw": number} for ids, number in rows])
        ids, labels, weights = (batch[n].to(device) for n in ("input_ids", "labels", "weights"))
        queried = labels != IGNORE
        nats = cross_entropy(backbone(ids, queried, layout=slots), labels[queried])
        total = torch.zeros(len(ids), dtype=rng.double(device), device=device)
        nats = (nats * weights[queried]).to(total.dtype)
        return total.index_add_(0, queried.nonzero()[:, 0], nats)

    def measure(index: Tensor) -> Tensor:
        return torch.stack([once(index, draw) for draw in range(draws)], 1)

    values = _measured(len(blocks), (draws,), measure, device, **how)
    causal, fixed = collate.size is None, collate.fixed_ids.to(device)
    first = 1 if causal else collate.prefix_len
    every = torch.ones_like(blocks)
    editable = editable_positions(blocks, every, first, fixed[:0] if causal else fixed)
    return _summary(values.mean(1), blocks, editable, token_bytes)


def _summary(values: Tensor, blocks, editable, token_bytes, by_rate=()) -> Bound:
    """Pool per-block nats per token ``values`` (N,) over tokens."""
    count = editable.sum(1)
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
        by_mask_rate=list(by_rate),
        by_block=values.tolist(),
    )


@torch.no_grad()
def pseudo_likelihood(
    backbone: Model, canvas: Canvas, hidden: Tensor, noise: Absorbing, batch_size: int = 16
) -> Tensor:
    """Mean over the positions ``hidden`` (B, L) of log p(token | all other tokens), in nats (B,).

    Each position is masked alone (Salazar et al., arXiv:1910.14659, who sum; a mean is needed to
    compare different lengths). It favours text whose tokens predict each other: inside a long word
    or a repetition every token is nearly certain once its neighbours are seen.
    """
    row, position = hidden.nonzero().unbind(1)  # (N,) passes, one token hidden in each

    def measure(index: Tensor) -> Tensor:
        ids, padding = canvas.ids[row[index]], canvas.padding[row[index]]
        alone = torch.zeros_like(padding).scatter_(1, position[index, None], True)
        logits = backbone(noise.corrupt(ids, alone), alone, _attention(padding))
        return -cross_entropy(logits, ids[alone])

    values = _measured(len(row), (), measure, hidden.device, batch_size)
    return values.new_zeros(len(hidden)).index_add_(0, row, values) / hidden.sum(1)


@torch.no_grad()
def text_bounds(
    backbone: Model,
    canvas: Canvas,
    editable: Tensor,
    noise: Noise,
    *,
    draws: int = 16,
    seed: int = 0,
    **how,
) -> Tensor:
    """Draws (B, D) of the likelihood bound of each text, in nats per token: their mean is the
    estimate. Text by text it is what `likelihood_bound` gives for that text alone with the same seed
    and draws; the texts may have different lengths.

    Args:
        canvas: (B, L), written.
        editable: (B, L) bool, the tokens whose likelihood is measured, at least one a row.
        how: see `likelihood_bound`; ``on_batch`` counts forward passes.
    """
    device = canvas.ids.device
    key = rng.seed_key(seed, device)
    estimate = _noise_draws if isinstance(noise, Interpolating) else _fixed_count_draws
    # Texts of one length share a batch, so that little is padded.
    order = (~canvas.padding).sum(1).argsort(stable=True)

    def measure(index: Tensor) -> Tensor:
        row = order[index // draws]
        width = int((~canvas.padding[row]).sum(1).max())
        texts = (x[row, :width] for x in (canvas.ids, editable))
        padding = canvas.padding[row, :width]
        return estimate(backbone, *texts, noise, key, index % draws, draws, padding)[0]

    values = _measured(len(editable) * draws, (), measure, device, **how).view(-1, draws)
    return torch.empty_like(values).index_copy_(0, order, values)


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


def _attention(padding: Tensor | None) -> Tensor | None:
    return (~padding).long() if padding is not None and padding.any() else None
