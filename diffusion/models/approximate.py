"""Keys and values that are kept on a canvas whose positions all see each other (Fast-dLLM,
arXiv:2505.22618).

A slot of such a canvas changes with every token that is written anywhere, so what is kept grows
stale: fewer slots are computed, and the logits are not quite those of the whole canvas. When a block
begins, and again every so many passes, all is computed; between that, the block alone (*dual*), or
the block and all behind it (*prefix*).
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.canvas import Canvas, Query
from diffusion.models.encoder import read_at
from diffusion.models.families import first_position
from diffusion.models.guidance import Wrapped


@dataclass(frozen=True)
class Plan:
    """What a pass computes, (R,) each.

    Attributes:
        rows: their numbers on the canvas.
        block: the block that is written.
        whole: bool, the whole canvas is computed and kept anew.
        begin, end: the first slot that is computed, and the first one behind those.
    """

    rows: Tensor
    block: Tensor
    whole: Tensor
    begin: Tensor
    end: Tensor


class Approximate(Wrapped):
    """A masked LM that reads the whole canvas and computes a part of it: the same contract as
    `Denoiser`.

    What is to be written stands behind what is given. Rows may be at different blocks; all positions
    asked for in one row must be of one block.

    Args:
        denoiser: a `Denoiser` whose backbone has `Backbone.keeps`.
        block_length: tokens of a block, counted from the first one to be written.
        dual: keep what is behind the block, too.
        refresh: passes over a block from one of the whole canvas to the next; None: one a block.
    """

    def __init__(self, denoiser, block_length: int, dual: bool, refresh: int | None = None):
        super().__init__(denoiser)
        self.block_length, self.dual, self.refresh = block_length, dual, refresh

    def start(self, canvas: Canvas) -> "Approximate":
        other = copy.copy(self)
        editable = ~canvas.frozen & ~canvas.padding
        length = canvas.ids.shape[1]
        number = torch.arange(length, device=editable.device)
        other.first = torch.where(editable, number, length).amin(1)  # (B,)
        other.length = (~canvas.padding).sum(1)
        other.block = torch.full_like(other.first, -1)  # (B,) of the last pass
        other.age = torch.zeros_like(other.first)  # (B,) passes since all was computed, with that
        other.kept = []  # of each layer keys and values, (2, B, H, L + 1, d / H)
        return other

    def _plan(self, query: Query) -> Plan:
        rows, device = query.rows, query.ids.device
        rows = torch.arange(len(query.ids), device=device) if rows is None else rows
        first, length = self.first[rows], self.length[rows]
        block = (query.query_mask.int().argmax(1) - first) // self.block_length
        whole = block != self.block[rows]
        if self.refresh is not None:
            whole = whole | (self.age[rows] >= self.refresh)
        start = first + block * self.block_length
        # A shifted model reads the first token of the block at the slot before.
        begin = torch.where(whole, 0, start - int(self.denoiser.backbone.shift))
        end = (start + self.block_length).minimum(length) if self.dual else length
        return Plan(rows, block, whole, begin, torch.where(whole, length, end))

    def scope(self, query: Query) -> Tensor:
        """(R, L) the block."""
        plan = self._plan(query)
        start = self.first[plan.rows] + plan.block * self.block_length
        end = (start + self.block_length).minimum(self.length[plan.rows])
        column = torch.arange(query.ids.shape[1], device=end.device)
        return (column >= start[:, None]) & (column < end[:, None])

    def slots(self, query: Query) -> Tensor:
        plan = self._plan(query)
        return plan.end - plan.begin

    def __call__(self, query: Query) -> Tensor:
        """Logits (N, V) in the model's number format, -inf where forbidden."""
        if (query.query_mask & ~self.scope(query)).any():
            raise ValueError("a pass predicts positions of one block")
        plan = self._plan(query)
        row, slot = query.query_mask.nonzero().unbind(1)
        slot = slot - int(self.denoiser.backbone.shift)
        parts, order = [], []
        for some in (plan.whole, ~plan.whole):  # apart, or the short rows would cost as the long
            if some.any():
                here = some[row]
                number = (some.cumsum(0) - 1)[row[here]]
                parts.append(self._hidden(query.ids, plan, some, number, slot[here]))
                order.append(here.nonzero()[:, 0])
        self.block[plan.rows] = plan.block
        self.age[plan.rows] = torch.where(plan.whole, 1, self.age[plan.rows] + 1)
        logits = self.denoiser.backbone.head(torch.cat(parts)[torch.cat(order).argsort()])
        return logits.index_fill_(1, self.denoiser.forbidden, -torch.inf)

    def _hidden(self, ids: Tensor, plan: Plan, some: Tensor, row: Tensor, slot: Tensor) -> Tensor:
        """Hidden states (n, d) at n slots, ``row`` (n,) being counted among ``some`` (R,) rows."""
        backbone, rows, begin = self.denoiser.backbone, plan.rows[some], plan.begin[some]
        end, length, total = plan.end[some], self.length[rows], ids.shape[1]
        place = begin[:, None] + torch.arange(int((end - begin).max()), device=ids.device)
        # Shorter rows are filled up; the last column takes what nobody reads.
        column = torch.where(place < end[:, None], place, total)
        place = place.clamp(max=total - 1)
        which = slice(None) if len(rows) == len(self.first) else rows  # a view, where it can be one

        def keep(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            if layer == len(self.kept):
                shape = 2, len(self.first), key.shape[2], total + 1, key.shape[3]
                self.kept.append(key.new_zeros(shape))
            for part, new in zip(self.kept[layer], (key, value), strict=True):
                part[rows[:, None], :, column] = new
            return tuple(part[which, :, :total] for part in self.kept[layer])

        seen = torch.arange(total, device=ids.device) < length[:, None]
        read, at = read_at(row, slot - begin[row], len(rows))
        inputs = {"input_ids": ids[some].gather(1, place), "inputs_embeds": None}
        seen = None if seen.all() else seen[:, None, None]
        positions = place + first_position(backbone.config)
        return backbone.encoder(inputs, positions, keep, seen, read)[at]
