"""The language model behind one call: token ids in, logits at the asked positions out."""

import functools
import inspect

import torch
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.models import layouts
from diffusion.models.encoder import Encoder
from diffusion.models.families import family, first_position
from diffusion.models.loading import diffusion_settings, is_masked_lm
from diffusion.models.shadows import block_slots
from diffusion.noise import Absorbing


class Backbone(nn.Module):
    """A Hugging Face language model whose forward computes logits only where they are asked for.

    The vocabulary projection is the largest matrix product of a small model, and diffusion needs
    it at masked positions only. This is also the one place that knows whether a model is
    *shifted*: reads its prediction for token i from the output at slot i - 1, as causal models
    and models adapted from them do (DiffuLLaMA, arXiv:2410.17891). ``<s>`` stands in front, so
    the first token has a slot too.

    Args:
        model: any ``AutoModelForMaskedLM``, with adapters of peft or without, or a GPT-2. ``model.config.diffusion["shift"]``, where
            present, says whether it is shifted.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        if hasattr(model, "get_base_model"):  # a PeftModel: its adapters are in the layers
            if model.active_peft_config.is_prompt_learning:
                raise UserError(
                    "adapters that are learned prompts are not read; use LoRA or its kin"
                )
            model = model.get_base_model()
        self.model = model
        self.config = model.config

    @property
    def shift(self) -> bool:
        return bool(diffusion_settings(self.config).get("shift", False))

    def forward(
        self,
        input_ids: Tensor,
        asked: Tensor,
        attention_mask: Tensor | None = None,
        causal: bool = False,
        inputs_embeds: Tensor | None = None,
        layout: layouts.Slots | None = None,
    ) -> Tensor:
        """Logits (N, V), in the model's dtype, at the N positions where ``asked`` (B, L) is true,
        in row-major order.

        Args:
            input_ids: (B, L).
            asked: (B, L) bool. A shifted model has no slot for position 0.
            attention_mask: (B, L), 0 at padding; None when nothing is padded.
            causal: each position attends to itself and what is before it.
            inputs_embeds: (B, L, d) word embeddings to use in place of those of ``input_ids``.
            layout: ``input_ids`` and ``asked`` are (B, S), slots of this layout instead of positions
                on a canvas.
        """
        if layout is not None:
            return self.logits(self._laid_out(input_ids, layout, inputs_embeds), asked)
        batch, length = input_ids.shape
        if causal and is_masked_lm(self.config):  # a GPT-2 is causal by itself
            blocked = torch.full((length, length), torch.finfo(torch.float32).min)
            bias = blocked.triu(1).to(input_ids.device)[None, None].expand(batch, 1, -1, -1)
            attention_mask = bias.to(self.compute_dtype(input_ids.device))
        inputs = {"input_ids": input_ids} if inputs_embeds is None else {}
        if inputs_embeds is not None:
            inputs["inputs_embeds"] = inputs_embeds
        kwargs = {"attention_mask": attention_mask}
        if first_position(self.config):
            # RoBERTa's default counts differently for ids and for embeddings; given explicitly,
            # positions are the same on both paths.
            start = first_position(self.config)
            kwargs["position_ids"] = torch.arange(start, start + length, device=input_ids.device)[
                None
            ]
        if self.shift:
            asked = torch.cat([asked[:, 1:], asked.new_zeros(batch, 1)], dim=1)
        return self.logits(inputs | kwargs, asked)

    def _laid_out(self, input_ids: Tensor, layout: layouts.Slots, embeds: Tensor | None) -> dict:
        """What the model is called with for the slots (B, S) of a layout."""
        self._two_at_a_place("were not tried with blocks; leave --layouts full")
        shown = {"input_ids": input_ids} if embeds is None else {"inputs_embeds": embeds}
        kwargs = {
            **shown,
            "position_ids": (layout.place + first_position(self.config))[None],
        }
        if self.config._attn_implementation == layouts.ATTENTION:
            kwargs["layout"] = layout
        else:
            kwargs["attention_mask"] = layout.bias
        if "token_type_ids" in inspect.signature(self.model.base_model.forward).parameters:
            kwargs["token_type_ids"] = torch.zeros_like(input_ids)
        return kwargs

    def shadowed(
        self,
        input_ids: Tensor,
        asked: Tensor,
        shadows: Tensor,
        noise: Absorbing,
        padding: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Logits (N, V) as `forward` gives them, but at the positions ``shadows`` (B, L) from a
        prediction that does not look at the token there, all in one forward pass: see
        `shadows.block_slots`.

        Raises:
            UserError: a type of model that was not tried. Those that count distances between
                slots instead of adding positions to tokens cannot have shadows.
        """
        self._two_at_a_place(
            "cannot judge what is written without seeing it; use a sampler without shadow copies, "
            "see --list_samplers"
        )
        (batch, length), device = input_ids.shape, input_ids.device
        nothing = torch.zeros(batch, dtype=torch.int64, device=device)
        slots = block_slots(nothing, nothing + length, length, self.shift, shadows, padding)
        ids = noise.corrupt(input_ids.gather(1, slots.place), slots.hidden)
        dtype = self.compute_dtype(device)
        bias = torch.zeros(slots.seen.shape, dtype=dtype, device=device)
        shown = {"input_ids": ids}
        if inputs_embeds is not None:
            place = slots.place[..., None].expand(-1, -1, inputs_embeds.shape[-1])
            own = self.model.get_input_embeddings()(ids)
            shown = {
                "inputs_embeds": torch.where(
                    slots.hidden[..., None], own, inputs_embeds.gather(1, place)
                )
            }
        kwargs = {
            **shown,
            "position_ids": slots.place + first_position(self.config),
            "attention_mask": bias.masked_fill_(~slots.seen, torch.finfo(dtype).min)[:, None],
        }
        if "token_type_ids" in inspect.signature(self.model.base_model.forward).parameters:
            kwargs["token_type_ids"] = torch.zeros_like(ids)
        row = torch.arange(batch, device=device)[:, None].expand(-1, length)
        return self.logits(kwargs, (row[asked], slots.read[asked]))

    def _two_at_a_place(self, what: str) -> None:
        """Refuse models for which two slots cannot stand at one place."""
        if family(self.config).encoder is None:
            raise UserError(f"models of type {self.config.model_type} {what}")

    @functools.cached_property
    def encoder(self) -> Encoder:
        """The layers as plain calls, for models that write in blocks. Made of the weights as they
        are at its first use: a model that writes is not trained or moved any more."""
        return Encoder(self.model.base_model)

    @functools.cached_property
    def head(self) -> nn.Module | None:
        """Hidden states (..., d) in, logits (..., V) out; None where it is not a part of its own."""
        if parts := family(self.config).head_parts:
            return nn.Sequential(*(getattr(self.model, name) for name in parts))
        heads = (getattr(self.model, name, None) for name in family(self.config).heads)
        return next((head for head in heads if isinstance(head, nn.Module)), None)

    def logits(self, inputs: dict, at) -> Tensor:
        """Logits (N, V) at N slots, ``at`` being an index of (B, S): the head sees no others."""
        if self.head is None:
            return self.model(**inputs).logits[at]
        return self.head(self.model.base_model(**inputs).last_hidden_state[at])

    def compute_dtype(self, device: torch.device) -> torch.dtype:
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        return self.model.dtype
