"""A language-model head for an encoder that was saved without one, such as a sentence encoder.

The head starts as `logits = LayerNorm(activation(h)) @ embeddings.T + bias`: its maps leave hidden states as
they are, and a token is the likelier the more its embedding resembles the hidden state. Where embeddings are
smaller than hidden states (ALBERT, ELECTRA), the map is the pseudo-inverse of the encoder's own from
embeddings to hidden states.
"""

import torch
from torch import nn

from diffusion.errors import UserError


def _outside(model) -> dict[str, nn.Parameter]:
    """The parameters that the head does not share with the body."""
    body = set(map(id, model.base_model.parameters()))
    return {name: p for name, p in model.named_parameters() if id(p) not in body}


def is_headless(model, missing: set[str]) -> bool:
    """Whether the tensors that were ``missing`` in a model's file are all of its head, and none of its
    body."""
    prefix, head = f"{model.base_model_prefix}.", _outside(model)
    body = any(name.startswith(prefix) for name in missing)
    return bool(head) and head.keys() <= missing and not body


@torch.no_grad()
def make_head(model) -> None:
    """Give a model of transformers the head described above, with a bias of 0.

    Raises:
        UserError: its output has another shape than its embeddings.
    """
    table, output = model.get_input_embeddings(), model.get_output_embeddings()
    if output.weight.shape != table.weight.shape:
        raise UserError(
            f"models of type {model.config.model_type} have an output of another size than their "
            "embeddings, so no head can be made; use weights with a language-model head"
        )
    head = _outside(model)
    for name, parameter in head.items():
        if name.endswith("bias"):
            parameter.zero_()
    if output.weight is not table.weight:
        output.weight.copy_(table.weight)
    own = set(map(id, head.values())) - {id(output.weight)}
    maps = [m for m in model.base_model.modules() if isinstance(m, nn.Linear)]
    for module in model.modules():
        if not isinstance(module, nn.Linear) or id(module.weight) not in own:
            continue
        weight = module.weight
        into = next((m.weight for m in maps if m.weight.shape == weight.shape[::-1]), None)
        if weight.shape[0] == weight.shape[1]:
            nn.init.eye_(weight)
        elif into is not None:
            weight.copy_(torch.linalg.pinv(into))
        else:  # MobileBERT's second part of the output
            weight.zero_()


def output_bias(model) -> nn.Parameter | None:
    """The bias (V,) that a model adds to its logits; None: none."""
    output = model.get_output_embeddings()
    if output.bias is not None:
        return output.bias
    shape = output.weight.shape[:1]  # ESM adds it outside of the output matrix
    return next((p for p in _outside(model).values() if p.shape == shape), None)
