"""A masked language model as p(clean token | canvas), and the contract of every denoiser: this one,
those around it (`guidance`), and any other that the loop may be given.

- ``noise`` and ``device`` say what it reads and where, ``passes`` how many forward passes a call costs;
- ``start(canvas)`` is called once for each generation and returns the denoiser of that generation,
  which may keep state for each row;
- ``scope(query)`` is where (R, L) a pass can predict, ``slots(query)`` how many slots of each row (R,) a
  call computes;
- called with a `Query` it returns logits (N, V) at the N queried positions, row-major, which the caller
  may overwrite. They are large: `proposal.rows_at_once` says how many to work on in float32.
  ``<mask>``, padding and other ids that training never supervised have probability 0. A visible token
  predicts itself, so a query at a visible position says whether the token is hidden there.
"""

import copy

import torch
from torch import Tensor

from diffusion import vectors
from diffusion.canvas import Canvas, Query
from diffusion.models.backbone import Backbone
from diffusion.models.soft import SoftMask, TwoPass, blend
from diffusion.noise import Noise


class Denoiser:
    """Logits over what may be written, at the queried positions.

    Args:
        model: any ``AutoModelForMaskedLM`` in evaluation mode.
        noise: what it was trained to remove.
        forbidden: ids that are never written, see `tokenizers.forbidden_ids`.
        soft: what its masks remember, where it was trained so; see `soft.SoftMasked`.
    """

    passes = 1

    def __init__(
        self,
        model: torch.nn.Module,
        noise: Noise,
        forbidden: list[int],
        soft: SoftMask | None = None,
    ):
        self.backbone = Backbone(model, final=True)
        self.device = next(model.parameters()).device
        self.noise, self.soft = noise.to(self.device), soft
        self.forbidden = torch.tensor(sorted({noise.mask_id, *forbidden}), device=self.device)

    @property
    def reader(self) -> torch.nn.Module:
        """What computes the likelihood of a text, called as `Backbone` is."""
        if self.soft is None:
            return self.backbone
        return TwoPass(self.backbone, self.soft, self.noise, self.forbidden.tolist())

    def changed(self, **changes) -> "Denoiser":
        """The same denoiser with other attributes; ``soft=None`` is without soft-masking."""
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    def forbidding(self, *ids: int) -> "Denoiser":
        """The same denoiser with more ids forbidden."""
        return self.changed(forbidden=torch.cat([self.forbidden, self.forbidden.new_tensor(ids)]))

    def allowing(self, *ids: int) -> "Denoiser":
        """The same denoiser, which may write these ids."""
        allowed = torch.isin(self.forbidden, self.forbidden.new_tensor(ids))
        return self.changed(forbidden=self.forbidden[~allowed])

    def start(self, canvas: Canvas) -> "Denoiser":
        """Itself: full attention keeps nothing from one step to the next."""
        return self

    @property
    def table(self) -> torch.nn.Embedding:
        """The word embeddings."""
        return self.backbone.model.get_input_embeddings()

    def scope(self, query: Query) -> Tensor:
        """(R, L) every position that is there."""
        padding = query.padding
        return torch.ones_like(query.query_mask) if padding is None else ~padding

    def slots(self, query: Query) -> Tensor:
        """(R,) the canvas, and shadows."""
        count = torch.full_like(query.ids[:, 0], query.ids.shape[1])
        if query.padding is not None:
            count = count - query.padding.sum(1)
        if query.shadows is not None:
            count = count + query.shadows.sum(1) * (1 + int(self.backbone.shift))
        return count

    def __call__(self, query: Query) -> Tensor:
        """Logits (N, V) in the model's number format, -inf where forbidden."""
        ids, query_mask, padding = query.ids, query.query_mask, query.padding
        embeds = None
        if query.feedback is not None:
            memory = query.feedback.take(self.noise.noisy(ids))
            embeds = blend(self.table, ids, self.noise, memory)
        if query.shadows is not None:
            self.backbone.check_shadows()  # before there is one: no text is refused half written
        shadows, attention_mask = query.shadows, None if padding is None else (~padding).long()
        if query.vectors is not None:
            place = query.vectors, query.time, self.noise
            logits = vectors.predict(self.backbone, ids, query_mask, *place, attention_mask)
        elif shadows is not None and shadows.any():
            logits = self.backbone.shadowed(ids, query_mask, shadows, self.noise, padding, embeds)
        else:
            logits = self.backbone(ids, query_mask, attention_mask, inputs_embeds=embeds)
        return logits.index_fill_(1, self.forbidden, -torch.inf)
