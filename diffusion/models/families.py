"""What a family of models has of its own, one row each: a new backbone is a row here."""

from dataclasses import dataclass


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
    """

    head: tuple[str, ...] = ()
    after_padding: bool = False
    places: bool = False
    windows: bool = False
    encoder: Names | None = None
    decoder: bool = False
    alone: bool = False


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
    "xlm-roberta-xl roberta-prelayernorm data2vec-text ibert xmod": Family(
        after_padding=True, places=True
    ),
    "luke": Family(_HEAD, after_padding=True, places=True),
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
