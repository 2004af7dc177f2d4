"""Block attention for generation, with keys and values kept exactly (BD3-LM, arXiv:2503.09573).

The prompt and all finished blocks go through the *clean stream* once (see `layouts`): a slot of it
sees itself and what is before it, so its keys and values never change and are kept. The block that
is being written stands in the *noisy stream*, whose slots see the kept ones before the block and
one another. A forward pass computes the clean slots that are not kept yet, as a rule those of the
block just finished, and the noisy slots; nothing else of the canvas.
"""

import copy

import torch
from torch import Tensor

from diffusion.canvas import Canvas, Query
from diffusion.models.backbone import Backbone
from diffusion.models.encoder import read_at
from diffusion.models.guidance import Wrapped
from diffusion.models.shadows import block_slots
from diffusion.models.soft import blend

# The last layer computes all of so many slots, or fewer: to pick those that are read would cost more.
FEW = 64


class CleanStream:
    """The clean stream of B rows of L tokens: what is kept of it, and passes that go on from there.

    Args:
        keep: False computes everything anew in each pass: the same numbers, for who doubts, and
            for models that `Encoder` does not know.
    """

    def __init__(self, backbone: Backbone, rows: int, length: int, keep: bool = True):
        self.backbone, self.rows, self.length = backbone, rows, length
        self.keep = keep and backbone.keeps
        self.device = next(backbone.parameters()).device
        # (B,) how many slots of each row are kept.
        self.done = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._kept: list[Tensor] = []  # of each layer keys and values, (2, B, H, columns, d / H)
        self._at: tuple = ()  # of the pass that is going on: rows, columns of its slots, last column
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
            until: (R,) the first clean slot that is not wanted.
            noisy: of S noisy slots their ids, their places on the canvas and how many clean slots
                they see, (R, S) each, and what they see of one another (R, S, S).
            clean_at, noisy_at: where they are read, in this order: (rows of the R, places on the
                canvas), (rows of the R, noisy slots).
            embeds: (R, S, d) word embeddings of the noisy slots in place of those of their ids.
        """
        if not self.keep:
            self.done[rows] = 0
        begin = self.done[rows]
        count, width = int((until - begin).max()), int(until.max())
        column = torch.arange(width, device=self.device)
        place = begin[:, None] + torch.arange(count, device=self.device)
        known = place < until[:, None]  # shorter rows are filled up
        shown = ids.gather(1, place.clamp(max=ids.shape[1] - 1))
        sees = column <= place[..., None]
        extra = 0
        if noisy is not None:
            noisy_ids, noisy_place, behind, among = noisy
            extra = noisy_ids.shape[1]
            shown, where = torch.cat([shown, noisy_ids], 1), torch.cat([place, noisy_place], 1)
            sees = torch.cat([sees, column < behind[..., None]], 1)
            others = torch.cat([among.new_zeros(len(rows), count, extra), among], 1)
            sees = torch.cat([sees, others], 2)
        else:
            where = place
        self._spare = max(self._spare, extra)
        # The last column takes what nobody reads.
        columns = torch.where(known, place, -1)
        columns = torch.cat([columns, width + columns.new_zeros(len(rows), extra)], 1)
        columns[:, count:] += torch.arange(extra, device=self.device)
        whole = len(rows) == self.rows
        self._at = rows[:, None], columns, slice(None) if whole else rows, width + extra

        inputs = {"input_ids": shown}
        if embeds is not None:
            table = self.backbone.model.get_input_embeddings()
            inputs["inputs_embeds"] = torch.cat([table(shown[:, :count]), embeds], 1)
        at = []
        if clean_at is not None:
            at.append((clean_at[0], clean_at[1] - begin[clean_at[0]]))
        if noisy_at is not None:
            at.append((noisy_at[0], noisy_at[1] + count))
        at, read = tuple(torch.cat(parts) for parts in zip(*at, strict=True)), None
        if self.backbone.keeps and shown.numel() > FEW:
            read, at = read_at(*at, len(rows))
        place = where.clamp(max=self.length - 1)
        seen = None if sees.all() else sees
        hidden = self.backbone.at_slots(inputs, place, self._keep, seen, read)
        self.done[rows] = until
        return hidden[at]

    def _keep(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps the keys and values (R, S, H, d) of clean slots, and gives all that the pass
        sees, see `Encoder`."""
        rows, columns, some, last = self._at
        need = self.length + self._spare + 1
        if layer == len(self._kept):
            self._kept.append(key.new_empty(2, self.rows, key.shape[2], 0, key.shape[3]))
        kept = self._kept[layer]
        if kept.shape[3] < need:  # zeros: nothing may come of what a slot does not see
            more = kept.new_zeros(*kept.shape[:3], need - kept.shape[3], kept.shape[4])
            self._kept[layer] = kept = torch.cat([kept, more], 3)
        for part, new in zip(kept, (key, value), strict=True):
            part[rows, :, columns] = new
        return tuple(part[some, :, :last] for part in kept)


class InBlocks(Wrapped):
    """A masked LM that writes from left to right, block by block: the same contract as `Denoiser`.

    Rows may be at different blocks. All positions asked for in one row must be of one block.

    Args:
        denoiser: a `Denoiser`.
        block_length: tokens of a block, counted from the first one to be written; 0: all of them.
        keep: see `CleanStream`.
        clean: predict from the clean stream, one token at a time: the model as it reads causally.
    """

    def __init__(self, denoiser, block_length: int, keep: bool = True, clean: bool = False):
        super().__init__(denoiser)
        self.block_length, self.keep, self.clean = block_length, keep, clean

    def start(self, canvas: Canvas) -> "InBlocks":
        other = copy.copy(self)
        editable = ~canvas.frozen & ~canvas.padding
        length = canvas.ids.shape[1]
        number = torch.arange(length, device=editable.device)
        other.first = torch.where(editable, number, length).amin(1)  # (B,)
        other.end = torch.where(editable, number + 1, 0).amax(1)
        other.stream = CleanStream(self.denoiser.backbone, *canvas.ids.shape, self.keep)
        return other

    def _blocks(self, query: Query) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(R,) each: numbers of the rows, the first token asked for, where clean slots end, and
        where the block does."""
        rows, device = query.rows, query.ids.device
        rows = torch.arange(len(query.ids), device=device) if rows is None else rows
        query_mask = query.query_mask.int().argmax(1)
        if self.clean:
            return rows, query_mask, query_mask, query_mask
        first, end = self.first[rows], self.end[rows]
        size = self.block_length or int((end - first).max())
        start = first + (query_mask - first) // size * size
        return (
            rows,
            query_mask,
            start - int(self.denoiser.backbone.shift),
            (start + size).minimum(end),
        )

    def scope(self, query: Query) -> Tensor:
        """(R, L) the block."""
        _, query_mask, until, end = self._blocks(query)
        column = torch.arange(query.ids.shape[1], device=end.device)
        if self.clean:
            return column == query_mask[:, None]
        start = until + int(self.denoiser.backbone.shift)
        return (column >= start[:, None]) & (column < end[:, None])

    def slots(self, query: Query) -> Tensor:
        rows, _, until, end = self._blocks(query)
        shadows = 0
        if query.shadows is not None:
            shadows = query.shadows.sum(1) * (1 + int(self.denoiser.backbone.shift))
        return self.stream.missing(rows, until) + end - until + shadows

    def __call__(self, query: Query) -> Tensor:
        """Logits (N, V) in the model's number format, -inf where forbidden."""
        rows, query_mask, until, end = self._blocks(query)
        row = torch.arange(len(rows), device=rows.device)
        column = torch.arange(query.ids.shape[1], device=rows.device)
        beyond = column >= (query_mask + 1 if self.clean else end)[:, None]
        if (query.query_mask & beyond).any():
            raise ValueError("a pass predicts positions of one block")
        if self.clean:
            hidden = self.stream.run(rows, query.ids, until, clean_at=(row, query_mask - 1))
        else:
            block = block_slots(
                until, end, query.ids.shape[1], self.denoiser.backbone.shift, query.shadows
            )
            ids = self.noise.corrupt(query.ids.gather(1, block.place), block.hidden)
            behind = until[:, None].expand_as(ids)
            embeds = None
            if query.feedback is not None:
                memory = query.feedback.gathered(block.place, block.hidden)
                memory = memory.take(self.noise.noisy(ids))
                embeds = blend(self.denoiser.table, ids, self.noise, memory)
            here, at = query.query_mask.nonzero().unbind(1)
            hidden = self.stream.run(
                rows,
                query.ids,
                until,
                (ids, block.place, behind, block.seen),
                noisy_at=(here, block.read[here, at]),
                embeds=embeds,
            )
        logits = self.denoiser.backbone.head(hidden)
        return logits.index_fill_(1, self.denoiser.forbidden, -torch.inf)
