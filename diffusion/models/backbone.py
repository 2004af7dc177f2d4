"""The language model as one call: token ids in, logits at the queried positions out."""

import functools
import inspect

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from diffusion.errors import UserError, cause
from diffusion.models import layouts
from diffusion.models.encoder import Encoder, read_at
from diffusion.models.families import UNKNOWN, family, first_position
from diffusion.models.layouts import block_slots
from diffusion.models.loading import diffusion_settings
from diffusion.noise import Absorbing


class Backbone(nn.Module):
    """A Hugging Face language model whose forward computes logits at queried positions only. This is
    also the one place that knows whether a model is *shifted*: predicts token i at slot i - 1, as
    causal models and models adapted from them do (DiffuLLaMA, arXiv:2410.17891).

    Args:
        model: any ``AutoModelForMaskedLM``, or a decoder such as a GPT-2.
            ``model.config.diffusion["shift"]``, where present, says whether it is shifted.
        final: its weights do not change any more, so that `Encoder` may replace its layers.
    """

    def __init__(self, model: nn.Module, final: bool = False):
        super().__init__()
        self.model = model
        self.config = model.config
        self.final = final and self.keeps
        self.timed = "timesteps" in inspect.signature(model.forward).parameters

    @torch.no_grad()
    def try_out(self, name: str) -> None:
        """Raise `UserError` for a model of a type that has no row in `families`, if it does not read
        a few tokens as masked language models do."""
        if family(self.config) is not UNKNOWN:
            return
        ids = torch.full((1, 4), 5, device=next(self.model.parameters()).device)
        query_mask = torch.tensor([[False, True, True, True]], device=ids.device)
        try:
            shape = tuple(self(ids, query_mask).shape)
            if shape != (3, self.config.vocab_size):
                raise ValueError(f"logits of 3 tokens have the shape {shape}")
        except Exception as error:  # any code may run here
            raise UserError(
                f"{name}: models of type {self.config.model_type} do not read text as masked "
                f"language models do ({cause(error)}); use another model"
            ) from None

    @torch.no_grad()
    def check_causal(self, name: str) -> None:
        """Raise `UserError` for a model that takes no attention mask between slots, or looks ahead in
        spite of it: it would be trained on what it is to predict."""
        ids = torch.full((2, 8), 5, device=next(self.model.parameters()).device)
        ids[1, 4:] = 6
        query_mask = torch.zeros_like(ids, dtype=torch.bool)
        query_mask[:, 1:4] = True
        try:
            ours, theirs = self(ids, query_mask, causal=True).float().chunk(2)
            ahead = not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)
        except Exception:  # each has its own way of not taking such a mask
            ahead = True
        if ahead:
            raise UserError(
                f"{name}: models of type {self.config.model_type} cannot read from left to right; "
                "leave out --objective causal and --layouts"
            )

    @property
    def shift(self) -> bool:
        return bool(diffusion_settings(self.config).get("shift", False))

    def forward(
        self,
        input_ids: Tensor,
        query_mask: Tensor,
        attention_mask: Tensor | None = None,
        causal: bool = False,
        inputs_embeds: Tensor | None = None,
        layout: layouts.Slots | None = None,
    ) -> Tensor:
        """Logits (N, V), in the model's dtype, at the N positions where ``query_mask`` (B, L) is true,
        in row-major order.

        Args:
            input_ids: (B, L).
            query_mask: (B, L) bool. A shifted model has no slot for position 0.
            attention_mask: (B, L), 0 at padding; None when nothing is padded.
            causal: each position attends to itself and what is before it.
            inputs_embeds: (B, L, d) word embeddings to use instead of those of ``input_ids``.
            layout: ``input_ids`` and ``query_mask`` are (B, S), slots of this layout.
        """
        if layout is not None:
            self._two_at_a_place("cannot read blocks; leave --layouts full")
            kwargs = self._at_places(input_ids, inputs_embeds, layout.place[None])
            if self.config._attn_implementation == layouts.ATTENTION:
                kwargs["layout"] = layout
            else:
                kwargs["attention_mask"] = self._windowed(layout.bias, layout.place[None])
            return self.logits(kwargs, query_mask)
        if attention_mask is not None and family(self.config).alone:
            return self._each_length(input_ids, query_mask, attention_mask, inputs_embeds)
        (batch, length), device = input_ids.shape, input_ids.device
        place = torch.arange(length, device=device)[None]
        if self.shift:
            query_mask = torch.cat([query_mask[:, 1:], query_mask.new_zeros(batch, 1)], dim=1)
        if self.final and not causal:
            seen = None if attention_mask is None else attention_mask.bool()[:, None]
            at = query_mask.nonzero().unbind(1)
            return self._logits_at(at, input_ids, inputs_embeds, place.expand(batch, -1), seen)
        left_to_right = family(self.config).decoder and getattr(self.config, "is_causal", True)
        if causal and not left_to_right:
            seen = torch.ones(1, length, length, dtype=torch.bool, device=device).tril()
            attention_mask = self._bias(seen.expand(batch, -1, -1), place)
        kwargs = _inputs(input_ids, inputs_embeds) | {"attention_mask": attention_mask}
        if family(self.config).after_padding:
            # RoBERTa's default counts differently for ids and for embeddings; given explicitly,
            # positions are the same on both paths.
            kwargs["position_ids"] = place + first_position(self.config)
        if self.timed:  # models with a time input that were trained without one take a zero
            kwargs["timesteps"] = torch.zeros(batch, device=device)
        return self.logits(kwargs, query_mask)

    def _each_length(self, input_ids, query_mask, attention_mask, inputs_embeds) -> Tensor:
        """`forward` for a model that padding disturbs: rows of one length at a time, without it."""
        lengths, row = attention_mask.sum(1), query_mask.nonzero()[:, 0]
        parts, places = [], []
        for length in lengths.unique().tolist():
            some = lengths == length
            embeds = None if inputs_embeds is None else inputs_embeds[some, :length]
            parts.append(
                self(input_ids[some, :length], query_mask[some, :length], inputs_embeds=embeds)
            )
            places.append(some[row].nonzero()[:, 0])
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _at_places(self, input_ids: Tensor, embeds: Tensor | None, place: Tensor) -> dict:
        """What the model is called with for slots at ``place`` (B or 1, S), in any order."""
        kwargs = _inputs(input_ids, embeds) | {"position_ids": place + first_position(self.config)}
        if getattr(self.config, "type_vocab_size", 0):  # else counted along the slots by some
            kwargs["token_type_ids"] = torch.zeros_like(input_ids)
        return kwargs

    def _bias(self, seen: Tensor, place: Tensor):
        """The attention mask for ``seen`` (B, S, S), which slots each slot sees, between slots at
        ``place`` (B or 1, S)."""
        dtype, device = self.model.dtype, seen.device
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        bias = torch.zeros(seen.shape, dtype=dtype, device=device)
        return self._windowed(bias.masked_fill_(~seen, torch.finfo(dtype).min)[:, None], place)

    def _windowed(self, bias: Tensor, place: Tensor):
        """A bias (B, 1, S, S); of models with windows one for each kind of layer."""
        if not family(self.config).windows:
            return bias
        far = (place[:, None, :, None] - place[:, None, None]).abs() > self.config.sliding_window
        near = bias.masked_fill(far, torch.finfo(bias.dtype).min)
        return {"full_attention": bias, "sliding_attention": near}

    def at_slots(self, ids, place, keep=None, seen=None, read=None, embeds=None) -> Tensor:
        """Hidden states (R, S, d), for the head, of a pass over S slots of each of R rows, or
        (R, n, d) of those that are read.

        Args:
            ids: (R, S).
            place: (R, S) positions of the slots on the canvas.
            keep, read: see `Encoder`; of no use without `keeps`.
            seen: (R, S or 1, K) bool, which slots each slot sees; None: all.
            embeds: (R, S, d) word embeddings to use instead of those of ``ids``.
        """
        if self.keeps:
            seen = None if seen is None else seen[:, None]
            place = place + first_position(self.config)
            return self.encoder(_inputs(ids, embeds), place, keep, seen, read)
        self._two_at_a_place("cannot write in blocks; leave --attention full")
        if seen is None:
            seen = torch.ones(*place.shape, place.shape[1], dtype=torch.bool, device=place.device)
        kwargs = self._at_places(ids, embeds, place) | {"attention_mask": self._bias(seen, place)}
        return self.model.base_model(**kwargs).last_hidden_state

    def _logits_at(self, at, ids: Tensor, embeds: Tensor | None, place: Tensor, seen) -> Tensor:
        """Logits (N, V) at N slots ``at`` (row, slot) of a pass of `at_slots`."""
        read = None
        if self.keeps:
            read, at = read_at(*at, len(ids))
        return self.head(self.at_slots(ids, place, None, seen, read, embeds)[at])

    def check_shadows(self) -> None:
        """`UserError` where a model cannot have shadows."""
        self._two_at_a_place(
            "cannot judge what is written without seeing it; use a sampler without shadow copies, "
            "see --list_samplers"
        )

    def shadowed(
        self, input_ids, query_mask, shadows, noise: Absorbing, padding=None, inputs_embeds=None
    ) -> Tensor:
        """Logits (N, V) as those of `forward`, but at the positions ``shadows`` (B, L) from a
        prediction that does not look at the token there, all in one forward pass: see
        `layouts.block_slots`. `UserError` where a model cannot have shadows."""
        self.check_shadows()
        (batch, length), device = input_ids.shape, input_ids.device
        nothing = torch.zeros(batch, dtype=torch.int64, device=device)
        slots = block_slots(nothing, nothing + length, length, self.shift, shadows, padding)
        ids = noise.corrupt(input_ids.gather(1, slots.place), slots.hidden)
        embeds = None
        if inputs_embeds is not None:
            place = slots.place[..., None].expand(-1, -1, inputs_embeds.shape[-1])
            own = self.model.get_input_embeddings()(ids)
            embeds = torch.where(slots.hidden[..., None], own, inputs_embeds.gather(1, place))
        row = torch.arange(batch, device=device)[:, None].expand(-1, length)
        at = row[query_mask], slots.read[query_mask]
        return self._logits_at(at, ids, embeds, slots.place, slots.seen)

    def _two_at_a_place(self, what: str) -> None:
        """Refuse models for which two slots cannot be at one place."""
        if not family(self.config).places:
            raise UserError(f"models of type {self.config.model_type} {what}")

    @property
    def keeps(self) -> bool:
        """Whether keys and values of finished text can be kept."""
        return bool(family(self.config).encoder)

    @functools.cached_property
    def encoder(self) -> Encoder:
        """The layers as plain calls, made of the weights as they are at its first use."""
        return Encoder(self.model.base_model)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (N, V) of hidden states (N, d)."""
        if names := family(self.config).head:
            for name in names:
                hidden = getattr(self.model, name)(hidden)
            return hidden
        # Whatever the head is called: the model's own forward, with a body that has been run already.
        base, nothing = self.model.base_model, hidden.new_zeros(1, 1, dtype=torch.int64)
        base.forward = lambda *args, **kwargs: BaseModelOutput(last_hidden_state=hidden[None])
        try:
            return self.model(input_ids=nothing).logits[0]
        finally:
            del base.forward

    def logits(self, inputs: dict, at) -> Tensor:
        """Logits (N, V) at N slots, ``at`` being an index of (B, S), which the head alone sees."""
        base = self.model.base_model
        # Remote code may have no head.
        if base is self.model or family(self.config) is UNKNOWN:
            out = self.model(**{name: x for name, x in inputs.items() if x is not None})
            return (out if isinstance(out, Tensor) else out[0])[at]
        return self.head(base(**inputs).last_hidden_state[at])


def _inputs(ids: Tensor, embeds: Tensor | None) -> dict:
    """What a model reads: ids, or word embeddings instead."""
    return {"input_ids": ids if embeds is None else None, "inputs_embeds": embeds}
