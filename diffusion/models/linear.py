"""Linear maps of a model that is not trained any more, as a CPU computes them fastest.

`Packed` computes the same and holds the matrix in the order in which oneDNN reads it; torch would take
MKL in float32, and reorder the matrix in each product in bfloat16. That is worth most where a few rows
meet a large matrix: a block, or the vocabulary at some masks. `EightBits` is smaller and rounds.
"""

from collections.abc import Sequence

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

    def __deepcopy__(self, memo) -> "Packed":  # torch copies no tensor of this kind
        return type(self)(self.packed.to_dense(), self.bias, self.turned)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight

    @classmethod
    def joined(cls, parts: Sequence["Packed"]) -> "Packed":
        """Several maps of the same input as one, their outputs side by side; all have a bias."""
        return cls(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "bias"))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.default(x, self.packed, self.bias, "none", [], "")


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has oneDNN's product there."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, d) as int8, and the scales (N, 1) by which they are to be multiplied, in float32."""
    scale = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / 127
    return (rows / scale).round_().to(torch.int8), scale


class EightBits(nn.Module):
    """x W^T + b of W (n, d) in eight bits, by torch's product of int8 matrices.

    Weights are rounded once, with one scale for each output, and inputs in each product, with one
    scale for each row (dynamic quantisation, as LLM.int8 without its outliers, arXiv:2208.07339).

    Args:
        weight: (n, d) int8.
        scale: (n,) float32.
        bias: (n,), or None.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = scale  # no buffer: a model in bfloat16 keeps its scales in float32
        self.bias = bias

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, turned: bool = False) -> "EightBits":
        weight, scale = rounded(weight.detach())
        return cls(weight, scale[:, 0], bias)

    @classmethod
    def joined(cls, parts: Sequence["EightBits"]) -> "EightBits":
        """Several maps of the same input as one, their outputs side by side."""
        names = "weight", "scale", "bias"
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = rounded(x.flatten(0, -2))
        out = torch._int_mm(rows, self.weight.t()).float().mul_(scale).mul_(self.scale)
        if self.bias is not None:
            out += self.bias
        return out.to(x.dtype).view(*x.shape[:-1], -1)


def pack(model: nn.Module, least: int = _LEAST) -> nn.Module:
    """The model with its linear maps of at least so many numbers packed, in place; it cannot be trained
    or moved any more."""

    def large(part: nn.Module) -> bool:
        return type(part) in (nn.Linear, Conv1D) and part.weight.numel() >= least

    return _replaced(model.requires_grad_(False), Packed, large)


def quantize(model: nn.Module) -> nn.Module:
    """The model with all its linear maps in eight bits, in place."""

    return _replaced(model, EightBits.of, lambda part: isinstance(part, nn.Linear | Conv1D))


def _replaced(module: nn.Module, make, applies) -> nn.Module:
    # One after the other, by name: each is freed before the next, so that no two are there twice.
    for name in [name for name, _ in module.named_children()]:
        part = getattr(module, name)
        if applies(part):
            turned = isinstance(part, Conv1D)  # GPT-2's is stored the other way round
            weight = part.weight.T.contiguous() if turned else part.weight
            setattr(module, name, make(weight, part.bias, turned=turned))
        else:
            _replaced(part, make, applies)
    return module
