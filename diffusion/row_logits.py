"""The language model behind one call: token ids in, logits at the asked positions out."""

import torch
from torch import Tensor, nn

from .checkpoints import diffusion_settings, is_masked_lm


def _prediction_head(model: nn.Module) -> nn.Module | None:
    """The part of a masked LM that turns hidden states (..., d) into logits (..., V)."""
    for name in ("lm_head", "cls"):  # RoBERTa and its kin; BERT
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            return head
    return None


class RowLogits(nn.Module):
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
        rows: Tensor,
        attention_mask: Tensor | None = None,
        causal: bool = False,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Logits (N, V), in the model's dtype, at the N positions where ``rows`` (B, L) is true,
        in row-major order.

        Args:
            input_ids: (B, L).
            rows: (B, L) bool. A shifted model has no slot for position 0.
            attention_mask: (B, L), 0 at padding; None when nothing is padded.
            causal: each position attends to itself and what is before it.
            inputs_embeds: (B, L, d) word embeddings to use in place of those of ``input_ids``.
        """
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
            rows = torch.cat([rows[:, 1:], rows.new_zeros(batch, 1)], dim=1)

        head = _prediction_head(self.model)
        if head is None:
            return self.model(**inputs, **kwargs).logits[rows]
        hidden = self.model.base_model(**inputs, **kwargs).last_hidden_state
        return head(hidden[rows])

    def _compute_dtype(self, device: torch.device) -> torch.dtype:
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        return self.model.dtype


# Model types without "roberta" in their name that number positions as RoBERTa does.
_ROBERTA_KIN = {"camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "xmod"}


def first_position(config) -> int:
    """The position id of the first token: RoBERTa and its kin count from pad_id + 1, others from 0."""
    kin = "roberta" in config.model_type or config.model_type in _ROBERTA_KIN
    return (config.pad_token_id or 0) + 1 if kin else 0


def max_length(config) -> int:
    """The most tokens a model of this configuration can see at once."""
    return config.max_position_embeddings - first_position(config)
