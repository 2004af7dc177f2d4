"""Guidance, logit processors and windows: what stands around the denoiser."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from helpers.draws import SMALL, M, assert_trajectory, run, start
from helpers.exact import ExactLaws, assert_law, normalise
from helpers.tabular import PLAIN, TabularDenoiser

from diffusion import rng
from diffusion.canvas import Allowed, Canvas, Query
from diffusion.denoise import denoise
from diffusion.generate import denoise_windows
from diffusion.models.guidance import Guided, Processed
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler
from diffusion.samplers.remasking import P2
from diffusion.samplers.unmasking import Confidence, FirstHitting

ROWS = 60_000
QUICK = ("confidence", "remdm", "wino")  # of the loop; the others are marked slow
FEW = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PLAIN]


class ByHand:
    """A denoiser for `ExactLaws` whose probabilities are computed here, in plain Python."""

    mask_id = M

    def __init__(self, rule):
        self.rule = rule

    def probabilities(self, canvas):
        return self.rule(canvas)


def guided(weight):
    def rule(canvas):
        """Position 1 is given."""
        c = SMALL.probabilities(canvas)
        u = SMALL.probabilities((canvas[0], M, *canvas[2:]))
        return [
            normalise([p * (p / q) ** weight for p, q in zip(*pq, strict=True)])
            for pq in zip(c, u, strict=True)
        ]

    return ByHand(rule)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.7, 3.0])
def test_guidance_follows_its_law(weight):
    exact = ExactLaws(guided(weight))
    ours = run(Guided(SMALL, weight, []), FirstHitting(), rows=ROWS, seed=1, limit=5)
    assert_trajectory(ours, exact.trajectory(start(SMALL), [exact.random_order_step] * 3))
    assert (ours[-1].nfe == 6).all()  # two forward passes a token


@pytest.mark.slow
def test_guidance_reaches_what_shadows_predict():
    exact = ExactLaws(guided(1.0))
    steps = [
        lambda c, keep=keep: exact.p2_step(c, (0, 2, 3), keep, 1.5, True) for keep in (1, 2, 3)
    ]
    ours = run(Guided(SMALL, 1.0, []), P2(3, 1.5), rows=ROWS, seed=2)
    assert_trajectory(ours, exact.trajectory(start(SMALL), steps))


@pytest.mark.parametrize("name", FEW)
def test_no_weight_or_nothing_to_hide_is_the_sampler_itself(name):
    plain = run(SMALL, make_sampler(name, 4), rows=300, seed=3, limit=140)
    for denoiser in (Guided(SMALL, 0.0, []), Guided(SMALL, 2.0, [2])):
        ours = run(denoiser, make_sampler(name, 4), rows=300, seed=3, limit=140)
        assert torch.equal(ours[-1].ids, plain[-1].ids)
        assert torch.equal(ours[-1].nfe, 2 * plain[-1].nfe)


def mixed_canvas():
    """Rows with different given tokens; the first has nothing to write, so it leaves the batch."""
    ids = torch.tensor([[0, 1, 2, 0], [M, 2, M, M], [1, M, M, M], [M, M, 0, M]])
    return Canvas(ids, ids != M, torch.zeros_like(ids, dtype=torch.bool))


def write_guided(denoiser, canvas, keys):
    return denoise(canvas, denoiser, FirstHitting(), Sampling(), keys)


def test_guidance_hides_what_is_given_in_each_row_when_others_leave_the_batch():
    canvas, keys = mixed_canvas(), rng.row_keys(0, 4)
    *_, together = write_guided(Guided(SMALL, 5.0, []), canvas, keys)
    for row in range(1, 4):
        *_, alone = write_guided(Guided(SMALL, 5.0, []), canvas.take([row]), keys[row : row + 1])
        assert torch.equal(alone.ids[0], together.ids[row])
    # What is hidden matters here: another row's given tokens would give another text.
    query = Query(canvas.ids[1:2], canvas.ids[1:2] == M, torch.tensor([1]))
    guided = Guided(SMALL, 5.0, []).start(canvas)
    assert not torch.equal(guided(query), guided(replace(query, rows=torch.tensor([2]))))


def test_two_generations_of_one_denoiser_do_not_mix():
    denoiser, canvas, keys = Guided(SMALL, 5.0, []), mixed_canvas(), rng.row_keys(0, 4)
    turned = canvas.take([3, 2, 1, 0])
    expected = [list(write_guided(denoiser, c, keys))[-1].ids for c in (canvas, turned)]
    pairs = itertools.zip_longest(*(write_guided(denoiser, c, keys) for c in (canvas, turned)))
    last = [None, None]
    for pair in pairs:
        last = [new or old for new, old in zip(pair, last, strict=True)]
    assert all(torch.equal(step.ids, ids) for step, ids in zip(last, expected, strict=True))


def test_guidance_leaves_padding_and_specials_in_place():
    seen = []

    class Watch(TabularDenoiser):
        def __call__(self, query):
            seen.append(query.ids.clone())
            return super().__call__(query)

    denoiser = Guided(Watch(5, 3), 1.0, [0])
    ids = torch.tensor([[0, 1, 2, 3, 1]])
    padding = torch.tensor([[False, False, False, False, True]])
    rows = ids == 3
    denoiser = denoiser.start(Canvas(ids, ~rows, padding))
    denoiser(Query(ids, rows, padding=padding))
    assert seen[0].tolist() == ids.tolist()
    assert seen[1].tolist() == [[0, 3, 3, 3, 1]]


def test_forbidden_stays_forbidden():
    rows = torch.tensor([[True, False, True, True]])
    ids = torch.tensor([[M, 2, M, M]])
    guided = Guided(SMALL, 4.0, [])
    for denoiser in (guided, Processed(SMALL, 1.7, 2), Processed(guided, 1.7)):
        canvas = Canvas(ids, ~rows, torch.zeros_like(rows))
        logits = denoiser.start(canvas)(Query(ids, rows))
        assert (logits[:, M] == -torch.inf).all() and logits[:, :M].isfinite().any(1).all()


# ------------------------------------------------------------ processors


def penalised(penalty, ngram):
    def rule(canvas):
        state = sum(t * int(p) for t, p in zip(canvas, SMALL.place, strict=True))
        out = []
        for i, row in enumerate(SMALL.table[state].double().tolist()):
            elsewhere = {t for j, t in enumerate(canvas) if j != i}
            row = [
                (x / penalty if x > 0 else x * penalty) if t in elsewhere else x
                for t, x in enumerate(row)
            ]
            if ngram == 2 and i and canvas[i - 1] != M:
                banned = {canvas[j] for j in range(1, i) if canvas[j - 1] == canvas[i - 1]}
                if len(banned - {M}) < len(row):
                    row = [-math.inf if t in banned else x for t, x in enumerate(row)]
            top = max(row)
            out.append(normalise([math.exp(x - top) for x in row]))
        return out

    return ByHand(rule)


@pytest.mark.slow
@pytest.mark.parametrize(("penalty", "ngram"), [(2.0, 0), (1.0, 2), (1.5, 2), (0.5, 0)])
def test_processors_follow_their_law(penalty, ngram):
    exact = ExactLaws(penalised(penalty, ngram))
    ours = run(Processed(SMALL, penalty, ngram), FirstHitting(), rows=ROWS, seed=4, limit=5)
    assert_trajectory(ours, exact.trajectory(start(SMALL), [exact.random_order_step] * 3))


def test_where_everything_would_be_banned_nothing_is():
    ids = torch.tensor([[0, 1, 2, M]])
    rows = ids == M
    query = Query(ids, rows)
    assert torch.equal(Processed(SMALL, 1.0, 1)(query), SMALL(query))


def test_a_token_is_no_repetition_of_itself():
    """It matters to the samplers that judge what is written, by shadow copies."""
    ids = torch.tensor([[0, 1, 1, 2]])
    rows = torch.tensor([[False, True, False, True]])
    query = Query(ids, rows, shadows=rows)
    logits, plain = (d(query) for d in (Processed(SMALL, 2.0), SMALL))
    changed = (logits != plain)[:, :3]
    # To the first the other 1 is a repetition, to the last its own 2 is none.
    assert changed.tolist() == [[True, True, True], [True, True, False]]


def test_padding_is_no_repetition():
    ids = torch.tensor([[0, M, 1, 1]])
    rows, padding = ids == M, ids == 1
    query = Query(ids, rows, padding=padding)
    logits, plain = Processed(SMALL, 2.0)(query), SMALL(query)
    assert torch.equal(logits[:, 1:], plain[:, 1:]) and not torch.equal(logits, plain)


# ------------------------------------------------------------ windows


def write(denoiser, ids, window, stride, rows=ROWS, sampler=FirstHitting, frozen=None):
    ids = torch.tensor(ids).repeat(rows, 1)
    frozen = ids != M if frozen is None else frozen
    canvas = Canvas(ids, frozen, torch.zeros_like(frozen))
    keys = rng.row_keys(5, rows)
    return canvas, list(
        denoise_windows(canvas, denoiser, sampler, Sampling(), keys, window, stride)
    )


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
def test_a_sliding_window_follows_its_law(stride):
    """Windows of four positions over seven, each with the first token in front."""
    exact = ExactLaws(SMALL)
    text, steps = (2, M, M, M, M, M, M), []
    for first in range(0, 3 + stride, stride):
        here = [2, *range(first + 1, min(first + 4, 7))]
        new = [i for i in here[1:] if first == 0 or i >= first + 4 - stride]

        def step(canvas, here=here, new=new):
            part = (2, *(canvas[i] for i in here[1:]))
            part += (0,) * (4 - len(part))
            law = {}
            for after, x in exact.random_order_step(part).items():
                law[exact.replace(canvas, dict(zip(here[1:], after[1:], strict=False)))] = x
            return law

        steps += [step] * len(new)
    canvas, ours = write(SMALL, text, 4, stride)
    assert_law(ours[-1].ids, exact.trajectory(text, steps)[-1])
    assert not ours[-1].masked.any()
    assert (ours[-1].nfe == 6).all()
    for before, after in itertools.pairwise(ours):
        assert after.index == before.index + 1
        assert torch.equal(before.ids != after.ids, after.revealed | after.remasked)
        assert torch.equal(after.masked, (after.ids == M) & ~canvas.frozen)
        assert (after.nfe >= before.nfe).all() and after.seconds >= before.seconds
        assert (after.confidence.isnan() == (after.masked | after.frozen)).all()


@pytest.mark.parametrize("name", FEW)
def test_a_text_that_fits_is_written_as_without_windows(name):
    ids = torch.tensor([[2, M, M, M]]).repeat(300, 1)
    canvas = Canvas(ids, ids != M, torch.zeros_like(ids, dtype=torch.bool))
    plain = list(denoise(canvas, SMALL, make_sampler(name, 5), Sampling(), rng.row_keys(5, 300)))
    _, ours = write(SMALL, (2, M, M, M), 4, 2, 300, lambda: make_sampler(name, 5))
    for a, b in zip(plain, ours, strict=True):
        assert torch.equal(a.ids, b.ids) and torch.equal(a.nfe, b.nfe) and a.total == b.total


@pytest.mark.parametrize("name", FEW)
def test_windows_of_any_sampler_write_everything_and_keep_the_prompt(name):
    text = (2, M, M, 1, M, M, 0, M, M, M)
    canvas, steps = write(SMALL, text, 4, 2, 40, lambda: make_sampler(name, 3))
    assert not steps[-1].masked.any()
    assert torch.equal(steps[-1].ids[canvas.frozen], canvas.ids[canvas.frozen])
    assert steps[0].index == 0 and steps[0].total is None


class Padded(TabularDenoiser):
    """What stands at a position that does not exist makes no difference."""

    def __call__(self, query):
        ids, padding = query.ids, query.padding
        ids = ids if padding is None else ids.masked_fill(padding, 0)
        return super().__call__(replace(query, ids=ids, shadows=None))


def test_rows_of_different_length_are_written_in_windows_as_alone():
    denoiser, keys = Padded(4, 3), rng.row_keys(5, 200)
    ids = torch.full((200, 9), M)
    ids[:, 0] = 2
    short = torch.arange(200) % 2 == 0
    padding = short[:, None] & (torch.arange(9) > 4)
    together = Canvas(ids.masked_fill(padding, 1), (ids != M) | padding, padding)
    alone = Canvas(ids[short, :5], ids[short, :5] != M, padding[short, :5])
    for make in (FirstHitting, lambda: Confidence(2)):
        *_, ours = denoise_windows(together, denoiser, make, Sampling(), keys, 4, 2)
        *_, theirs = denoise_windows(alone, denoiser, make, Sampling(), keys[short], 4, 2)
        assert torch.equal(ours.ids[short, :5], theirs.ids)
        assert torch.equal(ours.nfe[short], theirs.nfe)


def test_what_is_allowed_holds_in_every_window():
    """Odd positions may hold 0 or 1, even ones any token."""
    ids = torch.full((300, 9), M)
    ids[:, 0] = 2
    kinds = (torch.arange(9) % 2).expand(300, 9)
    tokens = torch.tensor([[True] * 4, [True, True, False, False]])
    canvas = Canvas(ids, ids != M, torch.zeros_like(ids, dtype=torch.bool), Allowed(kinds, tokens))
    keys = rng.row_keys(5, 300)
    *_, last = denoise_windows(canvas, SMALL, FirstHitting, Sampling(), keys, 4, 2)
    for place in range(1, 9):
        assert (last.ids[:, place] == 2).any() == (place % 2 == 0)
