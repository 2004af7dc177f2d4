"""Packed linear maps of a model that writes are the model's own."""

import copy

import pytest
import torch
from helpers.families import marked, tiny
from torch import nn
from transformers.pytorch_utils import Conv1D

from diffusion.models.backbone import Backbone
from diffusion.models.families import FAMILIES
from diffusion.models.linear import Packed, pack, packs
from diffusion.models.loading import place


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


CPU = torch.device("cpu")
FORMATS = [dtype for dtype in (torch.float32, torch.bfloat16) if packs(CPU, dtype)]
packing = pytest.mark.skipif(not FORMATS, reason="this torch has no product of packed matrices")


@packing
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("rows", [(0,), (1,), (37,), (3, 0), (2, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_product_is_that_of_float64(dtype, rows, bias):
    torch.manual_seed(0)
    linear = nn.Linear(24, 7, bias=bias).to(dtype)
    x = torch.randn(24, *rows).to(dtype).movedim(0, -1)  # no row lies in one piece
    ours = Packed(linear.weight, linear.bias)(x)
    assert ours.dtype == dtype
    expected = linear.double()(x.double())
    digits = 2**-8 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(ours.double(), expected, rtol=digits, atol=digits)


@packing
@pytest.mark.parametrize("name", marked(FAMILIES, alike=False))
def test_a_packed_model_says_what_it_said(name):
    """Of every family, some of which read a matrix instead of calling its map."""
    for dtype in FORMATS if name in ("roberta", "gpt2") else FORMATS[:1]:
        model = tiny(name).to(dtype)
        ids = torch.randint(5, 60, (2, 11), generator=torch.Generator().manual_seed(0))
        own, weights = model(input_ids=ids).logits, model.state_dict()
        packed = pack(copy.deepcopy(model), least=1)
        assert any(isinstance(part, Packed) for part in packed.modules())
        assert not any(type(part) in (nn.Linear, Conv1D) for part in packed.modules())
        near = 1e-5 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(packed(input_ids=ids).logits, own, rtol=near, atol=near)
        assert own.float().std() > 0.05
        assert not any(parameter.requires_grad for parameter in packed.parameters())
        # Records name a model by a hash of its weights: they are still there, the same to the last bit.
        kept = packed.state_dict()
        assert weights.keys() == kept.keys()
        assert all(torch.equal(weights[key], kept[key]) for key in weights)


def large() -> nn.Module:
    """A model whose output alone is worth packing."""
    return tiny("roberta", vocab=2**13)


@packing
def test_a_model_is_packed_where_it_is_placed():
    placed = place(large(), CPU, torch.float32, exact=False)
    assert placed.dtype == torch.float32
    assert isinstance(placed.lm_head.decoder, Packed)
    assert type(placed.lm_head.dense) is nn.Linear
    half = place(large(), CPU, torch.float16, exact=False)
    assert type(half.lm_head.decoder) is nn.Linear


@packing
@pytest.mark.parametrize("dtype", FORMATS)
def test_plain_layers_of_a_packed_model_are_its_own(dtype):
    """Queries, keys and values side by side, and the last layer where it is read."""
    model = tiny("roberta").to(dtype)
    ids = torch.randint(5, 60, (2, 11), generator=torch.Generator().manual_seed(0))
    query_mask = torch.zeros_like(ids, dtype=torch.bool)
    query_mask[0, 3:6] = query_mask[1, 8] = True
    before = Backbone(model)(ids, query_mask)
    ours = Backbone(pack(model, least=1), final=True)(ids, query_mask)
    near = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(ours, before, rtol=near, atol=near)


def test_without_the_product_maps_stay_as_they_are(monkeypatch):
    assert not packs(torch.device("meta"), torch.float32)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    placed = place(large(), CPU, torch.float32, exact=False)
    assert type(placed.lm_head.decoder) is nn.Linear
