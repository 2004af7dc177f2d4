"""What sees what in two streams, held against passes over ordinary canvases."""

import functools

import pytest
import torch
from helpers.families import tiny

from diffusion.models import layouts
from diffusion.models.backbone import Backbone
from diffusion.models.layouts import arrange

LENGTH, VOCAB, MASK = 21, 40, 4
KINDS = ["eager", "sdpa", layouts.ATTENTION]

every_model = pytest.mark.parametrize("shift", [True, False], ids=["shifted", "own slot"])
every_attention = pytest.mark.parametrize("attention", KINDS)
every_size = pytest.mark.parametrize("size", [1, 4, 7, LENGTH - 1])


@functools.cache
def backbone(shift: bool, attention: str = "eager") -> Backbone:
    return Backbone(tiny("roberta", VOCAB, 2, attention, shift=shift))


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """So that a layout has several."""
    monkeypatch.setattr(layouts, "_GROUP", 8)
    arrange.cache_clear()
    yield
    arrange.cache_clear()


def canvases(rows: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(clean, noisy), about half of it masks."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(5, VOCAB, (rows, LENGTH), generator=generator)
    clean[:, 0] = 0
    masked = torch.rand(clean.shape, generator=generator) < 0.5
    masked[:, 0] = False
    return clean, clean.masked_fill(masked, MASK)


@torch.no_grad()
def predictions(model: Backbone, slots, clean, noisy) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, L, V) of the clean and of the noisy stream for each token, 0 where there are none."""
    ids = slots.fill(clean, noisy)
    every = torch.ones_like(ids, dtype=torch.bool)
    logits = model(ids, every, layout=slots).view(*ids.shape, -1)
    out = []
    for read in (slots.clean_read, slots.noisy_read):
        out.append(logits[:, read] * (read >= 0)[:, None])
    return tuple(out)


@torch.no_grad()
def plain(model: Backbone, ids, seen=None) -> torch.Tensor:
    """Logits (B, L, V) at all slots of an ordinary pass, in which ``seen`` (L, L) sees what."""
    mask = None
    if seen is not None:
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        mask = mask.expand(len(ids), 1, -1, -1)
    places = torch.arange(2, 2 + ids.shape[1])[None]
    return model.model(input_ids=ids, attention_mask=mask, position_ids=places).logits


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@every_model
@every_size
def test_slots_are_those_of_the_design(shift, size):
    slots = arrange(f"block{size}", LENGTH, 1, shift)
    tokens, blocks = LENGTH - 1, -(-(LENGTH - 1) // size)
    assert len(slots.place) == LENGTH + tokens + (blocks if shift else 0)
    assert slots.noisy.sum() == tokens
    assert torch.equal(slots.place[slots.noisy], torch.arange(1, LENGTH))
    assert torch.equal(slots.place[slots.noisy_read[1:]], torch.arange(1, LENGTH) - int(shift))
    assert torch.equal(slots.clean_read[1:], torch.arange(LENGTH - 1))
    assert slots.bias.shape == (1, 1, len(slots.place), len(slots.place))
    assert arrange(f"block{size}", LENGTH, 1, shift) is slots  # built once


@every_model
@pytest.mark.parametrize("size", [1, 3, 7, None])
@pytest.mark.parametrize("first", [1, 5])
def test_groups_hold_all_that_is_seen_and_each_slot_asks_once(shift, size, first):
    slots = arrange(f"block{size}" if size else "causal", LENGTH, first, shift)
    seen = torch.full_like(slots.bias[0, 0], torch.finfo(torch.float32).min)
    query_mask = torch.zeros(len(slots.place), dtype=torch.long)
    number = torch.arange(len(slots.place))
    assert (len(slots.groups) > 1) == (size is not None)
    for group in slots.groups:
        q, k = (
            torch.cat([number[part] for part in parts]) for parts in (group.queries, group.keys)
        )
        seen[q[:, None], k] = group.bias[0, 0]
        query_mask[q] += 1
    assert torch.equal(seen, slots.bias[0, 0])
    assert (query_mask == 1).all()


@every_model
@every_size
def test_all_attentions_agree(shift, size):
    clean, noisy = canvases()
    slots = arrange(f"block{size}", LENGTH, 1, shift)
    first, *others = (predictions(backbone(shift, kind), slots, clean, noisy) for kind in KINDS)
    for other in others:
        close(other[0], first[0])
        close(other[1], first[1])


@every_model
@every_attention
def test_the_clean_stream_is_the_causal_pass(shift, attention):
    clean, noisy = canvases()
    causal = torch.ones(LENGTH, LENGTH).tril().bool()
    expected = plain(backbone(shift), clean, causal)[:, :-1]
    for layout in ("causal", "block4", "block7"):
        slots = arrange(layout, LENGTH, 1, shift)
        got, _ = predictions(backbone(shift, attention), slots, clean, noisy)
        close(got[:, 1:], expected)
    if shift:  # the pass that a causal warm start is trained with
        rows = torch.ones_like(clean, dtype=torch.bool)
        rows[:, 0] = False
        with torch.no_grad():
            old = backbone(shift)(clean, rows, causal=True).view(len(clean), LENGTH - 1, -1)
        close(old, expected)


@every_model
@every_attention
@every_size
def test_a_later_block_changes_nothing_before_it_bitwise(shift, attention, size):
    """Neither its true tokens nor which of them are masked; an earlier one changes everything."""
    model, slots = backbone(shift, attention), arrange(f"block{size}", LENGTH, 1, shift)
    clean, noisy = canvases()
    before = predictions(model, slots, clean, noisy)
    for start in range(1, LENGTH, size):
        other, others = clean.clone(), noisy.clone()
        other[:, start:] = 5 + (clean[:, start:] - 4) % (VOCAB - 5)  # each one another
        others[:, start:] = other[:, start:].where(noisy[:, start:] == MASK, noisy.new_tensor(MASK))
        after = predictions(model, slots, other, others)
        assert torch.equal(after[1][:, :start], before[1][:, :start])
        assert torch.equal(after[0][:, : start + 1], before[0][:, : start + 1])
        if start + size < LENGTH:
            later = slice(start + size, None)
            assert (after[1][:, later] != before[1][:, later]).any(-1).all()


@every_model
@every_attention
def test_a_block_of_one_is_the_clean_text_with_a_mask_to_its_right(shift, attention):
    """Slots before the last see what is before them; the last one, at which the shifted model
    reads, and the mask after it see each other, too."""
    slots = arrange("block1", LENGTH, 1, shift)
    clean, _ = canvases()
    masked = torch.full_like(clean, MASK)
    _, got = predictions(backbone(shift, attention), slots, clean, masked)
    for token in range(1, LENGTH):
        ids = torch.cat([clean[:, :token], masked[:, :1]], 1)
        seen = torch.ones(token + 1, token + 1).tril().bool()
        seen[token - 1, token] = shift
        close(got[:, token], plain(backbone(shift), ids, seen)[:, token - shift])


@every_model
@every_attention
def test_one_block_of_everything_is_the_full_layout(shift, attention):
    clean, noisy = canvases()
    first = 1 if shift else 0  # without a clean part: at its own slot <s> is in the block, too
    slots = arrange(f"block{LENGTH - first}", LENGTH, first, shift)
    _, got = predictions(backbone(shift, attention), slots, clean, noisy)
    rows = torch.ones_like(noisy, dtype=torch.bool)
    rows[:, 0] = False
    with torch.no_grad():
        expected = backbone(shift)(noisy, rows).view(len(noisy), LENGTH - 1, -1)
    close(got[:, 1:], expected)


@every_model
def test_a_prefix_is_in_no_block_and_seen_by_all(shift):
    slots = arrange("block4", LENGTH, 6, shift)
    assert (slots.noisy_read[:6] == -1).all() and (slots.noisy_read[6:] >= LENGTH).all()
    clean, noisy = canvases()
    _, got = predictions(backbone(shift, layouts.ATTENTION), slots, clean, noisy)
    clean[:, 2] = (clean[:, 2] + 1).clamp(max=VOCAB - 1)
    _, other = predictions(backbone(shift, layouts.ATTENTION), slots, clean, noisy)
    assert (got[:, 6:] != other[:, 6:]).any(-1).all()


@every_attention
def test_gradients_agree(attention):
    slots, (clean, noisy) = arrange("block4", LENGTH, 1, True), canvases()
    ids = slots.fill(clean, noisy)
    every = torch.ones_like(ids, dtype=torch.bool)
    gradients = []
    for kind in ("eager", attention):
        model = backbone(True, kind)
        model.zero_grad()
        model(ids, every, layout=slots).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_without_a_layout_the_attention_is_the_usual_one():
    _, noisy = canvases()
    rows = torch.ones_like(noisy, dtype=torch.bool)
    rows[:, 0] = False
    for kwargs in ({}, {"causal": True}):
        with torch.no_grad():
            close(backbone(True, layouts.ATTENTION)(noisy, rows, **kwargs),
                  backbone(True)(noisy, rows, **kwargs))  # fmt: skip
