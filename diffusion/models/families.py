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
        heads: names under which a model may have the part that turns hidden states (..., d) into
            logits (..., V). A model with none of them computes logits at all positions.
        head_parts: names of what does that together, one after the other, where it is not one part.
        after_padding: positions are numbered from pad_id + 1, as in RoBERTa; else from 0.
        encoder: for models where a place is a vector added to the token there and nothing else, so
            that two slots can stand at one place: what `encoder` needs to know. Models that count
            distances between slots cannot do that.
    """

    heads: tuple[str, ...] = ("lm_head", "cls")  # RoBERTa's and GPT-2's; BERT's
    head_parts: tuple[str, ...] = ()
    after_padding: bool = False
    encoder: Names | None = None


_ROBERTA = Family(after_padding=True, encoder=Names())
_KIN = Family(after_padding=True)  # not tried with two slots at one place
_BERT = Family(encoder=Names())
_ELECTRA = Family(head_parts=("generator_predictions", "generator_lm_head"), encoder=Names())
_DISTILBERT = Family(
    head_parts=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
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
FAMILIES = {
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "xlm-roberta-xl": _KIN,
    "roberta-prelayernorm": _KIN,
    "data2vec-text": _KIN,
    "esm": _KIN,
    "ibert": _KIN,
    "longformer": _KIN,
    "luke": _KIN,
    "mpnet": _KIN,
    "xmod": _KIN,
    "bert": _BERT,
    "electra": _ELECTRA,
    "distilbert": _DISTILBERT,
}


def family(config) -> Family:
    """The row of a configuration; models of other types are taken to be like BERT, without
    shadows."""
    return FAMILIES.get(config.model_type, Family())


def first_position(config) -> int:
    """The position id of the first token."""
    return (config.pad_token_id or 0) + 1 if family(config).after_padding else 0


def max_length(config) -> int:
    """The most tokens a model of this configuration can see at once."""
    return config.max_position_embeddings - first_position(config)
