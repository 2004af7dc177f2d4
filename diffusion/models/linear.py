"""Linear maps of a model that is not trained any more, as a CPU computes them fastest.

`Packed` computes the same and holds the matrix in the order in which oneDNN reads it; torch would take
MKL in float32, and reorder the matrix in each product in bfloat16. That is worth most where a few rows
meet a large matrix: a block, or the vocabulary at some masks.
"""

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# Numbers of a matrix that is worth packing: oneDNN compiles a program for each new number of rows, in
# half a millisecond.
_LEAST = 2**16


class Packed(nn.Module):
    """x W^T + b of W (n, d), without gradients, for a CPU that `packs`.

    Args:
        weight: (n, d).
        bias: (n,), or None.
        turned: the model stores W as (d, n), as GPT-2's does.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, turned: bool = False):
        super().__init__()
        # No number of rows is named, so the order is good for any.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
        self.bias, self.turned = bias, turned

    @property
    def weight(self) -> Tensor:
        """(n, d), or (d, n) where `turned`: a copy."""
        weight = self.packed.to_dense()
        return weight.T if self.turned else weight

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.default(x, self.packed, self.bias, "none", [], "")


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has oneDNN's product there."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def pack(model: nn.Module, least: int = _LEAST) -> nn.Module:
    """The model with its linear maps of at least so many numbers packed, in place; it cannot be trained
    or moved any more."""
    # One after the other, by name: each is freed before the next, so that no two are there twice.
    for name in [name for name, _ in model.requires_grad_(False).named_children()]:
        part = getattr(model, name)
        if type(part) in (nn.Linear, Conv1D) and part.weight.numel() >= least:
            turned = type(part) is Conv1D  # GPT-2's is stored the other way round
            weight = part.weight.T.contiguous() if turned else part.weight
            setattr(model, name, Packed(weight, part.bias, turned))
        else:
            pack(part, least)
    return model
