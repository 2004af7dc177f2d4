"""How likely a model finds given text: of data, to compare models, or of each of several texts.

The bound (NELBO) of a sequence of E editable tokens is J = E_t[w(t) * sum of -log p over masked
positions], in nats. It does not depend on the schedule, and equals the sum over k = 1..E of S_k/k,
S_k being the expected summed cross-entropy with exactly k masks (arXiv:2409.02908). `objective` has
the first form, which trains; the second, with its lower variance, is here and evaluates. For noise
with random tokens the bound is the integral that `objective` describes.

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
from diffusion.collator import IGNORE, StreamCollator, editable_positions
from diffusion.models.layouts import Slots
from diffusion.noise import Absorbing, Interpolating, Noise, choose_exactly
from diffusion.objective import cross_entropy, divergence, nats_by_row, plain_divergence


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
    """Of so many nats a token or byte; as large as a float can be, at most."""
    return math.exp(min(nats, 700.0))


def fixed_counts(first: Tensor, editable: Tensor, index: Tensor, total: int) -> Tensor:
    """How many of ``editable`` positions to mask in draw ``index`` of ``total``:
    1 + ((k_1 - 1 + round(index * E / total)) mod E), spread evenly over 1..E (LLaDA's
    likelihood estimator, arXiv:2502.09992). All arguments broadcast; ``first`` is k_1 in 1..E.
    """
    return 1 + (first - 1 + (index * editable / total).round().long()) % editable


def _fixed_count_draws(
    backbone: Callable[..., Tensor],
    ids: Tensor,
    free: Tensor,
    noise: Absorbing,
    key: Tensor,
    number: Tensor,
    total: int,
    padding: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimates of the bound in nats per token of the tokens ``free`` (B, L), and their mask rates,
    (B,) both: draw ``number`` (B,) of ``total``. It hides by the same random numbers whatever the
    row."""
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


def _noise_draws(
    backbone: Callable[..., Tensor],
    ids: Tensor,
    free: Tensor,
    noise: Interpolating,
    key: Tensor,
    number: Tensor,
    total: int,
    padding: Tensor | None = None,
    plain: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
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


def _bernoulli_draws(backbone, ids, free, noise, key, block, draw, draws) -> tuple[Tensor, Tensor]:
    """The same by the bound's definition: each token is masked with probability t, and the summed
    cross-entropy weighs 1/t; t is spread evenly over (0, 1) among the ``draws`` of a block."""
    t = (rng.uniform(rng.fold_in(key, block), 1) + draw) / draws
    u = rng.uniform(rng.fold_in(rng.fold_in(key, block), draw + 1), ids.shape[1])
    masked = free & (u < t)
    nats = torch.zeros_like(t[:, 0])
    if masked.any():
        nats = nats_by_row(backbone(noise.corrupt(ids, masked), masked), ids, masked)
    return nats / t[:, 0] / free.sum(1), t[:, 0]


@torch.no_grad()
def likelihood_bound(
    backbone: Callable[..., Tensor],
    blocks: Tensor,
    editable: Tensor,
    noise: Noise,
    token_bytes: Tensor,
    *,
    draws: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    estimator: str = "fixed-count",
    shard: tuple[int, int] = (0, 1),
    on_batch: Callable[[int, int], None] | None = None,
    gather: Callable[[Tensor], Tensor] = lambda x: x,
) -> Bound:
    """The bound of ``blocks`` (N, L) under a denoiser, for masks by masking exact counts.

    Draw b of all N * draws masks exactly k_b positions without replacement and estimates J / E by
    the mean cross-entropy over them; k_b is spread evenly over 1..E. A constant cross-entropy c
    gives exactly c on every draw, which masking each position independently would not.

    Args:
        backbone: `Backbone` in evaluation mode, or anything called the same way.
        editable: (N, L) bool, the tokens whose likelihood is asked for.
        token_bytes: (V,) length of each token in bytes.
        estimator: "fixed-count", or "bernoulli" for the bound's definition: the same mean with a
            higher variance, so that the two can be held against each other.
        shard: (rank, world size): evaluate every world-size-th block only; ``gather`` then joins
            a tensor (M, ...) over processes.
        on_batch: told (blocks done, blocks to do) after each batch.
    """
    rank, world = shard
    device = blocks.device
    mine = torch.arange(rank, len(blocks), world, device=device)
    key = rng.seed_key(seed, device)
    masks, estimate = not isinstance(noise, Interpolating), _fixed_count_draws
    if not masks:
        whole = _frequencies(blocks.flatten()[None], editable.flatten()[None], noise)
        estimate = partial(_noise_draws, plain=whole)
    found = torch.zeros(2, len(blocks), draws, dtype=rng.double(device), device=device)
    for start in range(0, len(mine), batch_size):
        index = mine[start : start + batch_size]
        text = backbone, blocks[index], editable[index], noise, key
        for draw in range(draws):
            if estimator == "bernoulli":
                pair = _bernoulli_draws(*text, index, draw, draws)
            else:
                pair = estimate(*text, index * draws + draw, len(blocks) * draws)
            found[:, index, draw] = torch.stack(pair).to(found.dtype)
        if on_batch:
            on_batch(min(start + batch_size, len(mine)), len(mine))

    if world > 1:  # every block was computed by one process and is zero elsewhere
        found = gather(found[None]).sum(0)
    values, rates = found
    # In the fifths of the mask rates; nan where there is none.
    fifth = (rates * 5).long().clamp(max=4)
    by_rate = [values[fifth == k].mean().item() if (fifth == k).any() else math.nan
               for k in range(5 if masks else 0)]  # fmt: skip
    return _summary(values.mean(1), editable.sum(1), blocks, editable, token_bytes, by_rate)


@torch.no_grad()
def causal_nll(
    backbone: Callable[..., Tensor],
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
        logits = backbone(ids, rows, causal=True)
        values[start : start + batch_size] = nats_by_row(logits, ids, rows) / rows.sum(1)
        if on_batch:
            on_batch(min(start + batch_size, len(blocks)), len(blocks))
    return _summary(values, editable.sum(1), blocks, editable, token_bytes, [])


@torch.no_grad()
def ordered_nll(
    backbone: Callable[..., Tensor],
    blocks: Tensor,
    editable: Tensor,
    noise: Absorbing,
    token_bytes: Tensor,
    *,
    batch_size: int = 16,
    shard: tuple[int, int] = (0, 1),
    gather: Callable[[Tensor], Tensor] = lambda x: x,
) -> Bound:
    """The exact negative log-likelihood of ``blocks`` (N, L) under what a denoiser writes on the
    full canvas from left to right (arXiv:2603.01367): each token is predicted with itself and all
    editable ones behind it hidden. A forward pass for each token."""
    values = torch.zeros(len(blocks), dtype=rng.double(blocks.device), device=blocks.device)
    row, place = editable.nonzero().unbind(1)
    mine = row % shard[1] == shard[0]
    column = torch.arange(blocks.shape[1], device=blocks.device)
    for r, p in zip(row[mine].split(batch_size), place[mine].split(batch_size), strict=True):
        ids = noise.corrupt(blocks[r], editable[r] & (column >= p[:, None]))
        nats = cross_entropy(backbone(ids, column == p[:, None]), blocks[r, p])
        values.index_add_(0, r, nats.to(values.dtype))
    if shard[1] > 1:
        values = gather(values[None]).sum(0)
    count = editable.sum(1)
    return _summary(values / count, count, blocks, editable, token_bytes, [])


@torch.no_grad()
def stream_bound(
    backbone: Callable[..., Tensor],
    blocks: Tensor,
    collate: StreamCollator,
    slots: Slots,
    token_bytes: Tensor,
    *,
    draws: int = 1,
    batch_size: int = 16,
    shard: tuple[int, int] = (0, 1),
    gather: Callable[[Tensor], Tensor] = lambda x: x,
) -> Bound:
    """The bound of ``blocks`` (N, L) written from block to block, or in the layout ``causal`` their
    exact negative log-likelihood.

    Args:
        collate: for a global batch of N * draws; with a causal weight of 0, or 1 if causal.
        slots: of its layout, on the device and in the dtype of the model's attention.
        others: see `likelihood_bound`.
    """
    rank, world = shard
    device = blocks.device
    values = torch.zeros(len(blocks), draws, dtype=rng.double(device), device=device)
    for index in torch.arange(rank, len(blocks), world).split(batch_size):
        for draw in range(draws):
            numbers = (index * draws + draw).tolist()
            rows = zip(blocks[index.to(device)].cpu(), numbers, strict=True)
            batch = collate([{"input_ids": ids, "draw": number} for ids, number in rows])
            ids, labels, weights = (batch[n].to(device) for n in ("input_ids", "labels", "weights"))
            asked = labels != IGNORE
            nats = cross_entropy(backbone(ids, asked, layout=slots), labels[asked])
            total = values.new_zeros(len(ids))
            total.index_add_(0, asked.nonzero()[:, 0], (nats * weights[asked]).to(values.dtype))
            values[index.to(device), draw] = total
    if world > 1:
        values = gather(values[None]).sum(0)
    first = 1 if collate.size is None else collate.prefix_len
    fixed = collate.fixed_ids[:0] if collate.size is None else collate.fixed_ids
    editable = editable_positions(blocks, torch.ones_like(blocks), first, fixed.to(device))
    return _summary(values.mean(1), editable.sum(1), blocks, editable, token_bytes, [])


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


@torch.no_grad()
def pseudo_likelihood(
    backbone: Callable[..., Tensor],
    canvas: Canvas,
    hidden: Tensor,
    noise: Absorbing,
    batch_size: int = 16,
) -> Tensor:
    """Mean over the positions ``hidden`` (B, L) of log p(token | all other tokens), in nats (B,).

    Each position is masked alone (Salazar et al., arXiv:1910.14659, who sum; a mean is needed to
    compare different lengths). It leans to text whose tokens give each other away: inside a long
    word or a repetition every token is nearly certain once its neighbours are seen.

    Args:
        backbone: `Backbone` in evaluation mode, or anything called the same way.
        canvas: (B, L), written.
    """
    row, position = hidden.nonzero().unbind(1)  # (N,) passes, one token hidden in each
    total = torch.zeros(len(hidden), dtype=rng.double(hidden.device), device=hidden.device)
    for r, p in zip(row.split(batch_size), position.split(batch_size), strict=True):
        ids, padding = canvas.ids[r], canvas.padding[r]
        alone = torch.zeros_like(padding)
        alone.scatter_(1, p[:, None], True)
        logits = backbone(noise.corrupt(ids, alone), alone, _attention(padding))
        total.index_add_(0, r, -cross_entropy(logits, ids[alone]).to(total.dtype))
    return total / hidden.sum(1)


@torch.no_grad()
def text_bounds(
    backbone: Callable[..., Tensor],
    canvas: Canvas,
    editable: Tensor,
    noise: Noise,
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
        backbone: `Backbone` in evaluation mode, or anything called the same way.
        canvas: (B, L), written.
        editable: (B, L) bool, the tokens whose likelihood is asked for, at least one a row.
        on_batch: told (passes done, passes to do) after each batch.
    """
    device = canvas.ids.device
    key = rng.seed_key(seed, device)
    estimate = _noise_draws if isinstance(noise, Interpolating) else _fixed_count_draws
    values = torch.zeros(len(editable) * draws, dtype=rng.double(device), device=device)
    # Texts of one length share a batch, so that little is padded.
    order = (~canvas.padding).sum(1).argsort(stable=True).repeat_interleave(draws)
    draw = torch.arange(draws, device=device).repeat(len(editable))
    for start in range(0, len(values), batch_size):
        row, number = order[start : start + batch_size], draw[start : start + batch_size]
        width = int((~canvas.padding[row]).sum(1).max())
        values[row * draws + number], _ = estimate(
            backbone, canvas.ids[row, :width], editable[row, :width], noise, key, number, draws,
            canvas.padding[row, :width],
        )  # fmt: skip
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


def _attention(padding: Tensor | None) -> Tensor | None:
    return (~padding).long() if padding is not None and padding.any() else None
