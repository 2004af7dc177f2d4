"""The language model behind one call: token ids in, logits at the asked positions out."""

import inspect

import torch
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.models import layouts
from diffusion.models.families import family, first_position
from diffusion.models.loading import diffusion_settings, is_masked_lm
from diffusion.noise import Absorbing


class Backbone(nn.Module):
    """A Hugging Face language model whose forward computes logits only where they are asked for.

    The vocabulary projection is the largest matrix product of a small model, and diffusion needs
    it at masked positions only. This is also the one place that knows whether a model is
    *shifted*: reads its prediction for token i from the output at slot i - 1, as causal models
    and models adapted from them do (DiffuLLaMA, arXiv:2410.17891). ``<s>`` stands in front, so
    the first token has a slot too.

    Args:
        model: any ``AutoModelForMaskedLM``, or a GPT-2. ``model.config.diffusion["shift"]``, where
            present, says whether it is shifted.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
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
            layout: ``input_ids`` and ``rows`` are (B, S), slots of this layout instead of positions
                on a canvas.
        """
        if layout is not None:
            return self._logits(self._laid_out(input_ids, layout), asked)
        batch, length = input_ids.shape
        if causal and is_masked_lm(self.config):  # a GPT-2 is causal by itself
            blocked = torch.full((length, length), torch.finfo(torch.float32).min)
            bias = blocked.triu(1).to(input_ids.device)[None, None].expand(batch, 1, -1, -1)
            attention_mask = bias.to(self._compute_dtype(input_ids.device))
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
        return self._logits(inputs | kwargs, asked)

    def _laid_out(self, input_ids: Tensor, layout: layouts.Slots) -> dict:
        """What the model is called with for the slots (B, S) of a layout."""
        if not family(self.config).added_positions:
            raise UserError(
                f"models of type {self.config.model_type} were not tried with blocks; leave "
                "--layouts full"
            )
        kwargs = {
            "input_ids": input_ids,
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
    ) -> Tensor:
        """Logits (N, V) as `forward` gives them, but at the positions ``shadows`` (B, L) from a
        prediction that does not look at the token there, all in one forward pass (WINO,
        arXiv:2507.18578).

        Behind the canvas stands, for each such position, a mask with the same position id. It
        looks at the canvas without that one slot and at itself; nothing looks at it, so the other
        predictions are what they are without shadows. A shifted model reads token i at slot
        i - 1, which sees slot i: there a shadow is a pair, the token of slot i - 1 and a mask for
        slot i, which look at each other and at the canvas without those two slots.

        The first layer of a shadow is that of a canvas with a mask at the position. In deeper
        layers the other slots have seen the token, and what they know of it reaches the shadow
        (two hops). Without that, each position would need its own forward pass.

        Raises:
            UserError: a type of model that was not tried. Those that count distances between
                slots instead of adding positions to tokens cannot have shadows.
        """
        if not family(self.config).added_positions:
            raise UserError(
                f"models of type {self.config.model_type} cannot judge what is written without "
                "seeing it; use a sampler without shadow copies, see --list_samplers"
            )
        (batch, length), device = input_ids.shape, input_ids.device
        count = int(shadows.sum(1).max())
        # (B, K) the positions that have a shadow, then others to fill the row.
        place = (~shadows).long().argsort(dim=1, stable=True)[:, :count]
        slot = torch.arange(length, device=device).expand(batch, -1)
        before = (place - 1).clamp(min=0)
        copies = [
            input_ids.gather(1, before),
            noise.corrupt(place, torch.ones_like(place, dtype=torch.bool)),
        ]
        places = [before, place]
        if not self.shift:
            copies, places = copies[1:], places[1:]
        ids = torch.cat([input_ids, *copies], 1)
        where = torch.cat([slot, *places], 1)  # (B, S) position of every slot

        group = torch.arange(count, device=device).repeat(len(places))
        seen = torch.ones(batch, ids.shape[1], length, dtype=torch.bool, device=device)
        if padding is not None:
            seen &= ~padding[:, None]
        for own in places:  # the one slot or the two that a shadow replaces
            seen[:, length:] &= own.repeat(1, len(places))[:, :, None] != slot[:, None]
        friends = torch.zeros(ids.shape[1], len(group), dtype=torch.bool, device=device)
        friends[length:] = group[:, None] == group
        seen = torch.cat([seen, friends.expand(batch, -1, -1)], 2)
        dtype = self._compute_dtype(device)
        bias = torch.zeros(seen.shape, dtype=dtype, device=device)
        kwargs = {
            "input_ids": ids,
            "position_ids": where + first_position(self.config),
            "attention_mask": bias.masked_fill_(~seen, torch.finfo(dtype).min)[:, None],
        }
        if "token_type_ids" in inspect.signature(self.model.base_model.forward).parameters:
            kwargs["token_type_ids"] = torch.zeros_like(ids)

        # Where each position is read: at its slot, or one to the left, or at its shadow.
        read = (slot - int(self.shift)).clamp(min=0).clone()
        behind = torch.arange(length, length + count, device=device).expand(batch, -1)
        taken = shadows.gather(1, place)
        read.scatter_(1, place, torch.where(taken, behind, read.gather(1, place)))
        row = torch.arange(batch, device=device)[:, None].expand(-1, length)
        return self._logits(kwargs, (row[asked], read[asked]))

    def _logits(self, inputs: dict, at) -> Tensor:
        """Logits (N, V) at N slots, ``at`` being an index of (B, S): the head sees no others."""
        heads = (getattr(self.model, name, None) for name in family(self.config).heads)
        head = next((head for head in heads if isinstance(head, nn.Module)), None)
        if head is None:
            return self.model(**inputs).logits[at]
        return head(self.model.base_model(**inputs).last_hidden_state[at])

    def _compute_dtype(self, device: torch.device) -> torch.dtype:
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        return self.model.dtype
