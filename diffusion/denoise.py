"""The loop: canvas + denoiser + sampler -> a stream of Steps."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion import hardware
from diffusion.canvas import Canvas
from diffusion.proposal import Proposal, Sampling
from diffusion.samplers.base import Sampler, State

# The random stream of the tokens; samplers number theirs from 0.
TOKENS = 1000


@dataclass(frozen=True)
class Step:
    """The canvas after one step. All tensors belong to the reader."""

    index: int  # 0 is the canvas before the first forward pass
    total: int | None  # planned steps, None when the sampler decides as it goes
    nfe: Tensor  # (B,) forward passes spent so far on each row
    ids: Tensor  # (B, L) token ids; masked positions hold the mask id
    frozen: Tensor  # (B, L) bool: given text, specials, padding; never written
    padding: Tensor  # (B, L) bool: positions that do not exist for the row
    masked: Tensor  # (B, L) bool: still to be written
    revealed: Tensor  # (B, L) bool: written in this step
    remasked: Tensor  # (B, L) bool: opened again in this step
    confidence: Tensor  # (B, L) float: probability of the token when it was written, nan elsewhere
    seconds: float  # measured time in model and sampler so far; what readers do is not in it


def denoise(
    canvas: Canvas, denoiser, sampler: Sampler, sampling: Sampling, keys: Tensor
) -> Iterator[Step]:
    """Write the masked positions of ``canvas``, and yield every state on the way.

    Args:
        canvas: (B, L), on the denoiser's device.
        denoiser: called as denoiser(ids, rows, padding, ...) -> logits, see `Denoiser`. A call
            costs ``denoiser.passes`` forward passes, 1 if it does not say.
        keys: (B,) random keys, see `rng.row_keys`. A row's text depends on its own key, canvas
            and the model alone, not on the other rows.
    """
    device, mask_id = canvas.ids.device, denoiser.mask_id
    ids, padding = canvas.ids.clone(), canvas.padding if canvas.padding.any() else None
    masked = (ids == mask_id) & ~canvas.frozen
    state = State(ids, ~canvas.frozen & ~canvas.padding, masked, keys)
    confidence = torch.full(ids.shape, torch.nan, device=device)
    nfe = torch.zeros(len(ids), dtype=torch.int64, device=device)
    nothing = torch.zeros_like(masked)
    seconds = 0.0
    sampler.start(state)
    given = canvas.frozen, canvas.padding
    yield Step(0, sampler.total, nfe, ids, *given, masked, nothing, nothing, confidence, 0.0)

    while not sampler.finished(state).all():
        started = hardware.now(device)
        with torch.inference_mode():
            state.step += 1
            rows = sampler.wanted(state)
            need = rows.any(1)
            # Rows without a wanted position are left out of the batch: they cost nothing.
            some = slice(None) if need.all() else need
            if need.any():
                logits = denoiser(
                    ids[some],
                    rows[some],
                    None if padding is None else padding[some],
                    shadows=(rows & ~masked)[some] if sampler.hides else None,
                    frozen=canvas.frozen[some],
                )
                if canvas.allowed is not None:
                    logits = canvas.allowed(logits, rows)
            else:
                logits = torch.zeros(0, 2, device=device)
            uniforms, best = state.uniform(TOKENS), sampler.greedy(state)
            proposal = Proposal(logits, rows, sampling, uniforms, best)
            revealed, remasked = sampler.decide(state, proposal)
            remasked = nothing if remasked is None else remasked
            nfe = nfe + need * getattr(denoiser, "passes", 1)
            ids = torch.where(revealed, proposal.tokens, ids)
            confidence = torch.where(revealed, proposal.probability, confidence)
            ids = ids.masked_fill(remasked, mask_id)
            confidence = confidence.masked_fill(remasked, torch.nan)
            masked = (masked & ~revealed) | remasked
            state.ids, state.masked = ids, masked
        seconds += hardware.now(device) - started
        yield Step(
            state.step,
            sampler.total,
            nfe,
            ids,
            *given,
            masked,
            revealed,
            remasked,
            confidence,
            seconds,
        )
