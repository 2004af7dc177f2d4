"""Shapes of models, the operations of their forward passes, and how fast this machine does them.

Rates are floating-point operations per second of matrix products at the shapes of a model, with all
threads, the best of several runs.
"""

from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch.nn import functional as F
from transformers import DynamicCache, GPT2Config, ModernBertConfig, RobertaConfig

from diffusion import hardware
from diffusion.models import linear, loading
from diffusion.models.layouts import Slots

# layers, width, heads, vocabulary; small: that of weights/roberta-small-wikitext.
SIZES = {"small": (6, 256, 4, 8192), "roberta-base": (12, 768, 12, 50265)}
SHAPES = (*SIZES, "modernbert")
CPU = torch.device("cpu")
TOKENS = 2048  # rows of a large product: 8 texts of 256 tokens


def masked_config(shape: str, positions: int):
    """The config of a masked language model with room for so many tokens, without dropout."""
    if shape == "modernbert":
        return ModernBertConfig(max_position_embeddings=positions)
    layers, width, heads, vocab = SIZES[shape]
    return RobertaConfig(
        vocab_size=vocab, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width, max_position_embeddings=positions + 2, type_vocab_size=1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


def causal_config(shape: str, positions: int) -> GPT2Config:
    """The GPT-2 to compare it with: the same body; gpt2's own beside the large ones."""
    layers, width, heads, vocab = SIZES["small"] if shape == "small" else (12, 768, 12, 50257)
    return GPT2Config(n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocab, n_positions=positions)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What the matrix products of a transformer depend on.

    Attributes:
        ups: maps from the width to the inner width; 2 where one gates the other.
        dense: maps of the width to itself in the head, before the vocabulary.
    """

    layers: int
    width: int
    inner: int
    vocab: int
    ups: int = 1
    dense: int = 1

    @classmethod
    def of(cls, config) -> Self | None:
        """That of a RoBERTa or BERT, a ModernBERT or a GPT-2; None for other types."""
        extra = {"roberta": (1, 1), "bert": (1, 1), "modernbert": (2, 1), "gpt2": (1, 0)}
        if config.model_type not in extra:
            return None
        gpt2 = config.model_type == "gpt2"
        inner = config.n_inner or 4 * config.n_embd if gpt2 else config.intermediate_size
        sizes = config.num_hidden_layers, config.hidden_size, inner, config.vocab_size
        return cls(*sizes, *extra[config.model_type])

    def flops(
        self, batch: int, slots: int, rows: int, pairs: int | None = None, read: int | None = None
    ) -> int:
        """Floating-point operations of the matrix products of a forward pass, two for a product and
        its sum. With gradients it is three times as many.

        Args:
            slots: of each text.
            rows: of logits, of all texts.
            pairs: (query, key) that attention computes in a layer, of each text; None: all slots by all.
            read: slots of each text that go through the last layer, where the others give their keys
                and values alone; None: all.
        """
        pairs = slots * slots if pairs is None else pairs
        read = slots if read is None else read
        square, mlp = self.width**2, (self.ups + 1) * self.width * self.inner

        def layer(read: int, pairs: int) -> int:
            return 2 * (2 * square * slots + (2 * square + mlp) * read + 2 * self.width * pairs)

        body = (self.layers - 1) * layer(slots, pairs) + layer(read, pairs * read // slots)
        return batch * body + 2 * (self.dense * square + self.width * self.vocab) * rows


def pairs_of(slots: Slots) -> int:
    """(query, key) that attention computes in a layout."""
    return sum(group.bias.numel() for group in slots.groups)


def fastest(work, device: torch.device, repeats: int = 4) -> float:
    """Seconds of the fastest of several calls; the first is to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        started = hardware.now(device)
        work()
        seconds.append(hardware.now(device) - started)
    return min(seconds[1:])


@torch.inference_mode()
def product_rate(
    device: torch.device, dtype: torch.dtype, tokens: int, inner: int, outer: int, repeats: int = 4
) -> float:
    """Operations per second of (tokens, inner) by (inner, outer), as a map of a model that writes
    does it."""
    x = torch.ones(tokens, inner, device=device, dtype=dtype)
    weight = torch.ones(outer, inner, device=device, dtype=dtype)
    product = partial(F.linear, weight=weight)
    if linear.packs(device, dtype):
        product = linear.Packed(weight, None)
    seconds = fastest(lambda: product(x), device, repeats)
    return 2 * tokens * inner * outer / seconds


def product_rates(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Measured now, by what a product is in a model. The rows of logits are a quarter of the tokens."""
    products = {
        "attention": (TOKENS, shape.width, shape.width),
        "inner": (TOKENS, shape.width, shape.inner),
        "vocabulary": (TOKENS // 4, shape.width, shape.vocab),
        "square": (TOKENS, TOKENS, TOKENS),
    }
    return {name: product_rate(device, dtype, *sizes) for name, sizes in products.items()}


def random_model(kind, config, device: torch.device, dtype: torch.dtype):
    """A model with random weights, made ready to write as a loaded one is.

    Args:
        kind: ``AutoModelForMaskedLM`` or ``AutoModelForCausalLM``.
    """
    return loading.place(kind.from_config(config).eval(), device, dtype, exact=False)


@torch.inference_mode()
def cached_steps(model, batch: int, length: int, first: int = 1, kept: int = 0) -> list[float]:
    """Seconds of each pass of a GPT-2 that writes ``length`` tokens after ``first`` prompt tokens, keys
    and values kept and the likeliest token taken: the model and hardly anything around it.

    Args:
        kept: further tokens in front whose keys and values are there already, as zeros: what they
            are changes no time.
    """
    device, cache, seconds = model.device, DynamicCache(config=model.config), []
    if kept:
        heads, width = model.config.n_head, model.config.n_embd
        zeros = torch.zeros(batch, heads, kept, width // heads, device=device, dtype=model.dtype)
        for layer in range(model.config.n_layer):
            cache.update(zeros, zeros, layer)
    ids = torch.full((batch, first), 5, device=device)
    for _ in range(length):
        started = hardware.now(device)
        out = model(ids, cache, use_cache=True, logits_to_keep=1)  # by place: its name has changed
        ids = out.logits[:, -1].argmax(-1, keepdim=True)
        seconds.append(hardware.now(device) - started)
    return seconds
