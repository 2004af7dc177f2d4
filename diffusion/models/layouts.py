"""Which slots a forward pass has, and which of them each slot sees: block diffusion in two streams.

A canvas of L tokens, ``<s>`` first, can be read in three layouts:

- ``full``: L slots that all see each other.
- ``causal``: L slots, each of which sees itself and what is before it.
- ``blockN``: a *clean stream*, the causal layout of the true text, and a *noisy stream* that holds
  each block of N tokens with some of them masked. A noisy slot sees the clean slots before its
  block, and all slots of its block (BD3-LM, arXiv:2503.09573). Keys and values of the clean stream
  depend on no block size, and are what a cache may keep.

The clean stream predicts token i at slot i - 1. In the noisy stream a *shifted* model (see `Backbone`)
does so, too: a block of tokens s..e-1 has slots for s-1..e-1, of which the first holds the true token
s - 1. Other models have slots for s..e-1.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
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
        groups: the same, without most of what no slot sees.
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
    """The slots of ``causal`` or ``blockN``, built once for each set of arguments.

    Args:
        length: tokens L of the canvas.
        first: position of the first token that is in a block; all before it is prompt.
        shift: whether the model is a shifted one.
    """
    size = block_size(layout)
    starts = list(range(first, length, size)) if size else []
    blocks, total = [], length  # per block: first slot, position it shows, position after its last
    for start in starts:
        front, end = max(0, start - int(shift)), min(start + size, length)
        blocks.append((total, front, end))
        total += end - front

    place = torch.cat([torch.arange(length), *(torch.arange(a, b) for _, a, b in blocks)])
    noisy = torch.zeros(total, dtype=torch.bool)
    clean_read = torch.arange(-1, length - 1)
    noisy_read = torch.full((length,), -1)
    seen = torch.ones(total, total, dtype=torch.bool).tril()
    for (slot, front, end), start in zip(blocks, starts, strict=True):
        own = slice(slot, slot + end - front)
        noisy[slot + start - front : own.stop] = True
        noisy_read[start:end] = slot + torch.arange(start, end) - front - int(shift)
        seen[own, front:] = False
        seen[own, own] = True
    noisy_read[noisy_read < length] = -1  # position 0 has no slot before it

    bias = torch.zeros(total, total, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    bias = bias.to(device)[None, None]
    # Where the blocks are divided into groups: after so many. A plain triangle is fastest whole.
    parts = max(1, round(length / _GROUP)) if blocks else 1
    near = [length * part // parts + (size or 0) // 2 for part in range(1, parts)]
    cuts = {sum(end <= most for _, _, end in blocks) for most in near}
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
    tensors = (tensor.to(device) for tensor in (place, noisy, clean_read, noisy_read))
    return Slots(*tensors, bias, tuple(groups))


def _attend(query, key, value, bias, scaling: float, dropout: float) -> Tensor:
    """Attention of (B, H, Q, d) to (B, H, K, d)."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout, scale=scaling
        )
    # Three times faster than with autocast's softmax in float32; inside it sums in float32 anyway.
    with torch.autocast("cpu", enabled=False):
        scores = (query * scaling) @ key.transpose(2, 3)
        weights = (scores if bias is None else scores.add_(bias)).softmax(-1)
        return F.dropout(weights, dropout) @ value


def _join(parts: list[Tensor]) -> Tensor:
    """One part stays a view: a copy of it is multiplied in another order."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def layout_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, layout=None, **kwargs
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


# ---------------------------------------------------------------- slots of a pass that writes


@dataclass(frozen=True)
class BlockSlots:
    """S slots for a part of each of R rows.

    Attributes:
        place: (R, S) positions on the canvas.
        hidden: (R, S) bool, slots that show noise whatever token is there.
        seen: (R, S, S) bool, which slots each slot sees.
        read: (R, L) the slot that predicts each position; of no use outside the block.
    """

    place: Tensor
    hidden: Tensor
    seen: Tensor
    read: Tensor


def block_slots(
    first: Tensor,
    end: Tensor,
    length: int,
    shift: bool,
    shadows: Tensor | None = None,
    padding: Tensor | None = None,
) -> BlockSlots:
    """Slots of the positions ``first`` (R,) to ``end`` (R,) - 1 of a canvas of L, which see each
    other, and those of their shadows (WINO, arXiv:2507.18578).

    After the block follows, for each position of ``shadows`` (R, L), a mask with the same position id,
    which sees itself and the block without that one slot, and is seen by nothing. Of a shifted model a
    shadow is a pair, the token of slot i - 1 and a mask for slot i, which see each other and the block
    without those two. In deeper layers than the first the other slots have seen the token, and pass it
    on to the shadow (two hops); without that, each position would need its own forward pass.
    """
    device, rows = first.device, len(first)
    width = int((end - first).max())
    column = torch.arange(length, device=device)
    place = first[:, None] + torch.arange(width, device=device)
    real = place < end[:, None]
    place = place.clamp(max=length - 1)
    if padding is not None:
        real &= ~padding.gather(1, place)
    read = (column - int(shift) - first[:, None]).clamp(0, width - 1)
    hidden = torch.zeros_like(real)
    seen = real[:, None].expand(-1, width, -1)
    if shadows is None or not shadows.any():
        return BlockSlots(place, hidden, seen, read)
    count = int(shadows.sum(1).max())
    # (R, K) the positions that have a shadow, then others to fill the row.
    own = (~shadows).long().argsort(dim=1, stable=True)[:, :count]
    copies = [(own - 1).clamp(min=0), own] if shift else [own]
    group = torch.arange(count, device=device).repeat(len(copies))
    more = real[:, None].repeat(1, len(group), 1)
    for one in copies:  # the one slot or the two that a shadow replaces
        more &= one.repeat(1, len(copies))[..., None] != place[:, None]
    friends = (group[:, None] == group).expand(rows, -1, -1)
    block = torch.cat([seen, seen.new_zeros(rows, width, len(group))], 2)
    seen = torch.cat([block, torch.cat([more, friends], 2)], 1)
    after = torch.arange(width, width + count, device=device).expand(rows, -1)
    taken = shadows.gather(1, own)
    read = read.scatter(1, own, torch.where(taken, after, read.gather(1, own)))
    hidden = torch.cat([hidden, hidden.new_zeros(rows, len(group) - count)], 1)
    hidden = torch.cat([hidden, hidden.new_ones(rows, count)], 1)
    return BlockSlots(torch.cat([place, *copies], 1), hidden, seen, read)
