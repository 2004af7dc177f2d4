"""What a family of models has of its own, one row each: a new backbone is a row here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """How the models of one ``config.model_type`` differ from others.

    Attributes:
        head: names of the parts that turn hidden states into logits, one after the other; without
            them the model's own forward does.
        after_padding: positions are numbered from pad_id + 1, as in RoBERTa; else from 0.
        places: ``position_ids`` alone say where a token is, so that two slots can be at one place, as
            blocks and shadows need it.
        windows: some layers see the near ones alone, and take a mask of their own for it.
        encoder: names of the parts that `Encoder` calls, which keeps keys and values exactly.
        decoder: it reads from left to right unless its attention is set to see both sides.
        alone: padding changes its output, so rows of different lengths are computed apart.
    """

    head: tuple[str, ...] = ()
    after_padding: bool = False
    places: bool = False
    windows: bool = False
    encoder: str = ""
    decoder: bool = False
    alone: bool = False


# The list of layers, and within a layer, which normalises after each sum: the maps to queries, keys and
# values, the map after the attention, a normalisation, two maps around an activation, a normalisation.
_BERT = """encoder.layer attention.self.query attention.self.key attention.self.value
attention.output.dense attention.output.LayerNorm
intermediate.dense intermediate.intermediate_act_fn output.dense output.LayerNorm"""
_DISTILBERT = """transformer.layer attention.q_lin attention.k_lin attention.v_lin
attention.out_lin sa_layer_norm ffn.lin1 ffn.activation ffn.lin2 output_layer_norm"""
_DISTILBERT_HEAD = ("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector")
_ELECTRA_HEAD = ("generator_predictions", "generator_lm_head")
_HEAD = ("lm_head",)
UNKNOWN = Family(alone=True)  # what is assumed of a type that has no row
_ROWS = {  # names of types, and the row that they share
    # DistilRoBERTa is a RoBERTa of few layers.
    "roberta xlm-roberta camembert": Family(_HEAD, after_padding=True, places=True, encoder=_BERT),
    "xlm-roberta-xl roberta-prelayernorm data2vec-text ibert xmod": Family(
        after_padding=True, places=True
    ),
    "luke": Family(_HEAD, after_padding=True, places=True),
    "esm": Family(after_padding=True),
    "longformer": Family(_HEAD, after_padding=True),
    "mpnet": Family(after_padding=True),
    "bert": Family(("cls",), places=True, encoder=_BERT),
    "electra": Family(_ELECTRA_HEAD, places=True, encoder=_BERT),
    "distilbert": Family(_DISTILBERT_HEAD, places=True, encoder=_DISTILBERT),
    "modernbert": Family(places=True, windows=True),
    # Positions that are added to tokens, or turn queries and keys by them.
    "albert nomic_bert eurobert gte big_bird ernie megatron-bert rembert roc_bert squeezebert": Family(
        places=True
    ),
    # DeBERTa-v3 is a DeBERTa-v2.
    "deberta deberta-v2 mobilebert roformer xlm flaubert": Family(),
    "convbert fnet yoso": Family(alone=True),
    "gpt2 llama qwen2": Family(_HEAD, places=True, decoder=True),
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
