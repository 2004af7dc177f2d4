"""Clean token blocks -> noisy training batches.

A batch is a dict of ``input_ids``, ``labels`` (`objective.IGNORE`: no loss) and ``weights`` of the
losses, all (B, L). The weights of a global batch sum to its rows, or with ``mean`` to its tokens.

Features are dicts with ``input_ids`` (L,) and ``draw``, the number of the sample in the whole run. All
randomness is a function of (seed, draw), whatever the workers, processes or interruptions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from diffusion import rng
from diffusion.data.packing import ANSWER, PADDING
from diffusion.models.layouts import arrange, block_size
from diffusion.noise import MIN_TIME, SCHEDULES, Interpolating, Noise, choose_exactly
from diffusion.objective import IGNORE, noise_weights, token_weights

MOST_NOISE = 1 - 1e-6  # with random tokens: at 1 weights have no bound
LARGEST_WEIGHT = 2.0  # of a token, with the loss "clipped" (GIDD)
SEED_RATES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def editable_positions(input_ids: Tensor, prefix_len: int, fixed_ids: Tensor) -> Tensor:
    """(B, L) bool: positions at or after ``prefix_len`` that hold no ``fixed_ids``."""
    editable = ~torch.isin(input_ids, fixed_ids.to(input_ids.device))
    editable[:, :prefix_len] = False
    return editable


def _tokens(features: list[dict]) -> Tensor:
    return torch.stack([torch.as_tensor(f["input_ids"]) for f in features]).long()


@dataclass
class Corruption:
    """The arguments of all collators that add noise.

    Args:
        fixed_ids: ids that are never masked (``<s>``, ``<pad>``; not ``</s>``, which is learned).
        prefix_len: number of first positions that are never masked.
        global_batch: rows of one optimiser step over all processes and accumulation steps.
    """

    noise: Noise
    fixed_ids: list[int]
    prefix_len: int
    seed: int = field(default=0, kw_only=True)
    global_batch: int = field(default=16, kw_only=True)

    mean: ClassVar = False

    def __post_init__(self):
        self.fixed_ids, self.key = torch.as_tensor(self.fixed_ids), rng.seed_key(self.seed)

    def read(self, features: list[dict]) -> tuple[Tensor, Tensor, Tensor]:
        """The token ids (B, L), which of them may be masked (B, L), and the samples' numbers (B,)."""
        clean = _tokens(features)
        editable = editable_positions(clean, self.prefix_len, self.fixed_ids)
        return clean, editable, torch.tensor([f["draw"] for f in features])


@dataclass
class DiffusionCollator(Corruption):
    """Adds noise to each row of a batch at its own rate.

    Args:
        mask_schedule: ``stratified``, one time per row, t = (u + i) / G for row i of a global batch
            of G rows (MDLM), and every editable position is masked with probability r(t); ``batch``,
            one rate per global batch, from {1.0, 0.9, ..., 0.1} (RoBERTaDiffusion).
        loss: ``nelbo``, the weighted likelihood bound; ``clipped``, the same with no weight of noise
            above 2; ``mean`` over the masked tokens.

    A batch also has the time ``t`` (B,) and ``editable`` (B,), the number of positions that could have
    been masked; with random tokens also the noise share ``r`` (B,), and all of these have a label.
    """

    mask_schedule: str = "stratified"
    schedule: str = "linear"
    loss: str = "nelbo"

    @property
    def mean(self) -> bool:
        return self.loss == "mean"

    def times(self, draw: Tensor) -> Tensor:
        """Times (B,) float64 in [`MIN_TIME`, 1] of the samples ``draw`` (B,)."""
        if self.mask_schedule == "batch":
            u = rng.uniform(rng.fold_in(self.key, draw // self.global_batch), 1)[:, 0]
            rates = torch.tensor(SEED_RATES, dtype=torch.float64)
            return rates[(u * len(SEED_RATES)).long()]
        u = rng.uniform(rng.fold_in(self.key, draw), 1)[:, 0]
        t = (u + draw % self.global_batch) / self.global_batch
        return t.clamp(min=MIN_TIME)

    def __call__(self, features: list[dict]) -> dict[str, Tensor]:
        clean, editable, draw = self.read(features)
        clean, editable, more = self.canvas(clean, editable, draw, features)
        t, free = self.times(draw), editable.sum(1)
        # This schedule draws a rate, not a time.
        rate = t if self.mask_schedule == "batch" else SCHEDULES[self.schedule].rate(t)
        u = rng.uniform(rng.fold_in(rng.fold_in(self.key, draw), 1), clean.shape[1])
        if isinstance(self.noise, Interpolating):
            rate = rate.clamp(max=MOST_NOISE)
            v = rng.uniform(rng.fold_in(rng.fold_in(self.key, draw), 2), clean.shape[1])
            seen, learned = self.noise.noised(clean, editable, rate[:, None], u, v), editable
            more["r"] = rate.float()
        else:
            learned = editable & (u < rate[:, None])
            seen = self.noise.corrupt(clean, learned)
        t, labels = t.float(), clean.masked_fill(~learned, IGNORE)
        if "r" in more:
            how = self.schedule, self.noise, LARGEST_WEIGHT if self.loss == "clipped" else None
            weights = noise_weights(labels, seen, t, more["r"], free, *how)
        elif self.mean:
            weights = learned.float()
        else:
            weights = token_weights(labels, t, free, self.schedule)
        batch = {"input_ids": seen, "labels": labels, "weights": weights}
        return {**batch, "t": t, "editable": free, **more}

    def canvas(self, clean: Tensor, editable: Tensor, draw: Tensor, features: list[dict]):
        """The tokens and which may be masked, (B, L) both, and what else the batch holds."""
        return clean, editable, {}


class AnswerCollator(DiffusionCollator):
    """The same for rows with ``kinds`` (L,) (see `packing.Blocks`), conversations or texts with blanks: only
    answers are masked. ``prefix_len`` would do where all that is given came first.

    Padding is not attended to (``attention_mask``), except for a random part after the conversation,
    from none to all of it, which holds masks without a label: otherwise each last answer would end
    where the canvas does, and no model would learn to stop.
    """

    def canvas(self, clean, editable, draw, features):
        kinds = torch.stack([f["kinds"] for f in features])
        padding = kinds == PADDING
        u = rng.uniform(rng.fold_in(rng.fold_in(self.key, draw), 3), 1)
        shown = (u * (padding.sum(1, keepdim=True) + 1)).long()
        room = padding & (padding.cumsum(1) <= shown)
        attended = {"attention_mask": (~padding | room).long()}
        return self.noise.corrupt(clean, room), kinds == ANSWER, attended


@dataclass
class GaussianCollator(Corruption):
    """Clean rows with what `vectors.noised` needs: ``time`` (B, 1), stratified as in `DiffusionCollator`,
    and ``keys`` (B,) of the normals. Every other row, at random, is noise as a whole; of the others one
    span is, so that a model learns to go on from a beginning and to fill gaps. In a tenth of the rows
    what is not noise is masked, for guidance without a condition (arXiv:2207.12598).
    """

    WHOLE, HIDDEN = 0.5, 0.1

    def __call__(self, features: list[dict]) -> dict[str, Tensor]:
        clean, editable, draw = self.read(features)
        keys = rng.fold_in(self.key, draw)
        u, whole, first, second, hidden = rng.uniform(keys, 5).T[..., None]
        t = (u + (draw % self.global_batch)[:, None]) / self.global_batch
        # A span between two places among what is editable; never an empty one.
        number, count = editable.cumsum(1) - 1, editable.sum(1, keepdim=True)
        ends = torch.cat([first, second], 1).sort(1).values * count
        start, end = ends.long().unbind(1)
        inside = (number >= start[:, None]) & (number <= end[:, None])
        noisy = editable & (inside | (whole < self.WHOLE))
        given = ~noisy & editable & (hidden < self.HIDDEN)
        labels = clean.masked_fill(~noisy, IGNORE)
        weights = noisy.float() / noisy.sum(1, keepdim=True).clamp(min=1)
        ids = self.noise.corrupt(clean, given)
        return {"input_ids": ids, "labels": labels, "weights": weights, "time": t, "keys": keys}


class CausalCollator:
    """Clean rows for next-token prediction: every token but the first is a label, of rows with ``kinds``
    every answer."""

    mean = True  # over the tokens

    def __call__(self, features: list[dict]) -> dict[str, Tensor]:
        clean = _tokens(features)
        labels = clean.clone()
        labels[:, 0] = IGNORE
        if "kinds" in features[0]:
            labels[torch.stack([f["kinds"] for f in features]) != ANSWER] = IGNORE
        return {"input_ids": clean, "labels": labels, "weights": torch.ones(clean.shape)}


@dataclass
class StreamCollator(Corruption):
    """Batches by slots of the layouts ``causal`` and ``blockN`` (see `models.layouts`). In the latter
    exactly k tokens of every block of N are masked, k uniform on 1..N.

    Block b of all T blocks of a global batch takes its k from the place (a b mod T) / T + u in the
    circle from 0 to 1, with one random u and a near T / golden ratio: T places at equal distances,
    and those of any run of blocks are spread evenly.

    Args:
        shift: whether the model is a shifted one.
        causal_weight: of the causal loss of the clean stream; that of the bound is 1.

    The weighted sum of cross-entropies is the sum over rows of an unbiased estimate of the bound in
    nats per editable token, with ``causal_weight`` times the causal loss per token.
    """

    layout: str
    shift: bool
    causal_weight: float

    @property
    def size(self) -> int | None:
        """Tokens of a block; None: ``causal``."""
        return block_size(self.layout)

    def masks(self, draw: Tensor, editable: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the ``editable`` (B, L) tokens of the samples ``draw`` (B,) are masked, and each
        one's weight in the mean over the row, both (B, L)."""
        length = editable.shape[1] - self.prefix_len
        count = -(-length // self.size)
        pad = (0, count * self.size - length)
        free = torch.nn.functional.pad(editable[:, self.prefix_len :], pad)
        free = free.view(-1, count, self.size)  # by block
        total = self.global_batch * count
        number = (draw % self.global_batch)[:, None] * count + torch.arange(count)
        step = round(total * (math.sqrt(5) - 1) / 2)
        while math.gcd(step, total) != 1:
            step += 1
        steps = rng.fold_in(self.key, -3)  # samples have the numbers from 0
        u = rng.uniform(rng.fold_in(steps, draw // self.global_batch), 1)
        place = (number * step % total / total + u) % 1
        size = free.sum(2)
        k = 1 + (place * size).long()  # in an empty block there is nothing to choose
        u = rng.uniform(rng.fold_in(rng.fold_in(self.key, draw), 1), count * self.size)
        masked = choose_exactly(k, free, u.view_as(free))
        weight = masked * (size / k / editable.sum(1).clamp(min=1)[:, None])[..., None]
        back = (part.flatten(1)[:, :length] for part in (masked, weight))
        masked, weight = (torch.nn.functional.pad(part, (self.prefix_len, 0)) for part in back)
        return masked, weight

    def __call__(self, features: list[dict]) -> dict[str, Tensor]:
        clean, editable, draw = self.read(features)
        masked, weight = torch.zeros_like(editable), None
        if self.size is not None:
            masked, weight = self.masks(draw, editable)
        slots = arrange(self.layout, clean.shape[1], self.prefix_len, self.shift)
        ids = slots.fill(clean, self.noise.corrupt(clean, masked))
        labels = torch.full_like(ids, IGNORE)
        weights = torch.zeros(ids.shape)
        if self.causal_weight:
            read = slots.clean_read[1:]
            labels[:, read] = clean[:, 1:]
            weights[:, read] = self.causal_weight / (clean.shape[1] - 1)
        if weight is not None:
            read = slots.noisy_read[self.prefix_len :]
            labels[:, read] = clean.masked_fill(~masked, IGNORE)[:, self.prefix_len :]
            weights[:, read] = weight[:, self.prefix_len :].float()
        return {"input_ids": ids, "labels": labels, "weights": weights, "layout": self.layout}


def _place(key: Tensor, number: int, window: int, rank: bool = False) -> Tensor:
    """A place in the circle from 0 to 1 for micro-batch ``number`` of a run: a ``window`` of them are
    at equal distances, in random order. ``rank``: the order is that of ranks."""
    u = rng.uniform(rng.fold_in(key, number // window), window + 1)
    order = u[1:].argsort()
    return ((order.argsort() if rank else order)[number % window] + u[0]) / window


@dataclass
class MixCollator(Corruption):
    """Each micro-batch in one layout of a mix: the batch of `DiffusionCollator` for ``full``, and of
    `StreamCollator` for others.

    A micro-batch is what all processes take together in one forward pass. Its layout is a function
    of the seed and of its number in the run: among any 24 that begin at a multiple of 24, each layout
    has its share up to rounding, in random order. Mask rates are stratified over a micro-batch in the
    layout ``full``, masked counts over a global batch in the others.

    Args:
        mix: weight of each layout.
        micro_batch: rows of a micro-batch.
    """

    mix: dict[str, float]
    shift: bool
    causal_weight: float = 1.0
    schedule: str = "linear"
    micro_batch: int = 16

    WINDOW: ClassVar = 24  # a multiple of the usual numbers of layouts

    def __post_init__(self):
        super().__post_init__()
        self.collators = {}
        for name in self.mix:
            weight = 1.0 if name == "causal" else self.causal_weight
            self.collators[name] = self.stream(name, weight, self.seed, self.global_batch)
        if "full" in self.mix:
            given = self.noise, self.fixed_ids, self.prefix_len
            spread = {"seed": self.seed, "global_batch": self.micro_batch}
            self.collators["full"] = DiffusionCollator(*given, schedule=self.schedule, **spread)

    def stream(self, layout: str, causal_weight: float, seed: int, batch: int) -> StreamCollator:
        given = self.noise, self.fixed_ids, self.prefix_len, layout, self.shift
        return StreamCollator(*given, causal_weight, seed=seed, global_batch=batch)

    def layout(self, number: int) -> str:
        """The layout of a micro-batch."""
        place = _place(rng.fold_in(self.key, -2), number, self.WINDOW)
        edges = torch.tensor([*self.mix.values()], dtype=torch.float64).cumsum(0)
        chosen = torch.searchsorted(edges, place * edges[-1], right=True)
        return list(self.mix)[min(int(chosen), len(self.mix) - 1)]

    def __call__(self, features: list[dict]) -> dict[str, Tensor]:
        return self.collators[self.layout(features[0]["draw"] // self.micro_batch)](features)


@dataclass
class TwoPassCollator:
    """The batches of another collator, each with ``two_pass``: whether it goes through the model twice
    (see `models.soft`). Among any 20 micro-batches (see `MixCollator`) that begin at a multiple of 20
    a ``share`` does, up to rounding, in random order.
    """

    collate: Callable
    share: float
    seed: int
    micro_batch: int

    WINDOW: ClassVar = 20

    def two_pass(self, number: int) -> bool:
        key = rng.fold_in(rng.seed_key(self.seed), -4)
        return bool(_place(key, number, self.WINDOW, rank=True) < self.share)

    def __call__(self, features: list[dict]) -> dict:
        number = features[0]["draw"] // self.micro_batch
        return {**self.collate(features), "two_pass": self.two_pass(number)}
