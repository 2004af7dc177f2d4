"""Writing block by block from left to right, with keys and values kept: exactly in the layout of
block attention (BD3-LM, arXiv:2503.09573), or approximately on the full canvas (Fast-dLLM,
arXiv:2505.22618)."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion.canvas import Canvas, Query
from diffusion.models.backbone import Backbone
from diffusion.models.encoder import read_at
from diffusion.models.guidance import Wrapped
from diffusion.models.layouts import block_slots
from diffusion.models.soft import blend

# The last layer computes all of so many slots, or fewer: to pick those that are read would cost more.
FEW = 64


class Kept:
    """Keys and values of B rows, by layer: tensors (2, B, H, columns, d / H) that grow when needed."""

    def __init__(self, rows: int):
        self.rows = rows
        self.layers: list[Tensor] = []

    def at(self, rows: Tensor, columns: Tensor, last: int, room: int) -> Callable:
        """What `Encoder` calls in each layer of a pass over the R ``rows``, which keeps the keys and
        values of the slots at ``columns`` (R, S) of ``room``, -1 being for those that nobody reads, and
        attends to the first ``last``."""
        some = slice(None) if len(rows) == self.rows else rows  # a view, where it can be one

        def keep(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            if layer == len(self.layers):
                self.layers.append(key.new_empty(2, self.rows, key.shape[2], 0, key.shape[3]))
            kept = self.layers[layer]
            if kept.shape[3] < room:  # zeros: nothing may come of what a slot does not see
                more = kept.new_zeros(*kept.shape[:3], room - kept.shape[3], kept.shape[4])
                self.layers[layer] = kept = torch.cat([kept, more], 3)
            for part, new in zip(kept, (key, value), strict=True):
                part[rows[:, None], :, columns] = new
            return tuple(part[some, :, :last] for part in kept)

        return keep


class CleanStream:
    """The clean stream of B rows of L tokens (see `layouts`): a slot of it sees itself and what is
    before it, so its keys and values never change and are kept.

    Args:
        keep: False computes everything anew in each pass, with identical output; so do models that
            `Encoder` does not know.
    """

    def __init__(self, backbone: Backbone, rows: int, length: int, keep: bool = True):
        self.backbone, self.rows, self.length = backbone, rows, length
        self.keep = keep and backbone.keeps
        self.device = next(backbone.parameters()).device
        # (B,) how many slots of each row are kept.
        self.done = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._kept = Kept(rows)
        self._spare = 0  # columns for the noisy slots of a pass

    def missing(self, rows: Tensor, until: Tensor) -> Tensor:
        """(R,) clean slots that a pass to ``until`` (R,) has to compute."""
        return until - self.done[rows] if self.keep else until

    def run(
        self,
        rows: Tensor,
        ids: Tensor,
        until: Tensor,
        noisy: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
        clean_at: tuple[Tensor, Tensor] | None = None,
        noisy_at: tuple[Tensor, Tensor] | None = None,
        embeds: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (N, d), for the head, of one forward pass over R of the rows.

        Args:
            rows: (R,) their numbers.
            ids: (R, L) the true text as far as it is known.
            until: (R,) the first clean slot that is not computed.
            noisy: of S noisy slots their ids, their places on the canvas and how many clean slots
                they see, (R, S) each, and what they see of one another (R, S, S).
            clean_at, noisy_at: where they are read, in this order: (rows of the R, places on the
                canvas), (rows of the R, noisy slots).
            embeds: (R, S, d) word embeddings of the noisy slots, instead of those of their ids.
        """
        if not self.keep:
            self.done[rows] = 0
        begin = self.done[rows]
        count, width = torch.stack([until - begin, until]).amax(1).tolist()  # at once
        column = torch.arange(width, device=self.device)
        place = begin[:, None] + torch.arange(count, device=self.device)
        columns = torch.where(place < until[:, None], place, -1)  # shorter rows are filled up
        shown = ids.gather(1, place.clamp(max=ids.shape[1] - 1))
        sees, extra = column <= place[..., None], 0
        if noisy is not None:
            noisy_ids, noisy_place, seen, among = noisy
            extra = noisy_ids.shape[1]
            shown, place = torch.cat([shown, noisy_ids], 1), torch.cat([place, noisy_place], 1)
            sees = torch.cat([sees, column < seen[..., None]], 1)
            others = torch.cat([among.new_zeros(len(rows), count, extra), among], 1)
            sees = torch.cat([sees, others], 2)
            own = torch.arange(width, width + extra, device=self.device).expand(len(rows), -1)
            columns = torch.cat([columns, own], 1)
        self._spare = max(self._spare, extra)
        room = self.length + self._spare + 1
        if embeds is not None:
            table = self.backbone.model.get_input_embeddings()
            embeds = torch.cat([table(shown[:, :count]), embeds], 1)
        at = []
        if clean_at is not None:
            at.append((clean_at[0], clean_at[1] - begin[clean_at[0]]))
        if noisy_at is not None:
            at.append((noisy_at[0], noisy_at[1] + count))
        at, read = tuple(torch.cat(parts) for parts in zip(*at, strict=True)), None
        if self.backbone.keeps and shown.numel() > FEW:
            read, at = read_at(*at, len(rows))
        keep = self._kept.at(rows, columns, width + extra, room)
        place = place.clamp(max=self.length - 1)
        sees = None if sees.all() else sees
        hidden = self.backbone.at_slots(shown, place, keep, sees, read, embeds)
        self.done[rows] = until
        return hidden[at]


class Blockwise(Wrapped):
    """A masked LM that writes block by block: the same contract as `Denoiser`. Rows may be at
    different blocks; all queried positions of one row are in one block of ``block_length`` tokens,
    counted from the first one to be written; 0: all of them."""

    def __init__(self, denoiser, block_length: int):
        super().__init__(denoiser)
        self.block_length = block_length
        self.shift = int(denoiser.backbone.shift)

    def start(self, canvas: Canvas) -> "Blockwise":
        other = copy.copy(self)
        editable = ~canvas.frozen & ~canvas.padding
        length = canvas.ids.shape[1]
        number = torch.arange(length, device=editable.device)
        other.first = torch.where(editable, number, length).amin(1)  # (B,)
        other.end = torch.where(editable, number + 1, 0).amax(1)
        return other

    def blocks(self, query: Query) -> tuple[Tensor, Tensor, Tensor]:
        """(R,) each: numbers of the rows, the first token of the block, and its end."""
        rows, device = query.rows, query.ids.device
        rows = torch.arange(len(query.ids), device=device) if rows is None else rows
        first, end = self.first[rows], self.end[rows]
        size = self.block_length or int((end - first).max())
        start = first + (query.query_mask.int().argmax(1) - first) // size * size
        return rows, start, (start + size).minimum(end)

    def scope(self, query: Query) -> Tensor:
        """(R, L) the block."""
        _, start, end = self.blocks(query)
        column = torch.arange(query.ids.shape[1], device=end.device)
        return (column >= start[:, None]) & (column < end[:, None])

    def __call__(self, query: Query) -> Tensor:
        """Logits (N, V) in the model's number format, -inf where forbidden."""
        if (query.query_mask & ~self.scope(query)).any():
            raise ValueError("a pass predicts positions of one block")
        logits = self.denoiser.backbone.head(self.hidden(query))
        return logits.index_fill_(1, self.denoiser.forbidden, -torch.inf)


class InBlocks(Blockwise):
    """Block attention, exact: a forward pass computes the clean slots that are not kept yet, as a rule
    those of the block just finished, and the noisy slots of the block; nothing else of the canvas.

    Args:
        keep: see `CleanStream`.
        clean: predict from the clean stream, one token at a time: autoregressively.
    """

    def __init__(self, denoiser, block_length: int, keep: bool = True, clean: bool = False):
        super().__init__(denoiser, 1 if clean else block_length)
        self.keep, self.clean = keep, clean

    def start(self, canvas: Canvas) -> "InBlocks":
        other = super().start(canvas)
        other.stream = CleanStream(self.denoiser.backbone, *canvas.ids.shape, self.keep)
        return other

    def slots(self, query: Query) -> Tensor:
        rows, start, end = self.blocks(query)
        if self.clean:
            return self.stream.missing(rows, start)
        until = start - self.shift
        shadows = 0
        if query.shadows is not None:
            shadows = query.shadows.sum(1) * (1 + self.shift)
        return self.stream.missing(rows, until) + end - until + shadows

    def hidden(self, query: Query) -> Tensor:
        """Hidden states (N, d) at the queried positions."""
        rows, start, end = self.blocks(query)
        if self.clean:
            row = torch.arange(len(rows), device=rows.device)
            return self.stream.run(rows, query.ids, start, clean_at=(row, start - 1))
        until = start - self.shift
        block = block_slots(until, end, query.ids.shape[1], bool(self.shift), query.shadows)
        ids = self.noise.corrupt(query.ids.gather(1, block.place), block.hidden)
        embeds = None
        if query.feedback is not None:
            memory = query.feedback.gathered(block.place, block.hidden)
            memory = memory.take(self.noise.noisy(ids))
            embeds = blend(self.denoiser.table, ids, self.noise, memory)
        noisy = ids, block.place, until[:, None].expand_as(ids), block.seen
        row, place = query.query_mask.nonzero().unbind(1)
        at = row, block.read[row, place]
        return self.stream.run(rows, query.ids, until, noisy, noisy_at=at, embeds=embeds)


class Verifying(InBlocks):
    """`InBlocks` that also reads what is written: queries of visible tokens, of a block without masks, are
    answered by the clean stream, given the tokens before each. A pass does one or the other."""

    def reads(self, query: Query) -> bool:
        """Whether the tokens there are read, not the masks predicted."""
        return not (query.query_mask & self.noise.noisy(query.ids)).any()

    def begin(self, rows: Tensor, start: Tensor) -> Tensor:
        """(R,) clean slots that stay: that before the block predicts its first token."""
        return self.stream.done[rows].minimum(start - 1)

    def slots(self, query: Query) -> Tensor:
        if not self.reads(query):
            return super().slots(query)
        rows, start, end = self.blocks(query)
        return end - 1 - (self.begin(rows, start) if self.keep else 0)

    def hidden(self, query: Query) -> Tensor:
        """Hidden states (N, d) for the predictions of the queried positions."""
        if not self.reads(query):
            return super().hidden(query)
        rows, start, end = self.blocks(query)
        row, place = query.query_mask.nonzero().unbind(1)
        self.stream.done[rows] = self.begin(rows, start)
        hidden = self.stream.run(rows, query.ids, end - 1, clean_at=(row, place - 1))
        self.stream.done[rows] = start - self.shift  # the block may still change
        return hidden


class Approximate(Blockwise):
    """Full attention, approximately: a slot changes with every token that is written anywhere, so what
    is kept grows stale. When a block begins, and again every ``refresh`` passes, the whole canvas is
    computed; between that, the block alone (*dual*), or the block and everything after it (*prefix*).

    Args:
        denoiser: a `Denoiser` whose backbone has `Backbone.keeps`.
        dual: keep what is after the block, too.
        refresh: passes over a block from one of the whole canvas to the next; None: one a block.
    """

    def __init__(self, denoiser, block_length: int, dual: bool, refresh: int | None = None):
        super().__init__(denoiser, block_length)
        self.dual, self.refresh = dual, refresh

    def start(self, canvas: Canvas) -> "Approximate":
        other = super().start(canvas)
        other.length = (~canvas.padding).sum(1)
        other.block = torch.full_like(other.first, -1)  # (B,) of the last pass
        other.age = torch.zeros_like(other.first)  # (B,) passes since all was computed, with that
        other.kept = Kept(len(canvas.ids))
        return other

    def _plan(self, query: Query) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(R,) each: numbers of the rows, the first token of the block, whether the whole canvas is
        computed, the first slot that is computed, and the end of those slots."""
        rows, start, end = self.blocks(query)
        whole = start != self.block[rows]
        if self.refresh is not None:
            whole = whole | (self.age[rows] >= self.refresh)
        # A shifted model reads the first token of the block at the slot before.
        begin, length = torch.where(whole, 0, start - self.shift), self.length[rows]
        return rows, start, whole, begin, torch.where(whole | (not self.dual), length, end)

    def slots(self, query: Query) -> Tensor:
        *_, begin, end = self._plan(query)
        return end - begin

    def hidden(self, query: Query) -> Tensor:
        """Hidden states (N, d) at the queried positions."""
        rows, block, whole, begin, end = self._plan(query)
        row, slot = query.query_mask.nonzero().unbind(1)
        slot = slot - self.shift
        parts, order = [], []
        for chosen in (whole, ~whole):  # apart, or the short rows would cost as the long
            some = chosen.nonzero()[:, 0]
            if len(some):
                here = chosen[row].nonzero()[:, 0]
                at = (chosen.cumsum(0) - 1)[row[here]], slot[here]
                parts.append(self._pass(query.ids[some], rows[some], begin[some], end[some], at))
                order.append(here)
        self.block[rows], self.age[rows] = block, torch.where(whole, 1, self.age[rows] + 1)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def _pass(self, ids: Tensor, rows: Tensor, begin: Tensor, end: Tensor, at: tuple) -> Tensor:
        """Hidden states (n, d) at n slots ``at`` (row, slot) of a pass over those from ``begin`` (R,)
        to ``end`` (R,) of R rows."""
        total, (row, slot) = ids.shape[1], at
        place = begin[:, None] + torch.arange(int((end - begin).max()), device=ids.device)
        columns = torch.where(place < end[:, None], place, -1)  # shorter rows are filled up
        place = place.clamp(max=total - 1)
        seen = torch.arange(total, device=ids.device) < self.length[rows][:, None]
        seen = None if seen.all() else seen[:, None]
        read, at = read_at(row, slot - begin[row], len(rows))
        keep = self.kept.at(rows, columns, total, total + 1)
        return self.denoiser.backbone.at_slots(ids.gather(1, place), place, keep, seen, read)[at]
