"""Linear maps in eight bits on a CPU, by torch's product of int8 matrices.

Weights are rounded once, with one scale for each output; what comes in is rounded in each product, with
one scale for each row (dynamic quantisation, as LLM.int8 without its outliers, arXiv:2208.07339). What is
between the products stays in the model's number format.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_LARGEST = 127


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (N, d) as int8, and the scales (N, 1) by which they are to be multiplied, in float32."""
    scale = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / _LARGEST
    return (rows / scale).round_().to(torch.int8), scale


class EightBits(nn.Module):
    """x W^T + b of W (n, d) in eight bits.

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
    def of(cls, weight: Tensor, bias: Tensor | None) -> "EightBits":
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


def quantize(model: nn.Module) -> nn.Module:
    """The model with all its linear maps in eight bits: changed in place."""
    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, nn.Linear):
                setattr(module, name, EightBits.of(part.weight, part.bias))
            elif isinstance(part, Conv1D):  # GPT-2's, which is stored the other way round
                setattr(module, name, EightBits.of(part.weight.T.contiguous(), part.bias))
    return model
