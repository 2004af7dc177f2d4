"""The likelihood of text under a model: of data, to compare models, or of each of several texts.

The bound (NELBO) that `objective` trains with equals the sum over k = 1..E of S_k/k, S_k being the
expected summed cross-entropy with exactly k masks (arXiv:2409.02908): this form has lower variance and
is estimated here. For noise with random tokens the bound is the integral that `objective` describes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffusion import rng, vectors
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


def perplexity(nats: float) -> float:
    """Of ``nats`` per token or byte, at most as large as a float can be."""
    return math.exp(min(nats, 700.0))


def fixed_counts(first: Tensor, editable: Tensor, index: Tensor, total: int) -> Tensor:
    """How many of E = ``editable`` positions to mask in draw ``index`` of ``total``, from ``first`` in
    1..E, spread evenly over 1..E (LLaDA, arXiv:2502.09992); all arguments broadcast."""
    return 1 + (first - 1 + (index * editable / total).round().long()) % editable


def _measured(
    count, shape, measure, device, batch_size=16, shard=(0, 1), gather=None, on_batch=None
) -> Tensor:
    """(count, *shape): ``measure`` of the indices below ``count``, in batches, every world-size-th in
    a ``shard`` (rank, world size); ``gather`` joins (M, ...), ``on_batch`` gets (done, to do)."""
    rank, world = shard
    mine = torch.arange(rank, count, world, device=device)
    found = torch.zeros(count, *shape, dtype=rng.double(device), device=device)
    for first in range(0, len(mine), batch_size):
        index = mine[first : first + batch_size]
        found[index] = measure(index).to(found.dtype)
        if on_batch:
            on_batch(first + len(index), len(mine))
    # Every index was measured by one process, and is zero in the others.
    return gather(found[None]).sum(0) if world > 1 else found


def _fixed_count_draws(backbone, ids, free, noise, key, number, total, padding=None):
    """Draw ``number`` (B,) of ``total``: estimates of the bound in nats per token of the tokens
    ``free`` (B, L), and their mask rates, (B,) both."""
    n = free.sum(1)
    # One k_1 for each row length: (u * E) would differ between rows, the fraction u is shared.
    u = rng.uniform(key, 1)[0]
    k = fixed_counts(1 + (u * n).long(), n, number, total)
    masked = choose_exactly(k, free, rng.uniform(rng.fold_in(key, number), ids.shape[1]))
    logits = backbone(noise.corrupt(ids, masked), masked, _attention(padding))
    return nats_by_row(logits, ids, masked) / k, (k - 0.5) / n


def _frequencies(ids: Tensor, where: Tensor, noise: Interpolating) -> Tensor:
    """(B, V) shares of the random tokens ``where`` (B, L) of each row; a tenth is shared evenly."""
    random = noise.random.to(ids.device)
    counts = torch.zeros(len(ids), len(random), dtype=rng.double(ids.device), device=ids.device)
    counts = counts.scatter_add_(1, ids, where.to(counts.dtype)) * random
    return 0.9 * counts / counts.sum(1, keepdim=True).clamp(min=1) + 0.1 * random / random.sum()


def _noise_draws(backbone, ids, free, noise, key, number, total, padding=None, plain=None):
    """The same of noise with random tokens, with its shares; these are spread evenly over the square
    root, as the fewer random tokens there are, the more each weighs. The control variate is the
    divergence of a constant prediction ``plain`` (1, V), by default the frequencies of each text."""
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


def _vector_draws(backbone, ids, free, noise, key, number, total, padding=None):
    """The same of Gaussian noise, without mask rates: half of the integral over SNR = a / (1 - a) of the
    squared error of the predicted embedding (VDM, arXiv:2107.00630), with SNRs that are spread evenly over
    log(SNR + 1/4), as the error is largest where the SNR is small. At the largest SNR, where the integral ends,
    tokens differ by more than 80 standard deviations, and at a = 0 nothing of the text is left, so
    that the bound has no other part."""
    noise, table = noise.to(ids.device), backbone.model.get_input_embeddings().weight
    most = (1 - noise.START**0.5) / noise.START**0.5
    u = (rng.uniform(key, 1) + number.to(rng.double(ids.device)) / total) % 1
    span = math.log1p(4 * most)
    snr = (u * span).expm1()[:, None] / 4
    t = (1 / (1 + snr)) ** 2 - noise.START  # 1 - a = sqrt(t + s)
    normals = rng.normal(rng.fold_in(key, number), ids.shape[1] * table.shape[1])
    x = vectors.noised(table, ids, t, normals.view(*ids.shape, -1), noise)
    logits = vectors.predict(backbone, ids, free, x, t, noise, _attention(padding)).float()
    where = vectors.places(table, noise)
    p = logits.masked_fill(~noise.random, -torch.inf).softmax(-1)
    error = (p @ where - where[ids[free]]).square().sum(-1).to(u.dtype)
    row = free.nonzero()[:, 0]
    values = u.new_zeros(len(ids)).index_add(0, row, error) / free.sum(1)
    return 0.5 * values * span * (snr[:, 0] + 0.25), 1 - noise.kept(t)[:, 0]


# Of noise with random tokens: `_noise_draws`.
_ESTIMATES = {"absorbing": _fixed_count_draws, "gaussian": _vector_draws}


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
    **how,
) -> Bound:
    """The bound of ``blocks`` (N, L) under a denoiser, for masks by masking exact counts: each of all N
    * draws masks k positions, k spread evenly over 1..E, and estimates J / E by their mean
    cross-entropy.

    Args:
        editable: (N, L) bool, the tokens whose likelihood is measured.
        token_bytes: (V,) length of each token in bytes.
        how: ``batch_size``, ``shard``, ``gather`` and ``on_batch`` of `_measured`.
    """
    key = rng.seed_key(seed, blocks.device)
    masks, estimate = isinstance(noise, Absorbing), _ESTIMATES.get(noise.name, _noise_draws)
    if isinstance(noise, Interpolating):
        whole = _frequencies(blocks.flatten()[None], editable.flatten()[None], noise)
        estimate = partial(_noise_draws, plain=whole)

    def measure(index: Tensor) -> Tensor:
        text, total = (backbone, blocks[index], editable[index], noise, key), len(blocks) * draws
        pairs = [estimate(*text, index * draws + draw, total) for draw in range(draws)]
        return torch.stack([torch.stack(pair, 1) for pair in pairs], 1)

    found = _measured(len(blocks), (draws, 2), measure, blocks.device, **how)
    values, rates = found.unbind(2)
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
    backbone: Model, blocks: Tensor, editable: Tensor, noise: Absorbing, token_bytes: Tensor, **how
) -> Bound:
    """The same under what a denoiser writes on the full canvas from left to right (arXiv:2603.01367),
    in one forward pass per token."""
    nats = _one_by_one(backbone, blocks, editable, noise, after=True, **how)
    values = nats.sum(1) / editable.sum(1)
    return _summary(values, blocks, editable, token_bytes)


def _one_by_one(backbone, ids, where, noise, padding=None, after=False, **how) -> Tensor:
    """-log p (B, L) of the tokens ``where`` (B, L), 0 elsewhere, each predicted in its own forward pass,
    in which it is hidden, ``after``: with all those after it."""
    row, place = where.nonzero().unbind(1)
    column = torch.arange(ids.shape[1], device=ids.device)

    def measure(index: Tensor) -> Tensor:
        rows, alone = row[index], column == place[index, None]
        hidden = where[rows] & (column >= place[index, None]) if after else alone
        attention = None if padding is None else _attention(padding[rows])
        logits = backbone(noise.corrupt(ids[rows], hidden), alone, attention)
        return cross_entropy(logits, ids[rows][alone])

    nats = _measured(len(row), (), measure, ids.device, **how)
    return nats.new_zeros(ids.shape).index_put_((row, place), nats)


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
    exact negative log-likelihood; ``collate`` is for a global batch of N * draws, with a causal weight
    of 0, or 1 if causal, and ``slots`` are those of its layout for the model's attention."""
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
    if collate.size is None:
        editable = editable_positions(blocks, 1, collate.fixed_ids[:0])
    else:
        editable = editable_positions(blocks, collate.prefix_len, collate.fixed_ids)
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
def token_nats(
    backbone: Model, canvas: Canvas, hidden: Tensor, noise: Absorbing, batch_size: int = 16
) -> Tensor:
    """(B, L) -log p(token | all other tokens) in nats at the positions ``hidden`` (B, L), each masked
    alone, and 0 elsewhere."""
    return _one_by_one(backbone, canvas.ids, hidden, noise, canvas.padding, batch_size=batch_size)


def pseudo_likelihood(
    backbone: Model, canvas: Canvas, hidden: Tensor, noise: Absorbing, batch_size: int = 16
) -> Tensor:
    """Mean of log p(token | all other tokens) over the positions ``hidden`` (B, L), in nats (B,), see
    `token_nats` (arXiv:1910.14659, who sum). It favours text whose tokens predict each other."""
    return -token_nats(backbone, canvas, hidden, noise, batch_size).sum(1) / hidden.sum(1)


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
    """Draws (B, D) of the likelihood bound of the tokens ``editable`` (B, L), at least one a row, in
    nats per token, as `likelihood_bound` has them for each text alone with the same seed; ``how``: see
    there."""
    device = canvas.ids.device
    key = rng.seed_key(seed, device)
    estimate = _ESTIMATES.get(noise.name, _noise_draws)
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
        """From draws (D,) in nats per token of a text of ``size`` bytes. The standard error is an upper
        bound, since mask counts are spread evenly over the draws."""
        nats, n = draws.mean().item() * tokens, len(draws)
        error = draws.std().item() / math.sqrt(n) * tokens if n > 1 else None
        return cls(nats, error, nats / tokens, nats / max(1, size), tokens)


def _attention(padding: Tensor | None) -> Tensor | None:
    return (~padding).long() if padding is not None and padding.any() else None
