"""Scores of texts against loops written by hand, sums over all mask patterns, and the bound that
evaluation reports."""

import itertools
import math

import pytest
import torch
from helpers.tabular import TabularDenoiser

from diffusion.canvas import Canvas
from diffusion.editing.canvases import canvas_of
from diffusion.generate import load_writer
from diffusion.likelihood import TextBound, likelihood_bound, pseudo_likelihood, text_bounds
from diffusion.noise import Absorbing

TEXTS = ["The river runs.", "She opened the window and listened.", "He", "In 1887 the railway"]


@pytest.fixture(scope="module")
def writer(tiny_model):
    return load_writer(str(tiny_model), dtype="float32")


@pytest.fixture(scope="module")
def canvas(writer):
    encode = writer.tokenizer
    rows = [[0, *encode(text, add_special_tokens=False)["input_ids"]] for text in TEXTS]
    return canvas_of(writer.tokenizer, [torch.tensor(row) for row in rows])


def written(canvas):
    """Every token but ``<s>`` and padding."""
    rows = ~canvas.padding
    rows[:, 0] = False
    return rows


def test_pseudo_likelihood_is_the_loop_written_by_hand(writer, canvas):
    hidden = written(canvas)
    hidden[:, 2] = False
    hidden[2] = False
    hidden[2, 1] = True
    backbone, noise = writer.denoiser.backbone, writer.denoiser.noise
    got = pseudo_likelihood(backbone, canvas, hidden, noise, batch_size=7)
    model = backbone.model
    for row in range(len(TEXTS)):
        ids = canvas.ids[row][~canvas.padding[row]]
        total = []
        for position in hidden[row].nonzero()[:, 0].tolist():
            masked = ids.clone()
            masked[position] = 4
            where = torch.arange(2, 2 + len(ids))[None]
            with torch.no_grad():
                logits = model(input_ids=masked[None], position_ids=where).logits[0]
            # This model is shifted: token i is read at slot i - 1.
            total.append(logits[position - 1].log_softmax(-1)[ids[position]].item())
        assert got[row].item() == pytest.approx(sum(total) / len(total), abs=1e-4)


def test_the_bound_of_a_text_is_what_evaluation_reports_for_it_alone(writer, canvas):
    score = writer.denoiser.backbone
    draws = text_bounds(score, canvas, written(canvas), Absorbing(4), draws=6, batch_size=5, seed=3)
    assert draws.shape == (len(TEXTS), 6)
    sizes = torch.ones(320, dtype=torch.int64)
    for row in range(len(TEXTS)):
        ids = canvas.ids[row][~canvas.padding[row]][None]
        editable = torch.ones_like(ids, dtype=torch.bool)
        editable[:, 0] = False
        alone = likelihood_bound(score, ids, editable, Absorbing(4), sizes, draws=6, seed=3)
        assert draws[row].mean().item() == pytest.approx(alone.nats_per_token, abs=1e-4)


def test_the_bound_of_a_text_does_not_depend_on_the_others(writer, canvas):
    score, rows = writer.denoiser.backbone, written(canvas)
    all_of_them = text_bounds(score, canvas, rows, Absorbing(4), draws=5, batch_size=16)
    small = text_bounds(score, canvas, rows, Absorbing(4), draws=5, batch_size=1)
    assert torch.allclose(all_of_them, small, atol=1e-5)
    turned = Canvas(canvas.ids.flip(0), canvas.frozen.flip(0), canvas.padding.flip(0))
    found = text_bounds(score, turned, rows.flip(0), Absorbing(4), draws=5)
    assert torch.allclose(found, all_of_them.flip(0), atol=1e-5)


def exact_bound(denoiser, text, editable):
    """sum over k of S_k / k: every set of k masks equally likely."""
    total = 0.0
    for k in range(1, len(editable) + 1):
        sets = list(itertools.combinations(editable, k))
        for hidden in sets:
            canvas = tuple(denoiser.mask_id if i in hidden else t for i, t in enumerate(text))
            p = denoiser.probabilities(canvas)
            total -= sum(math.log(p[i][text[i]]) for i in hidden) / k / len(sets)
    return total


@pytest.mark.parametrize("editable", [(0, 1, 2, 3), (1, 3), (2,)])
def test_the_bound_is_the_exact_one_within_its_standard_error(editable):
    denoiser = TabularDenoiser(4, 3, seed=2)
    text = (2, 0, 1, 1)
    ids = torch.tensor([text])
    rows = torch.zeros_like(ids, dtype=torch.bool)
    rows[0, list(editable)] = True
    canvas = Canvas(ids, ~rows, torch.zeros_like(rows))
    many = {"draws": 4000, "batch_size": 4000}
    (draws,) = text_bounds(denoiser.backbone, canvas, rows, Absorbing(3), **many)
    bound = TextBound.of(draws, len(editable), 8)
    exact = exact_bound(denoiser, text, editable)
    assert abs(bound.nats - exact) <= 4 * bound.standard_error + 1e-6
    assert bound.standard_error < 0.05
    assert bound.nats_per_token == pytest.approx(bound.nats / len(editable))
    assert bound.nats_per_byte == pytest.approx(bound.nats / 8)


def test_one_draw_has_no_standard_error():
    bound = TextBound.of(torch.tensor([2.0]), 3, 6)
    assert bound.standard_error is None and bound.nats == 6
