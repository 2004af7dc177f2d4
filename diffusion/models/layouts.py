"""Where tokens stand in a forward pass, and what sees what: block diffusion in two streams.

A canvas of L tokens, ``<s>`` first, can be read in three layouts:

- ``full``: L slots that all see each other, the canvas as it stands. It needs nothing from here.
- ``causal``: L slots, each of which sees itself and what is before it.
- ``blockN``: a *clean stream*, the causal layout of the true text, and a *noisy stream* that holds
  each block of N tokens with some of them masked. A noisy slot sees the clean slots before its
  block, and all slots of its block (BD3-LM, arXiv:2503.09573). Keys and values of the clean stream
  depend on no block size, and are what a cache may keep.

The clean stream predicts token i at slot i - 1, whatever the model. In the noisy stream a *shifted*
model (see `Backbone`) does so, too: there a block of tokens s..e-1 has slots for s-1..e-1, of which
the first holds the true token s - 1. A model that predicts at the token's own slot has s..e-1.

Biases are built once for a layout and its length, number format and device, and have neither a
batch nor a head dimension.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

ATTENTION = "layouts"  # for model.set_attn_implementation
_GROUP = 128  # canvas positions of a group, about; measured on a CPU at 256 tokens


@dataclass(frozen=True)
class Group:
    """Queries that share their keys: a run of the canvas in both streams, as slices of slots."""

    queries: tuple[slice, ...]
    keys: tuple[slice, ...]
    bias: Tensor  # (1, 1, queries, keys)


@dataclass(frozen=True)
class Slots:
    """One layout of S slots.

    Attributes:
        place: (S,) the position on the canvas of each slot.
        noisy: (S,) bool, slots that show the noisy canvas; the others show the true text.
        clean_read, noisy_read: (L,) the slot that predicts each token, -1 where none does.
        bias: (1, 1, S, S), 0 where a slot sees another one, the smallest number elsewhere.
        groups: the same, without most of what nobody sees.
    """

    place: Tensor
    noisy: Tensor
    clean_read: Tensor
    noisy_read: Tensor
    bias: Tensor
    groups: tuple[Group, ...]

    def fill(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """The ids (B, S) of the slots for canvases (B, L)."""
        return torch.where(self.noisy, noisy[:, self.place], clean[:, self.place])


def block_size(layout: str) -> int | None:
    """16 for ``block16``; None for the layouts without blocks."""
    return int(layout.removeprefix("block")) if layout.startswith("block") else None


@functools.lru_cache(maxsize=64)
def arrange(
    layout: str,
    length: int,
    first: int = 1,
    shift: bool = True,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Slots:
    """The slots of ``causal`` or ``blockN``.

    Args:
        length: tokens L of the canvas.
        first: position of the first token that is in a block; what is before it is always given.
        shift: whether the model is a shifted one.
    """
    size = block_size(layout)
    starts = list(range(first, length, size)) if size else []
    ends = [min(start + size, length) for start in starts]
    # Per block: (first slot, position it shows, position one behind its last).
    blocks, total = [], length
    for start, end in zip(starts, ends, strict=True):
        front = max(0, start - int(shift))
        blocks.append((total, front, end))
        total += end - front

    place = torch.cat([torch.arange(length), *(torch.arange(a, b) for _, a, b in blocks)])
    noisy = torch.zeros(total, dtype=torch.bool)
    clean_read = torch.arange(-1, length - 1)
    noisy_read = torch.full((length,), -1)
    seen = torch.zeros(total, total, dtype=torch.bool)
    seen[:length, :length] = torch.ones(length, length, dtype=torch.bool).tril()
    for (slot, front, end), start in zip(blocks, starts, strict=True):
        width = end - front
        noisy[slot + start - front : slot + width] = True
        noisy_read[start:end] = slot + torch.arange(start, end) - front - int(shift)
        seen[slot : slot + width, :front] = True
        seen[slot : slot + width, slot : slot + width] = True
    noisy_read[noisy_read < length] = -1  # position 0 has no slot before it

    bias = torch.zeros(total, total, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    bias = bias.to(device)[None, None]
    # Where the blocks are divided into groups: after so many. A plain triangle is fastest whole.
    parts = max(1, round(length / _GROUP)) if blocks else 1
    near = [length * part // parts + (size or 0) // 2 for part in range(1, parts)]
    cuts = {sum(behind <= most for _, _, behind in blocks) for most in near}
    groups, begin, block = [], 0, 0
    for cut in sorted({*cuts, len(blocks)} - {0}) or [0]:
        end = length if cut == len(blocks) else blocks[cut - 1][2]
        queries, keys = [slice(begin, end)], [slice(0, end)]
        if blocks:
            until = total if cut == len(blocks) else blocks[cut][0]
            queries.append(slice(blocks[block][0], until))
            keys.append(queries[1])
        rows = torch.cat([bias[:, :, part] for part in queries], 2)
        rows = torch.cat([rows[..., part] for part in keys], 3).contiguous()
        groups.append(Group(tuple(queries), tuple(keys), rows))
        begin, block = end, cut
    place, noisy, clean_read, noisy_read = (
        tensor.to(device) for tensor in (place, noisy, clean_read, noisy_read)
    )
    return Slots(place, noisy, clean_read, noisy_read, bias, tuple(groups))


def _attend(query, key, value, bias, scaling: float, dropout: float) -> Tensor:
    """Attention of (B, H, Q, d) to (B, H, K, d)."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout, scale=scaling
        )
    # Autocast would have the softmax in float32, of which only the bfloat16 part is used; inside
    # it sums in float32 anyway. This is three times faster.
    with torch.autocast("cpu", enabled=False):
        scores = (query * scaling) @ key.transpose(2, 3)
        weights = (scores if bias is None else scores.add_(bias)).softmax(-1)
        return F.dropout(weights, dropout) @ value


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def layout_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Slots | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """An attention of transformers, for ``set_attn_implementation``: group by group where the
    forward pass has a ``layout``, else as usual."""
    scaling = scaling or query.shape[-1] ** -0.5
    if layout is None:
        return _attend(query, key, value, attention_mask, scaling, dropout).transpose(1, 2), None
    clean, noisy = [], []
    for group in layout.groups:
        q, k, v = (
            _join([states[:, :, part] for part in parts])
            for states, parts in ((query, group.queries), (key, group.keys), (value, group.keys))
        )
        out = _attend(q, k, v, group.bias, scaling, dropout)
        first = group.queries[0]
        clean.append(out[:, :, : first.stop - first.start])
        noisy.append(out[:, :, first.stop - first.start :])
    return torch.cat(clean + noisy, 2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, layout_attention)
