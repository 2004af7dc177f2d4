"""Clean token blocks -> noisy training batches."""

import torch
from torch import Tensor

from diffusion import rng
from diffusion.noise import MIN_TIME, SCHEDULES, Absorbing

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
    """Masks each row of a batch at its own rate.

    Features are dicts with ``input_ids`` (L,) and ``draw``, the number of the sample in the whole
    training run. All randomness is a function of (seed, draw), so batches do not depend on the
    number of workers, of processes, or on where a run was interrupted.

    ``stratified``: one time per row, t = (u + i) / G for row i of a global batch of G rows (the
    low-discrepancy draw of MDLM), then every editable position is masked with probability r(t).
    ``seed``: one rate per global batch, drawn from {1.0, 0.9, ..., 0.1} (RoBERTaDiffusion).

    Args:
        noise: what a masked token becomes.
        fixed_ids: ids that are never masked (``<s>``, ``<pad>``; not ``</s>``, whose place the
            model has to learn).
        prefix_len: so many first positions are never masked.
        global_batch: rows of one optimiser step over all processes and accumulation steps.

    Returns a dict: ``input_ids``, ``labels`` (`IGNORE` where not masked) and ``attention_mask``
    (B, L), the time ``t`` (B,) with r(t) the row's mask rate, and ``editable`` (B,), the number
    of positions that could have been masked.
    """

    def __init__(
        self,
        noise: Absorbing,
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
        attention_mask = torch.ones_like(clean)
        editable = editable_positions(clean, attention_mask, self.prefix_len, self.fixed_ids)

        t = self.times(draw)
        # The seed collator draws a rate, not a time.
        rate = t if self.mask_schedule == "seed" else self.schedule.rate(t)
        u = rng.uniform(rng.fold_in(rng.fold_in(self.key, draw), 1), clean.shape[1])
        masked = editable & (u < rate[:, None])
        return {
            "input_ids": self.noise.corrupt(clean, masked),
            "labels": clean.masked_fill(~masked, IGNORE),
            "attention_mask": attention_mask,
            "t": t.float(),
            "editable": editable.sum(1),
        }


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
