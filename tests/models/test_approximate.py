"""Kept keys and values on the full canvas, against the model as transformers calls it."""

from dataclasses import replace

import pytest
import torch
from helpers import blocks
from helpers.blocks import MASK, NOISE, VOCAB, prompts

from diffusion import rng
from diffusion.canvas import Query
from diffusion.denoise import denoise
from diffusion.errors import UserError
from diffusion.generate import load_writer
from diffusion.models.backbone import Backbone
from diffusion.models.cached import Approximate
from diffusion.models.denoiser import Denoiser
from diffusion.models.soft import SoftMask
from diffusion.noise import make_noise
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler

END, SIZE = 2, 4
SAMPLERS = [("confidence", {"n_steps": 12}), ("remdm", {"n_steps": 12}), ("first-hitting", {})]


def tiny(kind="roberta", shift=True):
    return Denoiser(blocks.tiny(kind, shift, "eager"), NOISE, [1])


def canvas(*sizes, new=10):
    """Prompts of these lengths with so many masks after each, padded to the longest."""
    return prompts(*sizes, total=max(sizes) + new, new=new)


class Substituted(Approximate):
    """Holds every answer against transformers' own layers, row by row, in which the outputs of the
    maps to keys and values are those of the last whole pass at the slots that are kept."""

    def start(self, canvas):
        other = super().start(canvas)
        other.stored, other.last, other.since, other.stale = {}, {}, {}, 0
        other.begins = [int((~c).nonzero()[0, 0]) for c in canvas.frozen]
        return other

    def __call__(self, query):
        counted = self.slots(query).tolist()
        expected = []
        for i, row in enumerate(query.rows.tolist()):
            length = int((~query.padding[i]).sum())
            query_mask = query.query_mask[i].nonzero()[:, 0].tolist()
            number = (query_mask[0] - self.begins[row]) // SIZE
            fresh = self.last.get(row) != number or self.since[row] == self.refresh
            self.last[row], self.since[row] = number, 1 if fresh else self.since[row] + 1
            start = self.begins[row] + number * SIZE
            stop = min(start + SIZE, length) if self.dual else length
            slots = range(length) if fresh else range(start - self.denoiser.backbone.shift, stop)
            assert counted[i] == len(slots)
            self.stale += not fresh
            logits = self.by_transformers(query.ids[i : i + 1, :length], row, slots)
            expected += [logits[place - self.denoiser.backbone.shift] for place in query_mask]
        expected = torch.stack(expected).index_fill_(1, self.denoiser.forbidden, -torch.inf)
        found = super().__call__(query)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        return found

    def by_transformers(self, ids, row, slots):
        model, hooks = self.denoiser.backbone.model, []
        kept = torch.ones(ids.shape[1], dtype=torch.bool)
        kept[list(slots)] = False

        def substitute(name):
            def hook(module, inputs, output):
                if kept.any():
                    output = torch.where(kept[:, None], self.stored[row, name], output)
                self.stored[row, name] = output.clone()
                return output

            return hook

        for name, module in model.named_modules():
            if name.endswith(("self.key", "self.value")):
                hooks.append(module.register_forward_hook(substitute(name)))
        try:
            return model(ids).logits[0]
        finally:
            for hook in hooks:
                hook.remove()


def texts(denoiser, canvas, name, own, keys=None, block=SIZE):
    keys = rng.row_keys(0, range(len(canvas.ids)), torch.device("cpu")) if keys is None else keys
    sampler = make_sampler(name, block_length=block, **own)
    return list(denoise(canvas, denoiser, sampler, Sampling(), keys, END))[-1]


@pytest.mark.parametrize(("name", "own"), SAMPLERS)
@pytest.mark.parametrize("dual", [False, True])
def test_computed_in_every_pass_it_is_the_model_without_a_cache(name, own, dual):
    plain, rows = tiny(), canvas(3, 7, 5)
    expected = texts(plain, rows, name, own)
    found = texts(Approximate(plain, SIZE, dual, 1), rows, name, own)
    assert torch.equal(found.ids, expected.ids) and torch.equal(found.slots, expected.slots)


@pytest.mark.parametrize(
    "refresh", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (None, 3))]
)
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("kind", ["roberta", pytest.param("bert", marks=pytest.mark.slow)])
def test_logits_are_those_of_layers_with_kept_keys_and_values_put_in(kind, dual, refresh):
    """Rows of different lengths, which are at different blocks and end at different times."""
    started = []

    class Watched(Substituted):
        def start(self, canvas):
            started.append(super().start(canvas))
            return started[-1]

    denoiser = Watched(tiny(kind, shift=kind == "roberta"), SIZE, dual, refresh)
    for name, own in SAMPLERS if refresh == 2 else SAMPLERS[:2]:
        texts(denoiser, canvas(3, 7, 5), name, own)
    assert all(one.stale > 5 for one in started)


def test_a_block_that_is_the_whole_canvas_is_exact():
    """All but <s> is written: what is computed is all there is, since slot 0 is the one before."""
    plain, rows = tiny(), canvas(1, 1)
    for name, own in SAMPLERS:
        expected = texts(plain, rows, name, own, block=10)
        found = texts(Approximate(plain, 10, dual=True), rows, name, own, block=10)
        assert torch.equal(found.ids, expected.ids)


@pytest.mark.parametrize("dual", [False, True])
def test_other_rows_change_nothing(dual):
    denoiser, rows = Approximate(tiny(), SIZE, dual, 3), canvas(3, 7, 5)
    keys, own = rng.row_keys(0, range(3), torch.device("cpu")), ("threshold", {"threshold": 0.3})
    together = texts(denoiser, rows, *own, keys)
    for row in range(3):
        alone = texts(denoiser, rows.take([row]), *own, keys[row : row + 1])
        assert torch.equal(alone.ids[0], together.ids[row])
        assert alone.slots[0] == together.slots[row]


def test_unchanged_after_a_whole_pass_nothing_changes():
    rows = canvas(3, 7)
    denoiser = Approximate(tiny(), SIZE, dual=True).start(rows)
    query_mask = (rows.ids == MASK) & ((~rows.frozen).cumsum(1) <= SIZE)
    query = Query(rows.ids, query_mask, padding=rows.padding)
    with torch.inference_mode():
        first, again = denoiser(query), denoiser(query)
    torch.testing.assert_close(first, again, rtol=1e-4, atol=1e-4)
    assert denoiser.slots(query).tolist() == [SIZE + 1] * 2
    with pytest.raises(ValueError, match="one block"):
        denoiser(Query(rows.ids, rows.ids == MASK, padding=rows.padding))


NEAR = GenerationOptions(
    attention="full", sampler="ancestral", block_length=4, approximate_cache="dual", max_len=16
)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("noise", make_noise("hybrid", MASK, [1], VOCAB), "for masks, not for hybrid"),
        ("soft", SoftMask(), "does not go with soft-masking; add --no_soft_masking"),
        ("keeps", False, "models of type roberta keep no keys and values"),
    ],
)
def test_models_that_it_is_not_for_are_refused(tiny_model, monkeypatch, name, value, said):
    writer = load_writer(str(tiny_model))
    writer.check(NEAR)
    monkeypatch.setattr(Backbone if name == "keeps" else writer.denoiser, name, value)
    with pytest.raises(UserError, match=said):
        writer.check(NEAR)
    writer.check(replace(NEAR, approximate_cache=None))


def test_holes_are_refused(tiny_model):
    writer = load_writer(str(tiny_model))
    holes = canvas(3)
    holes.frozen[0, 6] = True
    with pytest.raises(UserError, match="leave them out where spans are filled"):
        list(writer.denoise(holes, NEAR, [0], False))
