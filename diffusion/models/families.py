"""What a family of models has of its own, one row each: a new backbone is a row here."""

from dataclasses import dataclass

from transformers import LlamaConfig, PretrainedConfig, Qwen2Config


@dataclass(frozen=True)
class Names:
    """Where the parts of an encoder of BERT's kind are, which normalises after each sum.

    Attributes:
        layers: the list of layers, from the model without its head; the others are within a layer.
        attend: the maps to queries, keys and values.
        out, norm: the map after the attention, and the normalisation after that.
        up, activation, down, last: the same of the two maps with the activation between them.
    """

    layers: str = "encoder.layer"
    attend: tuple[str, ...] = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))
    out: str = "attention.output.dense"
    norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    activation: str = "intermediate.intermediate_act_fn"
    down: str = "output.dense"
    last: str = "output.LayerNorm"


@dataclass(frozen=True)
class Family:
    """How the models of one ``config.model_type`` differ from others.

    Attributes:
        head: names of the parts that turn hidden states (..., d) into logits (..., V), applied one
            after the other. Without them the model's own forward does that, for the queried rows.
        after_padding: positions are numbered from pad_id + 1, as in RoBERTa; else from 0.
        places: ``position_ids`` alone say where a token is, so that two slots can be at one place, as
            blocks and shadows need it. Models that count distances between slots cannot do that.
        windows: some layers see the near ones alone, and take a mask of their own for it.
        encoder: what `encoder` needs to know to keep keys and values exactly; without it every pass
            computes all slots that it reads.
        decoder: it reads from left to right unless its attention is set to see both sides.
        alone: padding changes its output, so rows of different lengths are computed apart.
        refused: why models of this type cannot be used, as the end of a sentence.
    """

    head: tuple[str, ...] = ()
    after_padding: bool = False
    places: bool = False
    windows: bool = False
    encoder: Names | None = None
    decoder: bool = False
    alone: bool = False
    refused: str = ""


_DISTILBERT = Names(
    layers="transformer.layer",
    attend=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    out="attention.out_lin",
    norm="sa_layer_norm",
    up="ffn.lin1",
    activation="ffn.activation",
    down="ffn.lin2",
    last="output_layer_norm",
)
_DISTILBERT_HEAD = ("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector")
_ELECTRA_HEAD = ("generator_predictions", "generator_lm_head")
_HEAD = ("lm_head",)
UNKNOWN = Family(alone=True)  # what is assumed of a type that has no row
_ROWS = {  # names of types, and the row that they share
    # DistilRoBERTa is a RoBERTa of few layers.
    "roberta xlm-roberta camembert": Family(
        _HEAD, after_padding=True, places=True, encoder=Names()
    ),
    "xlm-roberta-xl roberta-prelayernorm data2vec-text ibert": Family(
        after_padding=True, places=True
    ),
    "luke": Family(_HEAD, after_padding=True, places=True),
    "xmod": Family(after_padding=True, places=True),
    "esm": Family(after_padding=True),
    "longformer": Family(_HEAD, after_padding=True),
    "mpnet": Family(after_padding=True),
    "bert": Family(("cls",), places=True, encoder=Names()),
    "electra": Family(_ELECTRA_HEAD, places=True, encoder=Names()),
    "distilbert": Family(_DISTILBERT_HEAD, places=True, encoder=_DISTILBERT),
    "modernbert": Family(places=True, windows=True),
    # Positions that are added to tokens, or turn queries and keys by them.
    "albert nomic_bert eurobert gte big_bird ernie megatron-bert rembert roc_bert squeezebert": Family(
        places=True
    ),
    # DeBERTa-v3 is a DeBERTa-v2.
    "deberta deberta-v2 mobilebert roformer xlm flaubert": Family(),
    "convbert fnet yoso": Family(alone=True),
    # LLaDA is a Llama and Dream a Qwen2, see `NATIVE`.
    "gpt2 llama qwen2": Family(_HEAD, places=True, decoder=True),
    "nystromformer": Family(refused="read texts of one fixed length only"),
    "funnel": Family(refused="shorten a text on its way through the layers"),
    "reformer": Family(refused="read texts of a few fixed lengths only"),
    "perceiver": Family(refused="read bytes into a fixed number of slots"),
    "tapas": Family(refused="read tables, not text"),
}
FAMILIES = {name: row for names, row in _ROWS.items() for name in names.split()}


def family(config) -> Family:
    """The row of a configuration."""
    return FAMILIES.get(config.model_type, UNKNOWN)


def first_position(config) -> int:
    """The position id of the first token."""
    return (config.pad_token_id or 0) + 1 if family(config).after_padding else 0


_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "model_length")
_UNBOUNDED = 2048  # positions of a model that names no bound: what is written has to end somewhere


def max_length(config) -> int:
    """The most tokens a model of this configuration can see at once."""
    named = (getattr(config, name, None) for name in _LENGTHS)
    most = next((value for value in named if type(value) is int and value > 0), _UNBOUNDED)
    return most - first_position(config)


# ---------------------------------------------------------------- published denoisers
#
# Their own code is Llama's or Qwen2's under other names, and is read without it: LLaDA
# (arXiv:2502.09992) is a Llama, Dream (arXiv:2508.15487) a Qwen2 that predicts each token one slot to
# the left; both have full attention.

_LLADA = {  # Llama's names of what LLaDA's config calls otherwise
    "vocab_size": "embedding_size",
    "hidden_size": "d_model",
    "intermediate_size": "mlp_hidden_size",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "max_position_embeddings": "max_sequence_length",
    "rms_norm_eps": "rms_norm_eps",
    "tie_word_embeddings": "weight_tying",
    "attention_bias": "include_qkv_bias",
}
_LLADA_LAYER = {  # Llama's names of the parts of a layer, by LLaDA's
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
}
_LLADA_ENDS = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
_LLADA_WEIGHTS = {
    rf"^model\.transformer\.{old}\.": f"{new}." for old, new in _LLADA_ENDS.items()
} | {
    rf"^model\.transformer\.blocks\.(\d+)\.{old}\.": rf"model.layers.\1.{new}."
    for old, new in _LLADA_LAYER.items()
}
_IDS = ("mask_token_id", "pad_token_id", "eos_token_id", "bos_token_id", "rope_theta")


def _llada(raw: dict) -> PretrainedConfig:
    names = {ours: raw[theirs] for ours, theirs in _LLADA.items() if raw.get(theirs) is not None}
    names |= {name: raw[name] for name in _IDS if raw.get(name) is not None}
    return LlamaConfig(**names, diffusion={"objective": "diffusion", "shift": False})


def _dream(raw: dict) -> PretrainedConfig:
    own = ("auto_map", "model_type", "architectures", "transformers_version")
    more = {key: value for key, value in raw.items() if key not in own}
    return Qwen2Config(**more, diffusion={"objective": "diffusion", "shift": True})


# By ``model_type``: the config of transformers for theirs, and the names of weights.
NATIVE = {"llada": (_llada, _LLADA_WEIGHTS), "Dream": (_dream, None)}
