"""Eight bits on a CPU: the published rounding, and nothing else changes."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from diffusion.models.linear import EightBits, quantize


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def expected(x, weight, bias):
    """The same in whole numbers and float64, row by row and output by output."""
    out = torch.zeros(len(x), len(weight), dtype=torch.float64)
    for i, row in enumerate(x.double()):
        a = row.abs().max() / 127
        for j, column in enumerate(weight.double()):
            b = column.abs().max() / 127
            out[i, j] = a * b * ((row / a).round() * (column / b).round()).sum() + bias[j]
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_rounded_rows_and_columns(dtype):
    torch.manual_seed(0)
    linear, x = nn.Linear(24, 7), torch.randn(2, 5, 24) * torch.logspace(-2, 2, 5)[:, None]
    ours = EightBits.of(linear.weight, linear.bias)(x.to(dtype))
    assert ours.dtype == dtype
    reference = expected(x.to(dtype).flatten(0, 1).float(), linear.weight, linear.bias)
    near = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(ours.flatten(0, 1).double(), reference, **near)
    assert not torch.equal(ours.float(), linear(x))  # it is rounded


def test_a_row_of_zeros_is_no_division_by_zero():
    linear = nn.Linear(8, 3)
    torch.testing.assert_close(
        EightBits.of(linear.weight, linear.bias)(torch.zeros(2, 8)), linear.bias.expand(2, 3)
    )


def test_gpt2s_maps_are_stored_the_other_way_round():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=30)).eval()
    convolution, x = model.transformer.h[0].mlp.c_fc, torch.randn(4, 16)
    reference = expected(x, convolution.weight.T, convolution.bias)
    quantize(model)
    torch.testing.assert_close(model.transformer.h[0].mlp.c_fc(x).double(), reference)
    assert not any(isinstance(part, nn.Linear | Conv1D) for part in model.modules())
