"""Denoisers around a denoiser: guidance, and transformers' logit processors on a canvas.

They have the contract of `Denoiser`, so every sampler works with them. They compute in float32, a
few rows at a time, and write the result over the logits in their number format.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from diffusion.canvas import Canvas, Query
from diffusion.proposal import rows_at_once


class Wrapped:
    """What all wrappers have in common: they are a denoiser to the loop."""

    def __init__(self, denoiser):
        self.denoiser = denoiser
        self.noise, self.device, self.passes = denoiser.noise, denoiser.device, denoiser.passes

    @property
    def table(self) -> torch.nn.Embedding:
        """The word embeddings."""
        return self.denoiser.table

    def start(self, canvas: Canvas) -> "Wrapped":
        """The denoiser of one generation, see `models.denoiser`."""
        other = copy.copy(self)
        other.denoiser = self.denoiser.start(canvas)
        return other

    def scope(self, query: Query) -> Tensor:
        """(R, L) where a call can predict."""
        return self.denoiser.scope(query)

    def slots(self, query: Query) -> Tensor:
        """(R,) slots that a call computes."""
        return self.denoiser.slots(query)


class Guided(Wrapped):
    """Classifier-free guidance without training (arXiv:2410.18514): with c the logits and u those
    of a canvas whose prompt is masked, but for the ids ``kept``, c + weight (c - u)."""

    def __init__(self, denoiser, weight: float, kept: list[int]):
        super().__init__(denoiser)
        self.weight = weight
        self.kept = torch.tensor(kept, dtype=torch.int64, device=denoiser.device)
        self.passes = 2 * self.passes

    def start(self, canvas):
        other = super().start(canvas)
        other.prompt = canvas.frozen & ~canvas.padding & ~torch.isin(canvas.ids, self.kept)
        # A denoiser of its own: what it keeps from step to step differs.
        other.unconditional = self.denoiser.start(canvas)
        return other

    def slots(self, query):
        return self.denoiser.slots(query) + self.unconditional.slots(query)

    @torch.no_grad()
    def __call__(self, query: Query) -> Tensor:
        prompt = self.prompt if query.rows is None else self.prompt[query.rows]
        hidden = replace(query, ids=self.noise.corrupt(query.ids, prompt))
        logits, other = self.denoiser(query), self.unconditional(hidden)
        rows = rows_at_once(logits)
        for part, without in zip(logits.split(rows), other.split(rows), strict=True):
            c, u = part.float(), without.float()
            # A forbidden id is -inf in both, and their difference nan.
            part.copy_((c + self.weight * (c - u)).masked_fill_(c == -torch.inf, -torch.inf))
        return logits


class Processed(Wrapped):
    """transformers' repetition processors, which expect the tokens before the one to be written.

    For ``repetition_penalty`` these are all visible tokens of the row but the one at the position
    itself. For ``no_repeat_ngram_size`` they are the tokens to the left, where a mask matches nothing;
    tokens written in the same step do not see each other, so n-grams can still repeat unless one token
    is written at a time from left to right. Where every token would be banned, none is.
    """

    def __init__(self, denoiser, repetition_penalty: float = 1.0, no_repeat_ngram_size: int = 0):
        super().__init__(denoiser)
        self.penalty = self.ngrams = None
        if repetition_penalty != 1:
            self.penalty = RepetitionPenaltyLogitsProcessor(repetition_penalty)
        if no_repeat_ngram_size:
            self.ngrams = NoRepeatNGramLogitsProcessor(no_repeat_ngram_size)

    @torch.no_grad()
    def __call__(self, query: Query) -> Tensor:
        logits, ids = self.denoiser(query), query.ids
        if query.padding is not None:  # what is not there is not repeated
            ids = self.noise.corrupt(ids, query.padding)
        rows = rows_at_once(logits)
        columns = (logits, *query.query_mask.nonzero(as_tuple=True))
        for part, row, place in zip(*(x.split(rows) for x in columns), strict=True):
            part.copy_(self._processed(part.float(), ids, row, place))
        return logits

    def _processed(self, logits: Tensor, ids: Tensor, row: Tensor, place: Tensor) -> Tensor:
        """The logits (N, V) of N positions ``row``, ``place`` of ``ids`` (B, L)."""
        if self.penalty:
            # Noise is no token: it is forbidden anyway.
            own = torch.zeros_like(ids[row], dtype=torch.bool).scatter(1, place[:, None], True)
            logits = self.penalty(self.noise.corrupt(ids[row], own), logits)
        if self.ngrams:
            # (N, L): the row shifted so that it ends before the position. A mask becomes an id
            # of its own beyond the vocabulary, so that it matches no other mask and bans nothing.
            column = torch.arange(ids.shape[1], device=ids.device)
            source = place[:, None] + column - ids.shape[1]
            left = ids[row[:, None], source.clamp(min=0)]
            nothing = (source < 0) | self.noise.noisy(left)
            left = torch.where(nothing, logits.shape[1] + column, left)
            # Room for those ids: some versions of the processor write to them.
            room = (0, ids.shape[1])
            banned = self.ngrams(left, F.pad(logits, room))[:, : logits.shape[1]]
            usable = (banned > -torch.inf).any(1, keepdim=True)
            logits = torch.where(usable, banned, logits)
        return logits
