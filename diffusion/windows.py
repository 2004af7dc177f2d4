"""Texts longer than the model can see: the loop again and again over a window that slides."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from diffusion import rng
from diffusion.canvas import Canvas, Step
from diffusion.denoise import denoise
from diffusion.proposal import Sampling
from diffusion.samplers.base import Sampler

FLAGS = ("revealed", "remasked", "random", "replaced")  # of a Step, (B, L) bool or None


def denoise_windows(
    canvas: Canvas,
    denoiser,
    make_sampler: Callable[[], Sampler],
    sampling: Sampling,
    keys: Tensor,
    window: int,
    stride: int,
    end_id: int | None = None,
) -> Iterator[Step]:
    """As `denoise`, with a model that sees ``window`` positions (MDLM's semi-autoregressive
    sampling, arXiv:2406.07524): write the first window, keep its last window - stride positions
    as the beginning of the next, write the next ``stride``.

    Each window begins with the canvas's own first token, ``<s>``, as in training. The Steps are one
    stream over the whole canvas. A text that has written ``end_id`` goes no further.
    """
    batch, length = canvas.ids.shape
    ids = canvas.ids
    confidence = torch.full(ids.shape, torch.nan, device=ids.device)
    nfe = torch.zeros(batch, dtype=torch.int64, device=ids.device)
    slots, ended = nfe, torch.zeros_like(canvas.padding)
    index, seconds = 0, 0.0
    starts = range(0, max(length - window, 0) + stride, stride)
    for number, start in enumerate(starts):
        here = slice(start, start + window)
        seen, frozen = ids[:, here].clone(), (canvas.frozen | ended)[:, here].clone()
        if number:
            seen[:, 0] = canvas.ids[:, 0]
            frozen[:, : window - stride] = True
        allowed = None if canvas.allowed is None else canvas.allowed.at(here)
        part = Canvas(seen, frozen, (canvas.padding | ended)[:, here], allowed)
        part_keys = rng.fold_in(keys, number) if number else keys
        whole = partial(_whole, start=start, first=int(number > 0))  # not the slot of <s>

        nothing = torch.zeros_like(canvas.frozen)
        for step in denoise(part, denoiser, make_sampler(), sampling, part_keys):
            if number and step.index == 0:
                continue
            text = whole(ids, step.ids)
            gone = ended | whole(nothing, step.padding)
            if end_id is not None:
                over = ((text == end_id) & ~canvas.frozen).any(1) & ~step.masked.any(1)
                gone[:, start + window :] |= over[:, None]
            flags = {name: getattr(step, name) for name in FLAGS}
            flags = {
                name: None if flag is None else whole(nothing, flag) for name, flag in flags.items()
            }
            last = Step(
                index=index + step.index,
                total=step.total if len(starts) == 1 else None,
                nfe=nfe + step.nfe,
                ids=text,
                frozen=canvas.frozen | gone,
                padding=canvas.padding | gone,
                masked=denoiser.noise.noisy(text) & ~canvas.frozen & ~gone,
                # What was written in an earlier window is frozen in this one, and has no value.
                confidence=whole(
                    confidence, torch.where(frozen, confidence[:, here], step.confidence)
                ),
                seconds=seconds + step.seconds,
                slots=slots + step.slots,
                guesses=step.guesses
                and (whole(ids, step.guesses[0]), whole(confidence, step.guesses[1])),
                typed=canvas.typed,
                **flags,
            )
            yield last
        ids, confidence, nfe, slots = last.ids, last.confidence, last.nfe, last.slots
        index, seconds = last.index, last.seconds
        ended = last.padding & ~canvas.padding


def _whole(base: Tensor, values: Tensor, start: int, first: int) -> Tensor:
    """``base`` (B, L) with the ``values`` of a window, from its ``first`` on, in their place."""
    out = base.clone()
    out[:, start + first : start + values.shape[1]] = values[:, first:]
    return out
