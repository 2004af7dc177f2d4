"""Weights that FSDP spreads over the processes of a run, as a whole where they are needed so.

All processes of a run have to call these functions together. A model that is not spread is as it is.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

# Of a checkpoint: what the Trainer calls its optimiser then, and a copy of the weights that it adds.
OPTIMIZER, SPARE = "optimizer.bin", "pytorch_model_fsdp.bin"


def layer_classes(model: nn.Module) -> list[str]:
    """The names of those parts of a model that are spread each on its own."""
    layers = (m for m in model.modules() if isinstance(m, GradientCheckpointingLayer))
    return sorted({type(layer).__name__ for layer in layers})


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within, parts of the model can be called as well as the whole."""
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


def copy_of(model: PreTrainedModel) -> PreTrainedModel:
    """A model that is not spread, with the same weights on the first process."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    return filled(model, weights) if weights else model


def filled(model: PreTrainedModel, weights: dict[str, Tensor]) -> PreTrainedModel:
    """A model of the same shape that is not spread, with these weights; what is tied is tied in it."""
    copy = type(model)(model.config)
    copy.load_state_dict(weights)
    return copy.eval()


def put(model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    """Give a model weights, of which every process has all."""
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))


def total(model: nn.Module) -> Tensor:
    """The sum of all weights."""
    found = sum(weight.detach().sum() for weight in model.parameters())
    return found.full_tensor() if isinstance(found, torch.distributed.tensor.DTensor) else found
