"""Causal models, read slot by slot with their keys and values kept: transformers' own forward pass, or
for GPT-2 its layers as plain calls, the counterpart of `encoder` on the side of the baseline."""

import inspect

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def cache_name(model: nn.Module) -> str | None:
    """What a model calls its keys and values, which newer versions of transformers renamed."""
    takes = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in takes), None)


def reader(model: nn.Module, rows: int, length: int) -> "Forward | PlainGpt2":
    """What reads ``rows`` texts of up to ``length`` tokens: called with the new slots' ids (B, n),
    their positions (B, n), and which of all slots so far (B, K) are no padding, it gives the logits
    (B, V) at the last slot."""
    if PlainGpt2.can_read(model):
        return PlainGpt2(model, rows, length)
    return Forward(model)


class Forward:
    """By the model's own forward pass."""

    def __init__(self, model: nn.Module):
        self.model, self.cache, self.name = model, None, cache_name(model)
        self.takes = inspect.signature(model.forward).parameters

    def __call__(self, ids: Tensor, place: Tensor, real: Tensor) -> Tensor:
        more = {"position_ids": place, "logits_to_keep": 1, self.name: self.cache}
        more = {key: value for key, value in more.items() if key in self.takes}
        out = self.model(ids, attention_mask=real.long(), use_cache=True, **more)
        self.cache = out[self.name]
        return out.logits[:, -1]


class PlainGpt2:
    """By the layers of a GPT-2, with memory for keys and values set aside once."""

    def __init__(self, model: nn.Module, rows: int, length: int):
        self.model, config = model, model.config
        self.heads = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        size = len(model.transformer.h), 2, rows, self.heads[0], length, self.heads[1]
        self.kept = torch.empty(size, dtype=model.dtype, device=model.device)
        self.count = 0  # slots that have been read

    @staticmethod
    def can_read(model: nn.Module) -> bool:
        """Whether it is a GPT-2 without the options of its attention that nobody trained with."""
        config = model.config
        return type(model).__name__ == "GPT2LMHeadModel" and not (
            config.scale_attn_by_inverse_layer_idx
            or config.reorder_and_upcast_attn
            or config.add_cross_attention
            or not config.scale_attn_weights
        )

    def __call__(self, ids: Tensor, place: Tensor, real: Tensor) -> Tensor:
        base, start, end = self.model.transformer, self.count, self.count + ids.shape[1]
        if not start:
            self.padded = not real.all()
        self.count, seen = end, None
        if ids.shape[1] > 1 or self.padded:
            slots = torch.arange(end, device=ids.device)
            own = slots[start:, None] == slots  # padding sees itself: no softmax over nothing
            seen = ((slots[start:, None] > slots) & real[:, None] | own)[:, None]
        hidden = base.wte(ids) + base.wpe(place)
        for block, kept in zip(base.h, self.kept, strict=True):
            parts = block.attn.c_attn(block.ln_1(hidden)).chunk(3, -1)
            query, *new = (part.unflatten(-1, self.heads).transpose(1, 2) for part in parts)
            kept[0, :, :, start:end], kept[1, :, :, start:end] = new
            key, value = kept[:, :, :, :end]
            mixed = F.scaled_dot_product_attention(query, key, value, seen)
            hidden = hidden + block.attn.c_proj(mixed.transpose(1, 2).flatten(2))
            mlp = block.mlp
            hidden = hidden + mlp.c_proj(mlp.act(mlp.c_fc(block.ln_2(hidden))))
        return self.model.lm_head(base.ln_f(hidden[:, -1]))
