"""Clean token blocks -> noisy training batches."""

import math

import torch
from torch import Tensor

from diffusion import rng
from diffusion.data.packing import ANSWER, PADDING
from diffusion.models.layouts import arrange, block_size
from diffusion.noise import MIN_TIME, SCHEDULES, Absorbing, Interpolating, Noise, choose_exactly

MOST_NOISE = 1 - 1e-6  # with random tokens: at 1 weights have no bound
IGNORE = -100  # the label of a position without loss, as everywhere in transformers
SEED_RATES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
MASK_SCHEDULES = ("stratified", "seed")


def editable_positions(
    input_ids: Tensor, attention_mask: Tensor, prefix_len: int, fixed_ids: Tensor
) -> Tensor:
    """(B, L) bool: attended positions at or after ``prefix_len`` that hold no ``fixed_ids``."""
    editable = attention_mask.bool() & ~torch.isin(input_ids, fixed_ids)
    editable[:, :prefix_len] = False
    return editable


class DiffusionCollator:
    """Makes each row of a batch noisy at its own rate.

    Features are dicts with ``input_ids`` (L,) and ``draw``, the number of the sample in the whole
    training run. All randomness is a function of (seed, draw), so batches do not depend on the
    number of workers, of processes, or on where a run was interrupted.

    ``stratified``: one time per row, t = (u + i) / G for row i of a global batch of G rows (the
    low-discrepancy draw of MDLM), then every editable position is masked with probability r(t).
    ``seed``: one rate per global batch, drawn from {1.0, 0.9, ..., 0.1} (RoBERTaDiffusion).
    With random tokens r(t) is the share of noise, and every editable position has a label: it may not
    hold what it seems to.

    Args:
        noise: what a token becomes.
        fixed_ids: ids that are never masked (``<s>``, ``<pad>``; not ``</s>``, whose place the
            model has to learn).
        prefix_len: so many first positions are never masked.
        global_batch: rows of one optimiser step over all processes and accumulation steps.

    Returns a dict: ``input_ids``, ``labels`` (`IGNORE` where not masked) and ``attention_mask``
    (B, L), the time ``t`` (B,) with r(t) the row's mask rate, and ``editable`` (B,), the number
    of positions that could have been masked; with random tokens also r(t) as ``r``.
    """

    def __init__(
        self,
        noise: Noise,
        fixed_ids: list[int],
        prefix_len: int = 16,
        mask_schedule: str = "stratified",
        schedule: str = "linear",
        seed: int = 0,
        global_batch: int = 16,
    ):
        if mask_schedule not in MASK_SCHEDULES:
            raise ValueError(f"mask_schedule {mask_schedule!r} is not one of {MASK_SCHEDULES}")
        self.noise = noise
        self.fixed_ids = torch.tensor(fixed_ids)
        self.prefix_len = prefix_len
        self.mask_schedule = mask_schedule
        self.schedule = SCHEDULES[schedule]
        self.key = rng.seed_key(seed)
        self.global_batch = global_batch

    def times(self, draw: Tensor) -> Tensor:
        """Times (B,) float64 in [`MIN_TIME`, 1] of the samples ``draw`` (B,)."""
        if self.mask_schedule == "seed":
            u = rng.uniform(rng.fold_in(self.key, draw // self.global_batch), 1)[:, 0]
            rates = torch.tensor(SEED_RATES, dtype=torch.float64)
            return rates[(u * len(SEED_RATES)).long()]
        u = rng.uniform(rng.fold_in(self.key, draw), 1)[:, 0]
        t = (u + draw % self.global_batch) / self.global_batch
        return t.clamp(min=MIN_TIME)

    def __call__(self, features: list[dict]) -> dict[str, Tensor]:
        clean = torch.stack([torch.as_tensor(f["input_ids"]) for f in features]).long()
        draw = torch.tensor([f["draw"] for f in features])
        clean, attention_mask, editable = self.canvas(clean, draw, features)
        t = self.times(draw)
        # The seed collator draws a rate, not a time.
        rate = t if self.mask_schedule == "seed" else self.schedule.rate(t)
        u = rng.uniform(rng.fold_in(rng.fold_in(self.key, draw), 1), clean.shape[1])
        more = {}
        if isinstance(self.noise, Interpolating):
            rate = rate.clamp(max=MOST_NOISE)
            more["r"] = rate.float()
            v = rng.uniform(rng.fold_in(rng.fold_in(self.key, draw), 2), clean.shape[1])
            seen, learned = self.noise.noised(clean, editable, rate[:, None], u, v), editable
        else:
            learned = editable & (u < rate[:, None])
            seen = self.noise.corrupt(clean, learned)
        return {
            "input_ids": seen,
            "labels": clean.masked_fill(~learned, IGNORE),
            "attention_mask": attention_mask,
            "t": t.float(),
            "editable": editable.sum(1),
            **more,
        }

    def canvas(
        self, clean: Tensor, draw: Tensor, features: list[dict]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What stands on the canvas, what is attended to, and what may be masked, (B, L) each."""
        attended = torch.ones_like(clean)
        editable = editable_positions(clean, attended, self.prefix_len, self.fixed_ids)
        return clean, attended, editable


class ChatCollator(DiffusionCollator):
    """The same of conversations, whose features have ``kinds`` (L,), too (see `packing.Blocks`): the
    answers alone are masked.

    Padding is not attended to, but for a random part behind the conversation, from nothing to all of
    it, which holds masks without a label. That is what a canvas to write an answer on looks like; were
    it not there, each last answer would end where the canvas does, and no model would learn to stop.
    """

    def canvas(self, clean, draw, features):
        kinds = torch.stack([f["kinds"] for f in features])
        padding = kinds == PADDING
        u = rng.uniform(rng.fold_in(rng.fold_in(self.key, draw), 3), 1)
        shown = (u * (padding.sum(1, keepdim=True) + 1)).long()
        room = padding & (padding.cumsum(1) <= shown)
        return self.noise.corrupt(clean, room), (~padding | room).long(), kinds == ANSWER


class CausalCollator:
    """Clean rows for next-token prediction: every token but the first is a label."""

    def __call__(self, features: list[dict]) -> dict[str, Tensor]:
        clean = torch.stack([torch.as_tensor(f["input_ids"]) for f in features]).long()
        labels = clean.clone()
        labels[:, 0] = IGNORE
        return {
            "input_ids": clean,
            "labels": labels,
            "attention_mask": torch.ones_like(clean),
            "t": torch.ones(len(clean)),
            "editable": torch.full((len(clean),), clean.shape[1] - 1),
        }


class StreamCollator:
    """Batches in the layouts ``causal`` and ``blockN`` (see `models.layouts`). In the latter every
    block of N tokens is masked on its own, exactly k of its tokens, k uniform on 1..N.

    Number b of all T blocks of a global batch takes its k from the place (a b mod T) / T + u in the
    circle from 0 to 1, with one random u and a near T / golden ratio: T places at equal distances,
    and those of any run of blocks spread evenly, so that the batch may be split over accumulation
    steps and processes.

    Features are those of `DiffusionCollator`, and so are the first arguments.

    Args:
        layout: its name.
        shift: whether the model is a shifted one.
        causal_weight: of the causal loss of the clean stream; that of the bound is 1.

    Returns a dict of ``input_ids`` and ``labels`` (B, S) by slots, ``weights`` (B, S) such that the
    weighted sum of cross-entropies is the sum over rows of an unbiased estimate of the bound in
    nats per editable token, with ``causal_weight`` times the causal loss per token;
    ``attention_mask``, and the name of the ``layout``.
    """

    def __init__(
        self,
        noise: Absorbing,
        fixed_ids: list[int],
        prefix_len: int,
        layout: str,
        shift: bool,
        causal_weight: float,
        seed: int = 0,
        global_batch: int = 16,
    ):
        self.noise = noise
        self.fixed_ids = torch.tensor(fixed_ids)
        self.prefix_len = prefix_len
        self.layout, self.size = layout, block_size(layout)
        self.shift, self.causal_weight = shift, causal_weight
        self.key = rng.seed_key(seed)
        self.global_batch = global_batch

    def masks(self, draw: Tensor, editable: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens of the samples ``draw`` (B,) are masked, and each one's weight in the mean
        over the row: both (B, L), of ``editable`` (B, L)."""
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
        clean = torch.stack([torch.as_tensor(f["input_ids"]) for f in features]).long()
        draw = torch.tensor([f["draw"] for f in features])
        editable = editable_positions(
            clean, torch.ones_like(clean), self.prefix_len, self.fixed_ids
        )
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
        return {
            "input_ids": ids,
            "labels": labels,
            "attention_mask": torch.ones_like(ids),
            "weights": weights,
            "layout": self.layout,
        }


class MixCollator:
    """Each micro-batch in one layout of a mix.

    A micro-batch is what all processes take together in one forward pass. Its layout is a function
    of the seed and of its number in the whole run: among any 24 that begin at a multiple of 24, each
    layout has its share up to rounding, in random order. Mask rates are stratified over a
    micro-batch in the layout ``full``, masked counts over a global batch in the others.

    Features are those of `DiffusionCollator`; all of one call are of one micro-batch. The result is
    that of `DiffusionCollator` for ``full`` and that of `StreamCollator` for other layouts.

    Args:
        mix: weight of each layout.
        global_batch, micro_batch: rows of an optimiser step, and of a micro-batch.
        others: see `DiffusionCollator` and `StreamCollator`.
    """

    WINDOW = 24  # a multiple of the usual numbers of layouts

    def __init__(
        self,
        noise: Absorbing,
        fixed_ids: list[int],
        prefix_len: int,
        mix: dict[str, float],
        shift: bool,
        causal_weight: float = 1.0,
        schedule: str = "linear",
        seed: int = 0,
        global_batch: int = 16,
        micro_batch: int = 16,
    ):
        self.noise, self.fixed_ids = noise, torch.tensor(fixed_ids)
        self.prefix_len, self.shift, self.micro_batch = prefix_len, shift, micro_batch
        self.names = list(mix)
        self.edges = torch.tensor(list(mix.values()), dtype=torch.float64).cumsum(0)
        self.key = rng.fold_in(rng.seed_key(seed), -2)  # samples have the numbers from 0
        self.collators = {
            name: DiffusionCollator(
                noise, fixed_ids, prefix_len, "stratified", schedule, seed, micro_batch
            )
            if name == "full"
            else self.stream(name, 1.0 if name == "causal" else causal_weight, seed, global_batch)
            for name in mix
        }

    def stream(self, layout: str, causal_weight: float, seed: int, batch: int) -> StreamCollator:
        """What makes batches of another layout than ``full``."""
        fixed = self.fixed_ids.tolist()
        return StreamCollator(
            self.noise, fixed, self.prefix_len, layout, self.shift, causal_weight, seed, batch
        )

    def layout(self, number: int) -> str:
        """That of a micro-batch."""
        u = rng.uniform(rng.fold_in(self.key, number // self.WINDOW), self.WINDOW + 1)
        place = (u[1:].argsort()[number % self.WINDOW] + u[0]) / self.WINDOW
        chosen = torch.searchsorted(self.edges, place * self.edges[-1], right=True)
        return self.names[min(int(chosen), len(self.names) - 1)]

    def __call__(self, features: list[dict]) -> dict[str, Tensor]:
        return self.collators[self.layout(features[0]["draw"] // self.micro_batch)](features)


class TwoPassCollator:
    """The batches of another collator, each with ``two_pass``: whether it is one of those that go
    through the model twice (see `models.soft`).

    It is a function of the seed and of the number of the micro-batch in the whole run: among any 20
    that begin at a multiple of 20 it is a ``share`` of them up to rounding, in random order, so that it
    has nothing to do with what else goes by that number.

    Args:
        collate: what makes the batches; `MixCollator` says what a micro-batch is.
        micro_batch: its rows.
    """

    WINDOW = 20

    def __init__(self, collate, share: float, seed: int, micro_batch: int):
        self.collate, self.share, self.micro_batch = collate, share, micro_batch
        self.key = rng.fold_in(rng.seed_key(seed), -4)

    def two_pass(self, number: int) -> bool:
        """Whether micro-batch ``number`` is."""
        u = rng.uniform(rng.fold_in(self.key, number // self.WINDOW), self.WINDOW + 1)
        place = (u[1:].argsort().argsort()[number % self.WINDOW] + u[0]) / self.WINDOW
        return bool(place < self.share)

    def __call__(self, features: list[dict]) -> dict:
        number = features[0]["draw"] // self.micro_batch
        return {**self.collate(features), "two_pass": self.two_pass(number)}
