"""Block attention with kept keys and values, against the two-stream pass of training."""

import copy

import pytest
import torch
from helpers.blocks import MASK, NOISE, VOCAB, prompts, tiny
from helpers.families import marked
from helpers.tabular import PLAIN, TabularDenoiser

from diffusion import rng
from diffusion.canvas import Canvas, Query
from diffusion.denoise import denoise
from diffusion.generate import denoise_windows
from diffusion.models import cached
from diffusion.models.cached import InBlocks
from diffusion.models.denoiser import Denoiser
from diffusion.models.families import FAMILIES
from diffusion.models.guidance import Guided
from diffusion.models.layouts import arrange
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler

END = 2


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """These passes are small: here, too, the last layer computes what is read alone. Everything is
    computed in test_speculative.py."""
    monkeypatch.setattr(cached, "FEW", 0)


class Checked(InBlocks):
    """Compares every answer with the two-stream pass over the whole text, row by row."""

    worst, answers = 0.0, 0

    def __call__(self, query):
        logits = super().__call__(query)
        rows = torch.arange(len(query.ids)) if query.rows is None else query.rows
        parts = []
        for i, row in enumerate(rows.tolist()):
            first, end = int(self.first[row]), int(self.end[row])
            query_mask = query.query_mask[i, :end].nonzero()[:, 0]
            size = self.block_length or end - first
            layout = "causal" if self.clean else f"block{size}"
            slots = arrange(layout, end, first, self.denoiser.backbone.shift)
            ids = query.ids[i : i + 1, :end]
            at = (slots.clean_read if self.clean else slots.noisy_read)[query_mask]
            where = torch.zeros(1, len(slots.place), dtype=torch.bool)
            where[0, at] = True
            parts.append(self.denoiser.backbone(slots.fill(ids, ids), where, layout=slots))
        expected = torch.cat(parts).index_fill_(1, self.denoiser.forbidden, -torch.inf)
        known = torch.isfinite(expected)
        assert torch.equal(known, torch.isfinite(logits))
        scale = expected[known].abs().max()
        Checked.worst = max(Checked.worst, ((logits - expected)[known].abs().max() / scale).item())
        Checked.answers += len(logits)
        return logits


def written(model, canvas, name, block, row=0, end_id=None, keep=True, kind=InBlocks, steps=6):
    """The steps of rows, the first of which is number ``row``."""
    denoiser = kind(Denoiser(model, NOISE, [0, 1]), block, keep, name == "causal")
    sampler = make_sampler(name, steps, **{} if name == "causal" else {"block_length": block})
    keys = rng.row_keys(0, range(row, row + len(canvas.ids)))
    return list(denoise(canvas, denoiser, sampler, Sampling(), keys, end_id))


# Both kinds of slots with these three of the loop; with each of the others, marked slow, one.
QUICK = ("confidence", "remdm", "causal")
OTHERS = [
    n.replace("self-correction", "self-correction:corrections=4") for n in PLAIN if n not in QUICK
]


def cases(others, shift: bool) -> list:
    """(sampler, shift)"""
    slow = [pytest.param(name, shift, marks=pytest.mark.slow) for name in others]
    return [(name, both) for name in QUICK for both in (True, False)] + slow


@pytest.mark.parametrize(
    ("name", "shift"), cases([n for n in OTHERS if not make_sampler(n, 1).hides], False)
)
def test_every_logit_is_that_of_the_two_stream_pass(name, shift):
    """Rows at different blocks, with different prompts and room, some done before others."""
    model = tiny(shift=shift)
    Checked.worst, Checked.answers = 0.0, 0
    for canvas in (prompts(1, 7, 4, total=14), prompts(3, 9, 5, new=6)):
        *_, last = written(model, canvas, name, 4, kind=Checked)
        assert not last.masked.any()
    assert Checked.answers > 40 and Checked.worst < 1e-5


IN_BLOCKS = [name for name in FAMILIES if FAMILIES[name].places]


@pytest.mark.parametrize(
    ("kind", "block"),
    [("roberta", 1), ("roberta", 0), ("bert", 0), ("gpt2", 1)]
    + [pytest.param(*name.values, 3, marks=name.marks) if hasattr(name, "values") else (name, 3)
       for name in marked(IN_BLOCKS, alike=False)],
)  # fmt: skip
def test_blocks_of_any_size_and_family(kind, block):
    Checked.worst, Checked.answers = 0.0, 0
    denoiser = Checked(Denoiser(tiny(kind), NOISE, [0, 1]), block)
    keys = rng.row_keys(3, range(3))
    canvas = prompts(2, 6, 5, new=6)
    sampler = make_sampler("confidence", 4, block_length=block or 20)
    list(denoise(canvas, denoiser, sampler, Sampling(), keys))
    assert Checked.answers and Checked.worst < 1e-5


@pytest.mark.parametrize(("name", "shift"), cases(OTHERS, True))
def test_texts_are_equal_without_the_cache_and_in_other_batches(name, shift):
    model, canvas = tiny(shift=shift), prompts(1, 7, 4, total=12)
    ours = written(model, canvas, name, 3)[-1]
    anew = written(model, canvas, name, 3, keep=False)[-1]
    assert torch.equal(ours.ids, anew.ids) and torch.equal(ours.nfe, anew.nfe)
    assert (anew.slots >= ours.slots).all() and (anew.slots > ours.slots).any()
    for row in (0, 1):
        alone = written(model, canvas.take(slice(row, row + 1)), name, 3, row)[-1]
        assert torch.equal(alone.ids[0], ours.ids[row])
        assert alone.slots[0] == ours.slots[row] and alone.nfe[0] == ours.nfe[row]


@pytest.mark.parametrize("shift", [True, False])
def test_a_shadow_is_the_block_with_that_one_mask_in_a_model_of_one_layer(shift):
    """As `Backbone.shadowed`: exact where nothing else has seen the token."""
    model = copy.deepcopy(tiny(shift=shift))
    model.base_model.encoder.layer = model.base_model.encoder.layer[:1]
    canvas = prompts(4, 4, total=16)
    ids = canvas.ids.clone()
    ids[:, 4:8] = torch.tensor([[5, 6, 7, 8], [9, MASK, 11, 12]])
    denoiser = InBlocks(Denoiser(model, NOISE, [0]), 4).start(canvas)
    query_mask = torch.zeros_like(canvas.frozen)
    query_mask[:, 4:8] = True
    shadows = query_mask & (ids != MASK)
    with torch.no_grad():
        ours = denoiser(Query(ids, query_mask, shadows=shadows)).view(2, 4, VOCAB)
        for place in range(4, 8):
            hidden = ids.clone()
            hidden[:, place] = MASK
            alone = InBlocks(Denoiser(model, NOISE, [0]), 4).start(canvas)
            expected = alone(Query(hidden, query_mask)).view(2, 4, VOCAB)
            torch.testing.assert_close(
                ours[:, place - 4], expected[:, place - 4], rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("shift", [True, False])
def test_slots_of_shadows_are_counted(shift):
    """A shadow is a slot, and of a shifted model a pair of slots."""
    canvas = prompts(5, total=13)
    ids = canvas.ids.clone()
    ids[0, 5:7] = 9
    query_mask = torch.zeros_like(canvas.frozen)
    query_mask[0, 5:9] = True
    denoiser = InBlocks(Denoiser(tiny(shift=shift), NOISE, [0]), 4).start(canvas)
    plain, shadowed = (
        int(denoiser.slots(Query(ids, query_mask, shadows=shadows)))
        for shadows in (None, query_mask & (ids != MASK))
    )
    assert shadowed - plain == 2 * (1 + shift)


def test_early_commit_is_about_the_block_that_is_seen():
    """With a rule that always holds each block is written in one pass, by its own predictions."""
    model, canvas, keys = tiny(), prompts(5, total=17), rng.row_keys(0, [0])
    denoiser = InBlocks(Denoiser(model, NOISE, [0, 1]), 4)
    sampler = make_sampler("first-hitting", block_length=4, early_commit=1e-30, apart=True)
    *_, last = denoise(canvas, denoiser, sampler, Sampling(), keys)
    assert last.nfe.tolist() == [3] and not last.masked.any()


def test_slots_are_counted_by_hand():
    """Prompt of 5 (slots 0..4), blocks of 4 behind it, one pass each, shifted."""
    canvas = prompts(5, total=17)
    steps = written(tiny(), canvas, "confidence", 4, steps=3)
    # Before a block at s the clean slots end at s - 1; its own are s - 1 .. s + 3.
    assert [int(step.slots) for step in steps] == [0, 4 + 5, 9 + 4 + 5, 18 + 4 + 5]
    steps = written(tiny(shift=False), canvas, "confidence", 4, steps=3)
    assert [int(step.slots) for step in steps] == [0, 5 + 4, 9 + 4 + 4, 17 + 4 + 4]
    steps = written(tiny(), canvas, "causal", 1)
    assert [int(step.slots) for step in steps] == [0, *range(5, 17)]


def test_an_end_ends_the_text_and_the_cost():
    """Blocks behind the one with ``</s>`` are never computed; other rows go on."""
    model = copy.deepcopy(tiny())
    model.lm_head.bias.data[END] += 200.0  # every prediction
    for name in ("confidence", "causal"):
        *_, last = written(model, prompts(5, 3), name, 4, end_id=END, steps=4)
        assert last.nfe.tolist() == [1, 1] and not last.masked.any()
        assert last.padding.sum(1).tolist() == [14, 16]
        assert (last.frozen >= last.padding).all()
        assert last.ids[0, 5] == last.ids[1, 3] == END
    *_, last = written(model, prompts(5, 3), "confidence", 4, steps=5)
    assert not last.padding.any()  # no id ends a text of a fixed length


def test_texts_that_ended_stay_so_in_later_windows():
    class Even(TabularDenoiser):
        def __call__(self, query):
            return torch.tensor([0.0, 0, 0, -torch.inf]).expand(int(query.query_mask.sum()), -1)

    ids = torch.full((2, 12), 3)
    ids[:, 0] = 0
    frozen = torch.zeros(2, 12, dtype=torch.bool)
    frozen[:, 0] = True
    canvas = Canvas(ids, frozen, torch.zeros_like(frozen))
    keys = rng.row_keys(1, range(2))
    make = lambda: make_sampler("first-hitting", block_length=2)  # noqa: E731
    steps = list(denoise_windows(canvas, Even(4, 3), make, Sampling(), keys, 6, 3, end_id=2))
    last = steps[-1]
    assert not last.masked.any()
    for row in range(2):
        place = (last.ids[row] == 2).nonzero()[:, 0]
        assert len(place)  # with a third of all tokens an end, both have one
        assert last.padding[row].any() and not last.padding[row, : place[0] + 1].any()
        assert int((~last.padding[row]).sum()) == place[0] + 1
    assert all((step.nfe <= last.nfe).all() for step in steps)


def test_guidance_keeps_two_streams_apart():
    model = tiny()
    canvas = prompts(4, 6, total=14)
    for keep in (True, False):
        inner = InBlocks(Denoiser(model, NOISE, [0, 1]), 4, keep)
        guided = Guided(inner, 1.5, [])
        sampler = make_sampler("confidence", 8, block_length=4)
        *_, last = denoise(canvas, guided, sampler, Sampling(), rng.row_keys(0, range(2)))
        if keep:
            kept = last
    assert torch.equal(kept.ids, last.ids) and (kept.nfe == last.nfe).all()
    assert kept.nfe.min() >= 4 and kept.nfe[0] % 2 == 0
