"""Small random models of every family that the table knows, built on the spot."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from diffusion.models.families import FAMILIES, Family, family
from diffusion.models.tokenizers import train_tokenizer
from helpers.models import SENTENCES

WIDTH, HEADS, POSITIONS = 16, 2, 64
_SIZES = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "intermediate_size": 32,
    "embedding_size": WIDTH,  # where it is a setting of its own
    "type_vocab_size": 2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "initializer_range": 0.5,  # large enough that every input matters
}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8,
             "position_biased_input": False}  # fmt: skip
_OWN = {
    "albert": {"embedding_size": 8},
    "distilbert": {"dim": WIDTH, "hidden_dim": 32, "n_heads": HEADS},
    "electra": {"embedding_size": 8},
    "modernbert": {
        "local_attention": 6,
        "global_attn_every_n_layers": 2,
        "cls_token_id": 0,
        "sep_token_id": 2,
        "bos_token_id": None,
    },
    **dict.fromkeys(("deberta", "deberta-v2"), _RELATIVE),
    "esm": {"mask_token_id": 4, "position_embedding_type": "rotary"},
    "longformer": {"attention_window": 8},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 8},
    "mobilebert": {"embedding_size": 8, "intra_bottleneck_size": 8, "true_hidden_size": 8},
    "big_bird": {"attention_type": "original_full"},
    "squeezebert": {
        f"{part}_groups": 1 for part in ("q", "k", "v", "post_attention", "intermediate", "output")
    },
    "xlm": {"emb_dim": WIDTH, "n_heads": HEADS},
    "flaubert": {"emb_dim": WIDTH, "n_heads": HEADS},
    "rembert": {"input_embedding_size": WIDTH, "output_embedding_size": WIDTH},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "roc_bert": {"pronunciation_vocab_size": 9, "shape_vocab_size": 9}
    | {f"{part}_embed_dim": 8 for part in ("pronunciation", "shape")},
    "qwen2": {"num_key_value_heads": HEADS},
    "gpt2": {"n_embd": WIDTH, "n_head": HEADS, "type_vocab_size": None},
}
_LAYERS = {"distilbert": "n_layers", "xlm": "n_layers", "flaubert": "n_layers", "gpt2": "n_layer"}
_POSITIONS = {"gpt2": "n_positions"}
_QUICK = ("roberta", "distilbert", "modernbert", "mpnet", "convbert", "gpt2")


# Their code is that of another family (BERT, RoBERTa, DeBERTa-v2, XLM, Llama), but for names.
ALIKE = (
    "xlm-roberta", "camembert", "data2vec-text", "xlm-roberta-xl", "xmod", "ernie", "megatron-bert",
    "roc_bert", "deberta", "flaubert", "qwen2",
)  # fmt: skip


def marked(names, alike: bool = True) -> list:
    """Families for ``parametrize``, most of them marked slow; ``alike``: also those of `ALIKE`."""
    names = (n for n in names if alike or n not in ALIKE)
    return [n if n in _QUICK else pytest.param(n, marks=pytest.mark.slow) for n in names]


def tiny(name: str, vocab: int = 60, layers: int = 2, attention: str | None = None, **diffusion):
    """A model of this type in evaluation mode; decoders see both sides.

    Args:
        diffusion: what finetune.py would have noted in the config, such as ``shift``.
    """
    torch.manual_seed(0)
    row: Family = FAMILIES[name]
    sizes = {
        **_SIZES,
        "vocab_size": vocab,
        _LAYERS.get(name, "num_hidden_layers"): layers,
        _POSITIONS.get(name, "max_position_embeddings"): POSITIONS + 2 * row.after_padding,
        **_OWN.get(name, {}),
    }
    if attention is not None:
        sizes["attn_implementation"] = attention
    config = AutoConfig.for_model(name, **sizes)
    if row.decoder:
        config.is_causal = False
        diffusion = {"objective": "diffusion", "shift": True} | diffusion
    if diffusion:
        config.diffusion = diffusion
    auto = AutoModelForCausalLM if row.decoder else AutoModelForMaskedLM
    model = auto.from_config(config).eval()
    assert family(model.config) is row
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.normal_(std=0.5)
    return model


def save_family(name: str, folder: Path) -> Path:
    """The model in a folder, with a byte-level BPE whose ids are RoBERTa's."""
    tiny(name, vocab=300, layers=1).save_pretrained(folder)
    train_tokenizer(SENTENCES, 300).save_pretrained(folder)
    return folder
