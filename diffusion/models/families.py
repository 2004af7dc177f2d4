"""What a family of models has of its own, one row each: a new backbone is a row here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """Where the parts of an encoder of BERT's kind are, which normalises behind each sum.

    Attributes:
        layers: the list of layers, from the model without its head; the others are within a layer.
        attend: the maps to queries, keys and values.
        out, norm: the map behind the attention, and the normalisation behind that.
        up, activation, down, last: the same of the two maps with the activation between them.
    """

    layers: str = "encoder.layer"
    attend: tuple[str, ...] = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    )
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
            after the other. Without them the model's own forward does that, for the asked rows.
        after_padding: positions are numbered from pad_id + 1, as in RoBERTa; else from 0.
        places: where a token stands is what ``position_ids`` says and nothing else, so that two
            slots can stand at one place, as blocks and shadows need it. Models that count distances
            between slots cannot do that.
        windows: some layers see the near ones alone, and take a mask of their own for it.
        encoder: what `encoder` needs to know to keep keys and values exactly; without it every pass
            computes all slots that it reads.
        decoder: it reads from left to right unless it is told to see both sides.
        alone: padding changes what it says, so rows of different lengths are computed apart.
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


_ROBERTA = Family(("lm_head",), after_padding=True, places=True, encoder=Names())
_COUSIN = Family(after_padding=True, places=True)
_BERT = Family(("cls",), places=True, encoder=Names())
_ELECTRA = Family(("generator_predictions", "generator_lm_head"), places=True, encoder=Names())
_DISTILBERT = Family(
    ("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
    places=True,
    encoder=Names(
        layers="transformer.layer",
        attend=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        out="attention.out_lin",
        norm="sa_layer_norm",
        up="ffn.lin1",
        activation="ffn.activation",
        down="ffn.lin2",
        last="output_layer_norm",
    ),
)
_ADDED = Family(places=True)  # positions that are added to tokens, or turn queries and keys by them
_RELATIVE = Family()
_RELATIVE_COUSIN = Family(after_padding=True)
_ALONE = Family(alone=True)
UNKNOWN = Family(alone=True)  # what is taken for granted of a type that has no row
_DECODER = Family(("lm_head",), places=True, decoder=True)
FAMILIES = {
    "roberta": _ROBERTA,  # DistilRoBERTa is one of few layers
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "xlm-roberta-xl": _COUSIN,
    "roberta-prelayernorm": _COUSIN,
    "data2vec-text": _COUSIN,
    "ibert": _COUSIN,
    "luke": Family(("lm_head",), after_padding=True, places=True),
    "xmod": _COUSIN,
    "esm": _RELATIVE_COUSIN,
    "longformer": Family(("lm_head",), after_padding=True),
    "mpnet": _RELATIVE_COUSIN,
    "bert": _BERT,
    "electra": _ELECTRA,
    "distilbert": _DISTILBERT,
    "modernbert": Family(places=True, windows=True),
    "albert": _ADDED,
    "nomic_bert": _ADDED,
    "eurobert": _ADDED,
    "gte": _ADDED,
    "big_bird": _ADDED,
    "ernie": _ADDED,
    "megatron-bert": _ADDED,
    "rembert": _ADDED,
    "roc_bert": _ADDED,
    "squeezebert": _ADDED,
    "deberta": _RELATIVE,
    "deberta-v2": _RELATIVE,  # DeBERTa-v3 is one
    "mobilebert": _RELATIVE,
    "roformer": _RELATIVE,
    "xlm": _RELATIVE,
    "flaubert": _RELATIVE,
    "convbert": _ALONE,
    "fnet": _ALONE,
    "yoso": _ALONE,
    "gpt2": _DECODER,
    "llama": _DECODER,  # LLaDA is one, see `native`
    "qwen2": _DECODER,  # Dream is one
    "nystromformer": Family(refused="read texts of one fixed length only"),
    "funnel": Family(refused="shorten a text on its way through the layers"),
    "reformer": Family(refused="read texts of a few fixed lengths only"),
    "perceiver": Family(refused="read bytes into a fixed number of slots"),
    "tapas": Family(refused="read tables, not text"),
}


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
