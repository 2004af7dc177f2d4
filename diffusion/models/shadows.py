"""Slots of a block, and of shadow copies: predictions that do not look at the token they judge."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BlockSlots:
    """S slots for a part of each of R rows.

    Attributes:
        place: (R, S) positions on the canvas.
        hidden: (R, S) bool, slots that show noise whatever stands there.
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

    Behind the block stands, for each position of ``shadows`` (R, L), a mask with the same position
    id. It sees the block without that one slot and itself; nothing sees it, so the other
    predictions are what they are without shadows. A shifted model reads token i at slot i - 1,
    which sees slot i: there a shadow is a pair, the token of slot i - 1 and a mask for slot i,
    which see each other and the block without those two slots.

    The first layer of a shadow is that of a canvas with a mask at the position. In deeper layers
    the other slots have seen the token, and what they know of it reaches the shadow (two hops).
    Without that, each position would need its own forward pass.
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
    seen = torch.cat(
        [
            torch.cat([seen, seen.new_zeros(rows, width, len(group))], 2),
            torch.cat([more, friends], 2),
        ],
        1,
    )
    behind = torch.arange(width, width + count, device=device).expand(rows, -1)
    taken = shadows.gather(1, own)
    read = read.scatter(1, own, torch.where(taken, behind, read.gather(1, own)))
    hidden = torch.cat([hidden, hidden.new_zeros(rows, len(group) - count)], 1)
    hidden = torch.cat([hidden, hidden.new_ones(rows, count)], 1)
    return BlockSlots(torch.cat([place, *copies], 1), hidden, seen, read)
