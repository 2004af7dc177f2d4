"""A tiny random masked language model of each family that the library has, in a folder."""

from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForMaskedLM

from diffusion.models.tokenizers import train_tokenizer
from helpers.models import SENTENCES

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "cls_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
}
FAMILIES = {  # with what they want beside that
    "albert": {"embedding_size": 16},
    "bert": {},
    "camembert": {},
    "deberta-v2": {},
    "distilbert": {"hidden_dim": 32},
    "electra": {"embedding_size": 16},
    "esm": {"mask_token_id": 4},
    "eurobert": {"mask_token_id": 4},
    "gte": {},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 16},
    "modernbert": {},
    "mpnet": {},
    "nomic_bert": {},
    "roberta": {},
    "xlm-roberta": {},
}


def save_family(kind: str, folder: Path) -> Path:
    """The model, with a byte-level BPE whose ids are RoBERTa's; skips a test of a kind that this
    version of the library does not know."""
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPE | FAMILIES[kind])
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    train_tokenizer(SENTENCES, 300).save_pretrained(folder)
    return folder
