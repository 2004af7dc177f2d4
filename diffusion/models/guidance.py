"""Denoisers around a denoiser: guidance, and transformers' logit processors on a canvas.

They take the same call and give the same logits, so every sampler works with them.
"""

import copy

import torch
from torch import Tensor
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor


class Wrapped:
    """What all wrappers have in common: they are a denoiser to the loop."""

    def __init__(self, denoiser):
        self.denoiser = denoiser
        self.mask_id, self.device = denoiser.mask_id, denoiser.device
        self.passes = getattr(denoiser, "passes", 1)

    def forbidding(self, *ids: int) -> "Wrapped":
        """The same denoiser with more ids forbidden."""
        other = copy.copy(self)
        other.denoiser = self.denoiser.forbidding(*ids)
        return other


class Guided(Wrapped):
    """Classifier-free guidance without training (arXiv:2410.18514): with c the logits and u those
    of a canvas whose given tokens are masked, c + weight (c - u). Two forward passes a call.

    Args:
        weight: 0 changes nothing.
        kept: given tokens that stay in u: ``<s>`` and other specials.
    """

    def __init__(self, denoiser, weight: float, kept: list[int]):
        super().__init__(denoiser)
        self.weight = weight
        self.kept = torch.tensor(kept, dtype=torch.int64, device=denoiser.device)
        self.passes = 2 * self.passes

    def __call__(self, ids, rows, padding=None, shadows=None, frozen=None) -> Tensor:
        c = self.denoiser(ids, rows, padding, shadows=shadows, frozen=frozen).float()
        given = frozen & ~torch.isin(ids, self.kept)
        given = given if padding is None else given & ~padding
        hidden = ids.masked_fill(given, self.mask_id)
        u = self.denoiser(hidden, rows, padding, shadows=shadows, frozen=frozen).float()
        # What is forbidden is -inf in both; their difference is no number.
        return (c + self.weight * (c - u)).masked_fill(c == -torch.inf, -torch.inf)


class Processed(Wrapped):
    """transformers' repetition processors, which expect the tokens before the one to be written.

    On a canvas these are, for ``repetition_penalty``, all visible tokens of the row but the one
    at the position itself, on both sides, given ones included. For ``no_repeat_ngram_size`` they
    are what stands to the left, where a mask or the edge of the canvas matches nothing: an n-gram
    is prevented when all its other tokens are visible to the left of its last one, and it is
    visible further left. Tokens written in the same step do not see each other, so n-grams can
    still repeat unless one token is written at a time from left to right. Where every token would
    be banned, none is.
    """

    def __init__(self, denoiser, repetition_penalty: float = 1.0, no_repeat_ngram_size: int = 0):
        super().__init__(denoiser)
        self.penalty = self.ngrams = None
        if repetition_penalty != 1:
            self.penalty = RepetitionPenaltyLogitsProcessor(repetition_penalty)
        if no_repeat_ngram_size:
            self.ngrams = NoRepeatNGramLogitsProcessor(no_repeat_ngram_size)

    def __call__(self, ids, rows, padding=None, shadows=None, frozen=None) -> Tensor:
        logits = self.denoiser(ids, rows, padding, shadows=shadows, frozen=frozen).float()
        row, place = rows.nonzero(as_tuple=True)
        if padding is not None:  # what is not there is not repeated
            ids = ids.masked_fill(padding, self.mask_id)
        if self.penalty:
            # The mask id stands for nothing: it is forbidden anyway.
            seen = ids[row].scatter(1, place[:, None], self.mask_id)
            logits = self.penalty(seen, logits)
        if self.ngrams:
            # (N, L): the row shifted so that it ends before the position. A mask becomes an id
            # of its own beyond the vocabulary, so that it matches no other mask and bans nothing.
            column = torch.arange(ids.shape[1], device=ids.device)
            source = place[:, None] + column - ids.shape[1]
            left = ids[row[:, None], source.clamp(min=0)]
            nothing = (source < 0) | (left == self.mask_id)
            left = torch.where(nothing, logits.shape[1] + column, left)
            banned = self.ngrams(left, logits)
            usable = (banned > -torch.inf).any(1, keepdim=True)
            logits = torch.where(usable, banned, logits)
        return logits
