"""A text that is done costs nothing more, and is the text that it was without stopping."""

import copy
import itertools

import pytest
import torch
from helpers.blocks import MASK, NOISE, prompts
from helpers.draws import LIVELY, M, masks, run
from helpers.tabular import PLAIN, TabularDenoiser
from test_frozen import denoiser_of

from diffusion import rng
from diffusion.canvas import Canvas
from diffusion.denoise import denoise
from diffusion.generate import denoise_windows
from diffusion.models.cached import InBlocks, Verifying
from diffusion.models.denoiser import Denoiser
from diffusion.proposal import Sampling
from diffusion.samplers.catalog import CAUSAL
from diffusion.samplers.make import Blocks, make_sampler
from diffusion.samplers.remasking import P2, RandomRemask, Saber, Wino
from diffusion.speculative import Drafting

LENGTH, END, ROWS = 6, 2, 400


class Counting(TabularDenoiser):
    """Counts shadow copies as slots."""

    def slots(self, query):
        shadows = 0 if query.shadows is None else query.shadows.sum(1)
        return super().slots(query) + shadows


def both(make_denoiser, sampler, canvas):
    """The Steps of texts that end at ``END``, and of the same texts without an end."""
    runs = []
    for end in (END, None):
        keys = rng.row_keys(5, range(len(canvas.ids)))
        stream = denoise(canvas, make_denoiser(), sampler(), Sampling(), keys, end)
        runs.append(list(itertools.islice(stream, 300)))
        assert len(runs[-1]) < 300
    return runs


def assert_same_up_to_the_end(ours, whole, canvas) -> torch.Tensor:
    """Every text is that of the run without an end, up to its first end, and nothing is after it.
    Returns the rows (B,) that have one before their last position."""
    last, complete = ours[-1], whole[-1]
    end = (complete.ids == END) & ~canvas.frozen
    after = (end.cumsum(1) - end.long() > 0) & ~canvas.frozen
    assert torch.equal(last.padding, canvas.padding | after)
    assert torch.equal(last.frozen, canvas.frozen | after)
    assert torch.equal(last.ids[~after], complete.ids[~after])
    kept = last.confidence[~after], complete.confidence[~after]
    torch.testing.assert_close(*kept, rtol=0, atol=0, equal_nan=True)
    assert last.confidence[after].isnan().all() and not last.masked.any()
    assert (last.nfe <= complete.nfe).all() and (last.slots <= complete.slots).all()
    none = ~after.any(1)
    assert torch.equal(last.nfe[none], complete.nfe[none])
    for before, step in itertools.pairwise(ours):
        over = (before.padding & ~canvas.padding).any(1)
        for name in ("ids", "nfe", "slots", "padding"):  # in a row that is done nothing happens
            assert torch.equal(getattr(before, name)[over], getattr(step, name)[over])
        assert not (step.revealed | step.remasked)[over].any()
        assert not ((step.revealed | step.remasked | step.masked) & step.padding).any()
    return ~none


NOISED = dict.fromkeys(("ddim", "self-correction", "gibbs"), ("hybrid",))
NOISED |= {"ancestral": ("hybrid", "uniform")}
CASES = [(name, noise) for name in PLAIN for noise in ("absorbing", *NOISED.get(name, ()))]
CASES.remove(("self-correction", "absorbing"))
# In one block these may re-mask what they wrote until their last pass.
TO_THE_LAST = {"ddim", "gibbs", "remdm", "wino", "saber"}


@pytest.mark.parametrize(
    "more", [{}, {"block_length": 2}, {"block_length": 3, "early_commit": 3.0}]
)
@pytest.mark.parametrize(("name", "noise"), CASES)
def test_a_text_ends_at_its_end_as_soon_as_it_is_final(name, noise, more):
    """On a canvas where all see each other, so that what comes after an end changes what is before
    it, as long as anything is open there."""
    if more and noise != "absorbing":
        more = {}
    ids = masks(ROWS, LENGTH)
    ids[:, 0] = END  # given, which ends nothing
    canvas = Canvas(ids, ids != M, torch.zeros_like(ids, dtype=torch.bool))
    table = TabularDenoiser(LENGTH, 3, seed=8, noise=noise)
    table.calls = table.rows_seen = 0
    sampler = lambda: make_sampler(  # noqa: E731
        name, 4, noise=table.noise, **LIVELY.get(name, {}), **more
    )
    ours, whole = both(lambda: table, sampler, canvas)
    ended = assert_same_up_to_the_end(ours, whole, canvas)
    assert ROWS // 10 < ended.sum() < ROWS
    last, complete = ours[-1], whole[-1]
    assert table.rows_seen == (last.nfe + complete.nfe).sum()  # none is computed along
    assert torch.equal(last.slots, last.nfe * LENGTH)
    fewer = (complete.nfe > last.nfe)[ended].double().mean()
    if noise == "absorbing" and name not in (() if more else TO_THE_LAST):
        assert fewer > 0.03


@pytest.mark.parametrize("name", ["confidence", "remdm", "causal", "speculative", "arpc"])
def test_in_blocks_nothing_behind_an_end_is_computed_or_counted(name):
    rows, model = 60, copy.deepcopy(denoiser_of("model").backbone.model)
    model.lm_head.bias.data[END] += 2 if name == "arpc" else 3
    model = Denoiser(model, NOISE, [0, 1, MASK])
    canvas = prompts(*(3, 5, 8) * (rows // 3), new=11)
    own = {"arpc": {"tokens_per_draft": 2}, "speculative": {"draft_length": 3}}.get(name, {})
    block = {} if name in CAUSAL else {"block_length": 4}
    sampler = lambda: make_sampler(name, n_steps=6, **own, **block)  # noqa: E731
    kinds = {"speculative": lambda: Drafting(model, 3), "arpc": lambda: Verifying(model, 4)}
    kind = kinds.get(name, lambda: InBlocks(model, 4, clean=name == "causal"))
    ours, whole = both(kind, sampler, canvas)
    ended = assert_same_up_to_the_end(ours, whole, canvas)
    assert rows // 4 < ended.sum() < rows
    last, complete = ours[-1], whole[-1]
    assert last.nfe[ended].sum() < 0.8 * complete.nfe[ended].sum()
    assert last.slots[ended].sum() < 0.8 * complete.slots[ended].sum()
    if name == "speculative":  # a draft of an end has nothing after it, wherever the text ends
        early = [(a.nfe == b.nfe) & (a.slots < b.slots) for a, b in zip(ours, whole, strict=False)]
        assert any((e & ended).any() for e in early)


def test_the_last_draft_of_a_block_is_left_out_where_only_what_is_after_the_end_is_masked():
    """Two drafts of four tokens: written, two masked again, written; the end is a third of all."""
    canvas = Canvas(masks(ROWS, 4), *torch.zeros(2, ROWS, 4, dtype=torch.bool))
    table = TabularDenoiser(4, 3, seed=8)
    ours, whole = both(lambda: table, lambda: make_sampler("arpc:tokens_per_draft=2"), canvas)
    assert_same_up_to_the_end(ours, whole, canvas)
    assert (whole[-1].nfe == 3).all()
    left = whole[2]  # what the second pass has masked again
    end = (left.ids == END).int()
    first = torch.where(end.any(1), end.argmax(1), 4)
    spared = ~(left.masked & (torch.arange(4) < first[:, None])).any(1) & end.any(1)
    assert torch.equal(ours[-1].nfe == 2, spared) and 0.1 < spared.double().mean() < 0.9


def test_rows_with_nothing_to_write_end_at_once():
    """Also those of samplers that count their steps, and later windows of texts that have ended."""
    ids = torch.tensor([[0, 1, 2]])
    nothing = torch.zeros_like(ids, dtype=torch.bool)
    keys, table = rng.row_keys(0, [0]), TabularDenoiser(3, 3)
    steps = denoise(Canvas(ids, ~nothing, nothing), table, RandomRemask(9), Sampling(), keys)
    assert len(list(steps)) == 1
    ids = torch.tensor([[0] + [M] * 30])
    canvas = Canvas(ids, ids != M, torch.zeros_like(ids, dtype=torch.bool))
    sure = TabularDenoiser(4, 3)
    sure.table[..., END] += 99.0
    how = sure, lambda: RandomRemask(9), Sampling(), keys, 4, 2
    steps = list(denoise_windows(canvas, *how, end_id=END))
    assert len(steps) <= 10 and steps[-1].padding.sum() == 29


# ---------------------------------------- what is not asked since no answer could change the text


def asking(kind):
    """The class of a sampler that asks about all its tokens in every step."""

    class Asking(kind):
        def select(self, state):
            super().select(state)
            over = state.turn > self.planned(state) if kind is P2 else ~state.masked.any(1)[:, None]
            return state.editable & ~over

    return Asking


@pytest.mark.parametrize(
    ("kind", "options", "passes"),
    [
        (P2, (7, 1.6), True),  # five tokens in seven steps: the sixth writes the last
        (P2, (4, 1.6), False),
        (P2, (9, 0.5, "released"), True),
        (Wino, (0.5, 0.8), False),
        (Saber, (2, 1), False),
    ],
)
@pytest.mark.parametrize("block_length", [0, 2])
def test_what_cannot_change_the_text_is_not_asked(kind, options, passes, block_length):
    def written(made):
        sampler = Blocks(made(*options), block_length) if block_length else made(*options)
        return run(Counting(5, 3, seed=3), sampler, seed=2, ids=masks(300, 5), limit=40)

    ours, theirs = written(kind), written(asking(kind))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.ids, b.ids) and torch.equal(a.remasked, b.remasked)
        torch.testing.assert_close(a.confidence, b.confidence, rtol=0, atol=0, equal_nan=True)
    ours, theirs = ours[-1], theirs[-1]
    assert (ours.nfe <= theirs.nfe).all() and (ours.slots <= theirs.slots).all()
    if passes:
        assert (ours.nfe < theirs.nfe).all()
    if not block_length:
        assert ours.slots.sum() < theirs.slots.sum()
        assert any(step.remasked.any() for step in written(kind))
