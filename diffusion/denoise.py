"""The loop: canvas + denoiser + sampler -> a stream of Steps."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion import hardware
from diffusion.canvas import Canvas, Query, Step
from diffusion.proposal import Proposal, Sampling
from diffusion.rng import START, TOKENS
from diffusion.samplers.base import Sampler, State


def denoise(
    canvas: Canvas,
    denoiser,
    sampler: Sampler,
    sampling: Sampling,
    keys: Tensor,
    end_id: int | None = None,
) -> Iterator[Step]:
    """Write the noisy positions of ``canvas``, and yield every state on the way.

    Args:
        canvas: (B, L), on the denoiser's device.
        denoiser: see `models.denoiser`.
        keys: (B,) random keys, see `rng.row_keys`. A row's text depends on its own key, canvas
            and the model alone, not on the other rows.
        end_id: ends a text, on a canvas that is `left_to_right`. When its first one is there, with no
            mask before it and no token that may still change, the row is done: what is after it is
            computed no more, and padding of its Steps.
    """
    device, noise = canvas.ids.device, denoiser.noise
    ids, padding = canvas.ids.clone(), canvas.padding if canvas.padding.any() else None
    masked = noise.noisy(ids) & ~canvas.frozen
    state = State(ids, ~canvas.frozen & ~canvas.padding, masked, keys, noise=noise, end_id=end_id)
    random = torch.zeros_like(masked)  # visible tokens that are noise
    if noise.has_random_tokens:
        ids = torch.where(canvas.frozen, ids, noise.fill(ids, state.uniform(START)))
        random = masked & ~noise.noisy(ids)
        masked = masked & ~random
    state.ids, state.masked, state.random = ids, masked, random
    number = torch.arange(len(ids), device=device)
    confidence = torch.full(ids.shape, torch.nan, device=device)
    nfe = torch.zeros(len(ids), dtype=torch.int64, device=device)
    slots = torch.zeros_like(nfe)
    nothing = gone = torch.zeros_like(masked)  # after the end of a text
    seconds = 0.0
    denoiser = state.denoiser = denoiser.start(canvas)
    sampler.start(state)
    yield Step(
        0, sampler.total, nfe, ids, canvas.frozen, canvas.padding, masked, nothing, nothing, confidence, 0.0, slots,
        random=random if noise.has_random_tokens else None, typed=canvas.typed,
    )  # fmt: skip

    finished = sampler.finished(state) | ~state.editable.any(1)
    while not finished.all():
        started = hardware.now(device)
        with torch.inference_mode():
            state.step += 1
            query_mask = sampler.select(state)
            need = query_mask.any(1)
            # Rows without a queried position are left out of the batch: they cost nothing. By
            # their numbers, since a GPU is waited for wherever a mask selects.
            some = need.nonzero()[:, 0]
            if len(some):
                some = slice(None) if len(some) == len(need) else some
                draft = state.memory.get("draft")
                shown = ids if draft is None else torch.where(draft >= 0, draft, ids)
                query = Query(
                    shown[some],
                    query_mask[some],
                    number[some],
                    padding=None if padding is None else padding[some],
                    shadows=(query_mask & ~masked)[some] if sampler.hides else None,
                    **{name: x[some] for name, x in sampler.shown(state).items()},
                )
                slots = slots.index_add(0, number[some], denoiser.slots(query))
                logits = denoiser(query)
                if canvas.allowed is not None:
                    logits = canvas.allowed(logits, query_mask)
            else:
                logits = torch.zeros(0, 2, device=device)
            u = state.uniform(TOKENS) if sampler.draws else None
            proposal = Proposal(logits, query_mask, sampling, u, sampler.greedy(state))
            write, remask, tokens, noisy = sampler.decide(state, proposal)
            remask = nothing if remask is None else remask
            nfe = nfe + need * denoiser.passes
            if tokens is None:
                tokens, probability = proposal.tokens, proposal.probability
            else:
                probability = proposal.probability_of(tokens)
            ids = noise.corrupt(torch.where(write, tokens, ids), remask)
            confidence = torch.where(write, probability, confidence).masked_fill(remask, torch.nan)
            revealed, replaced = write, None
            if noisy is not None:
                noisy = noisy & write
                replaced, revealed = write & ~(masked | random | noisy), write & ~noisy
                random = state.random = (random & ~(write | remask)) | noisy
            masked = (masked & ~write) | remask
            state.ids, state.masked = ids, masked
            del logits, proposal  # the next pass has as many
            if end_id is not None:
                over, after = _at_end(state)
                over = over & sampler.settled(state)
                gone = gone | (after & over)
                masked = state.masked = masked & ~over
                state.editable = state.editable & ~over
                revealed, remask = revealed & ~gone, remask & ~gone
                confidence = confidence.masked_fill(gone, torch.nan)
            finished = sampler.finished(state) | ~state.editable.any(1)
        seconds += hardware.now(device) - started
        yield Step(
            state.step, sampler.total, nfe, ids, canvas.frozen | gone, canvas.padding | gone, masked,
            revealed, remask, confidence, seconds, slots,
            random & ~finished[:, None] if noise.has_random_tokens else None, replaced, canvas.typed,
        )  # fmt: skip


def _at_end(state: State) -> tuple[Tensor, Tensor]:
    """(B, 1) rows with no mask before their first end, and (B, L) what comes after that."""
    end = state.visible & (state.ids == state.end_id)
    first = (end | state.masked).cumsum(1) == 1
    return (first & end).any(1, keepdim=True), state.editable & (end.cumsum(1) - end.long() > 0)
