"""Tiny models in folders, as finetune.py leaves them; their text is noise, their interfaces real."""

from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from diffusion.models.tokenizers import train_tokenizer

SENTENCES = [
    "The river runs through the old town and under the stone bridge.",
    "She opened the window and listened to the rain on the roof.",
    "In 1887 the railway reached the valley, and the mill was built.",
    'He said: "We never saw the ship again," and closed the book.',
]


def save_roberta(folder: Path, **settings) -> Path:
    """A random 2-layer RoBERTa with 64 positions and its own tokenizer; ``settings``: more of what
    finetune.py notes, such as its noise."""
    tokenizer = train_tokenizer(SENTENCES * 3, 320)
    torch.manual_seed(0)
    model = RobertaForMaskedLM(RobertaConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64 + 2, type_vocab_size=1,
        initializer_range=0.3,  # large, so that predictions differ from each other
    ))  # fmt: skip
    model.config.diffusion = {"objective": "diffusion", "shift": True, "prefix_len": 1}
    model.config.diffusion |= settings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_model(folder: Path, make, config, tokenizer, **shape) -> Path:
    """A random 2-layer model of any family with 80 positions, and a tokenizer."""
    torch.manual_seed(0)
    own = config(vocab_size=len(tokenizer), initializer_range=0.3, **shape)
    make(own).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_gpt2(folder: Path, tokenizer: Path) -> Path:
    """A random 2-layer GPT-2 with 64 positions and the tokenizer of another folder."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(
        vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3,
        bos_token_id=0, eos_token_id=2,
    )).save_pretrained(folder)  # fmt: skip
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder
