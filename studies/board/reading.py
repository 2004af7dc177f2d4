"""How likely a model finds each of several texts, by each way in which it reads."""

import re
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.cli.console import progress
from diffusion.collator import StreamCollator
from diffusion.editing.canvases import bounds_of
from diffusion.errors import UserError
from diffusion.likelihood import causal_nll, ordered_nll, stream_bound
from diffusion.models import loading
from diffusion.models.backbone import Backbone
from diffusion.models.layouts import arrange
from studies.board.scorer import is_causal, scored_model


class LeftToRight(Backbone):
    """A model with causal attention, where each token is predicted one slot before it."""

    shift = True


def reads(writer, by: str) -> bool:
    """Whether a masked model was trained for a way of reading."""
    layouts = loading.diffusion_settings(writer.denoiser.backbone.config).get("layouts", {})
    return by in ("bound", "order") or writer.blocks or (by == "causal" and "causal" in layouts)


def check_way(writer, by: str) -> None:
    """Refuse a way of reading that is none, or that a model was not trained for."""
    if not re.fullmatch("bound|order|causal|block[1-9][0-9]{0,5}", by):
        raise UserError(f"by={by} is unknown; use bound, order, causal, or blockN (block4)")
    if is_causal(writer):
        if by != "causal":
            raise UserError(f"{writer.name} reads from left to right alone; use by=causal")
        return
    if not reads(writer, by):
        raise UserError(f"{writer.name} was never trained for by={by}; use by=bound or by=order")


def nats(
    writer,
    rows: Sequence[list[int]],
    given: Sequence[int],
    by: str,
    draws: int = 16,
    batch_size: int = 16,
    seed: int = 0,
) -> list[float]:
    """-log p of each of several texts, of its tokens after the first ``given`` ones, in nats.

    Args:
        rows: token ids, ``<s>`` first.
        by: ``order``: exact, on the full canvas from left to right, a pass for each token; ``causal``:
            exact, with causal attention; ``bound`` and ``blockN``: the bounds of the full canvas and of
            blocks of N tokens after the context, from so many ``draws`` of masks, the same ones
            for all texts of a length.
    """
    if by == "bound":
        settings = {"draws": draws, "batch_size": batch_size, "seed": seed, "on_batch": progress}
        return [b.nats for b in bounds_of(writer, rows, given, [""] * len(rows), **settings)]
    alike, found = defaultdict(list), [0.0] * len(rows)
    for number, (ids, first) in enumerate(zip(rows, given, strict=True)):
        alike[len(ids), first].append(number)
    model, done = scored_model(writer), 0
    sizes = torch.ones(model.config.vocab_size)  # bytes are not needed
    for (length, first), numbers in alike.items():
        texts = torch.tensor([rows[n] for n in numbers], device=writer.device)
        scored = torch.arange(length, device=writer.device).ge(first).expand(texts.shape)
        if by == "causal":
            each = causal_nll(LeftToRight(model), texts, scored, sizes, batch_size=batch_size)
            each = each.by_block
        elif by == "order":
            denoiser = writer.denoiser
            each = ordered_nll(
                denoiser.reader, texts, scored, denoiser.noise, sizes, batch_size=batch_size
            ).by_block
        else:
            each = _by_blocks(writer, texts, first, by, sizes, draws, batch_size, seed)
        for number, value in zip(numbers, each, strict=True):
            found[number] = value * (length - first)
        done += len(numbers)
        progress(done, len(rows), "text")
    return found


def _by_blocks(
    writer, texts: Tensor, first: int, layout: str, sizes: Tensor, draws: int, batch_size: int, seed
) -> list[float]:
    """Nats per token of each of ``texts`` (N, L) from its token ``first`` on."""
    backbone, noise = writer.denoiser.backbone, writer.denoiser.noise
    fixed = [writer.tokenizer.bos_token_id]
    collate = StreamCollator(
        noise, fixed, first, layout, backbone.shift, 0.0, seed=seed, global_batch=draws
    )
    place = backbone.model.dtype, texts.device
    slots = arrange(layout, texts.shape[1], first, backbone.shift, *place)
    return [
        stream_bound(
            backbone, text.expand(draws, -1), collate, slots, sizes, batch_size=batch_size
        ).nats_per_token
        for text in texts
    ]
