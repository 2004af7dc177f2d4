"""GPT-2's layers as plain calls against the forward pass of transformers."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from diffusion.models.decoder import Forward, PlainGpt2, reader
from diffusion.models.linear import pack

LENGTH = 12


def tiny(**settings):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=16,
        initializer_range=0.3,
        **settings,
    )
    return GPT2LMHeadModel(config).eval()


def read_on(read, ids, real, prompt):
    """The logits (L - P + 1, B, V) after a prompt of P slots and after each further token."""
    place = (real.cumsum(1) - 1).clamp(0)
    parts = [slice(0, prompt), *(slice(i, i + 1) for i in range(prompt, LENGTH))]
    with torch.no_grad():
        return torch.stack([read(ids[:, p], place[:, p], real[:, : p.stop]) for p in parts])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("padding", "prompt"), [((0, 0, 0), 1), ((0, 0, 0), 5), ((0, 4, 2), 5)])
def test_the_logits_are_those_of_transformers(padding, prompt, dtype):
    """Also where shorter prompts are padded on the left, whose slots are seen by no other."""
    model = tiny().to(dtype)
    ids = torch.randint(0, 50, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    real = torch.arange(LENGTH) >= torch.tensor(padding)[:, None]
    plain = read_on(PlainGpt2(model, 3, LENGTH), ids, real, prompt)
    theirs = read_on(Forward(model), ids, real, prompt)
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.3}
    torch.testing.assert_close(plain, theirs, **close)
    for row, skipped in enumerate(padding):  # without a cache, and each row alone
        with torch.no_grad():
            alone = model(ids[row : row + 1, skipped:]).logits[0, prompt - 1 - skipped :]
        torch.testing.assert_close(plain[:, row], alone, **close)


def test_packed_matrices_are_read_as_well():
    ids, real = torch.arange(LENGTH)[None], torch.ones(1, LENGTH, dtype=torch.bool)
    expected = read_on(Forward(tiny()), ids, real, 4)
    packed = pack(tiny(), least=0)
    found = read_on(PlainGpt2(packed, 1, LENGTH), ids, real, 4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"add_cross_attention": True},
    ],
)
def test_other_attention_is_left_to_transformers(settings):
    assert isinstance(reader(tiny(**settings), 1, 4), Forward if settings else PlainGpt2)
