"""What goes around any sampler: semi-autoregressive blocks, and early commit."""

import itertools
from collections import Counter

import pytest
import torch
from helpers.draws import LARGE, LIVELY, SMALL, assert_trajectory, masks, run, start
from helpers.exact import ExactLaws, canvases
from helpers.tabular import PLAIN, TabularDenoiser

from diffusion.proposal import Sampling
from diffusion.samplers.catalog import STEPPED
from diffusion.samplers.make import Blocks, EarlyCommit, make_sampler
from diffusion.samplers.remasking import P2, RandomRemask, ReMDM, Saber
from diffusion.samplers.unmasking import Confidence, FirstHitting

DRAWS = 40_000
FIVE = TabularDenoiser(length=5, vocab=3)


@pytest.mark.parametrize("length", [1, 2])
def test_blocks_are_written_in_order_and_inside_in_random_order(length):
    """p(x) is a mean over orders of the product of p(x_i | written, masks), enumerated here."""
    denoiser = TabularDenoiser(length=3, vocab=3, seed=length - 1)
    sampler = Blocks(FirstHitting(), length)
    written = run(denoiser, sampler, seed=3, limit=5, ids=masks(DRAWS, 3))[-1].ids
    counts, chi_square = Counter(map(tuple, written.tolist())), 0.0
    for text in denoiser.texts():
        p, orders = 0.0, list(itertools.permutations(range(length)))
        for order in orders:
            canvas, path = [denoiser.mask_id] * 3, 1 / len(orders)
            for i in (*order, *range(length, 3)):
                path *= denoiser.probabilities(tuple(canvas))[i][text[i]]
                canvas[i] = text[i]
            p += path
        chi_square += (counts[text] - DRAWS * p) ** 2 / (DRAWS * p)
    assert chi_square < 54.1  # 26 degrees of freedom, p = 0.001


PLANNED = dict.fromkeys(STEPPED, 6) | {"self-correction": 6 + 4, "gibbs": 6 + 5}  # of six steps


@pytest.mark.parametrize("name", PLAIN)
def test_a_block_is_full_before_the_next_changes(name):
    sampler = make_sampler(name, 1, block_length=2, **LIVELY.get(name, {}))
    steps = run(FIVE, sampler, seed=3, limit=600, ids=masks(200, 5))
    for before, after in itertools.pairwise(steps):
        for left in (0, 2):
            open_before = before.masked[:, left : left + 2].any(1)
            assert not (after.revealed[:, left + 2 :].any(1) & open_before).any()
    assert not steps[-1].masked.any()


@pytest.mark.parametrize("name", PLAIN)
def test_one_block_of_everything_is_the_sampler_itself(name):
    denoiser = TabularDenoiser(length=4, vocab=3)
    around = ({}, {"block_length": 4}, {"block_length": 100}, {"early_commit": 1e9})
    samplers = [make_sampler(name, 6, **LIVELY.get(name, {}), **more) for more in around]
    runs = [run(denoiser, sampler, seed=3, limit=200, ids=masks(300, 4)) for sampler in samplers]
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            for field in ("ids", "nfe", "revealed", "remasked"):
                assert torch.equal(getattr(a, field), getattr(b, field))
    assert runs[0][-1].total == PLANNED.get(name)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("name", [n for n in STEPPED if n not in ("self-correction", "gibbs")])
def test_steps_are_divided_among_the_blocks_and_rounded_up(name, length):
    """Five tokens, seven steps; rows with fewer tokens have fewer blocks, of more steps."""
    ids = masks(3, 6)
    ids[:, 0], ids[1, 1:3], ids[2, 1:] = 1, 2, 2
    sampler = make_sampler(name, 7, block_length=length, **LIVELY.get(name, {}))
    steps = run(TabularDenoiser(length=6, vocab=3), sampler, ids=ids, limit=100)
    blocks = [-(-n // length) for n in (5, 3)]
    each = [-(-7 // n) for n in blocks]
    for row in (0, 1):
        last = max(i for i, s in enumerate(steps) if (s.revealed | s.remasked)[row].any())
        spare = blocks[row] if name in ("ancestral", "remdm") else 0  # fills of what is left
        assert last <= blocks[row] * each[row] + spare
        assert steps[-1].nfe[row] <= blocks[row] * each[row] + spare
    if name in ("random-remask", "p2"):
        assert len(steps) - 1 == max(b * e for b, e in zip([*blocks, 1], [*each, 7], strict=True))


def seed_loop(exact):
    return [
        lambda c, block=block, k=k: exact.seed_step(c, block, 1 - k / 2)
        for block in ((0, 2), (3, 4))
        for k in (1, 2)
    ]


def confidence(exact):
    """Three steps: two for each block, one token a step."""

    def step(canvas):
        block = [i for i in exact.holes(canvas) if i in (0, 2)] or exact.holes(canvas)

        def commit(drawn):
            return [([max(block, key=lambda i: exact.score(canvas, i, drawn[i], "margin"))], 1.0)]

        return exact.chosen_step(canvas, commit)

    return [step] * 4


def p2(exact):
    return [
        lambda c, block=block, keep=keep: exact.p2_step(c, block, keep, 1.7, True)
        for block in ((0, 2), (3, 4))
        for keep in (1, 2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inner", "rule"),
    [(RandomRemask(4), seed_loop), (Confidence(3, "margin"), confidence), (P2(4, 1.7), p2)],
)
def test_blocks_of_two_follow_the_law_of_their_sampler(inner, rule):
    exact = ExactLaws(LARGE)
    ours = run(LARGE, Blocks(inner, 2), rows=60_000, seed=91)
    assert_trajectory(ours, exact.trajectory(start(LARGE), rule(exact)))


@pytest.mark.slow
def test_blocks_of_remdm_follow_their_law():
    """Each block has its own clock; its last fill takes a step only where a mask is left."""
    exact, end = ExactLaws(SMALL), 1e-5
    times = [1 - k / 2 * (1 - end) for k in range(3)]
    steps = []
    for block in ((0, 2), (3,)):
        for t, s in itertools.pairwise(times):
            sigma = 0.7 * min(1, s / (1 - t)) if t < 1 else 0.7
            sigma = dict.fromkeys((*block, None), sigma)
            steps.append(
                lambda c, b=block, t=t, s=s, x=sigma: exact.remdm_step(c, b, 1 - t, 1 - s, x)
            )
    sampler = Blocks(ReMDM(4, "rescale", eta=0.7), 2)
    ours = run(SMALL, sampler, rows=60_000, seed=93, limit=8)
    assert_trajectory(ours, exact.trajectory(start(SMALL), steps))


@pytest.mark.slow
def test_memory_begins_anew_with_each_block():
    """Saber in blocks: nothing of an earlier block is taken back or counted in the mean."""
    exact, nothing = ExactLaws(LARGE), (None,) * 5

    def step(state):
        canvas = state[0]
        if not exact.holes(canvas):
            return {state: 1.0}
        fresh = not set(exact.holes(canvas)) - {4}
        first, last = (nothing, nothing) if fresh else state[1:]
        part = ExactLaws(LARGE)
        part.holes = lambda c: [i for i in exact.holes(c) if i in ((4,) if fresh else (0, 2, 3))]
        return part.saber_step((canvas, first, last), 2, 1)

    ours = run(LARGE, Blocks(Saber(2, 1), 3), rows=60_000, seed=95, limit=9)
    laws = exact.trajectory((start(LARGE), nothing, nothing), [step] * 6)
    assert_trajectory(ours, canvases(laws))


def test_the_quotas_of_a_block_are_those_of_its_own_masks():
    """Five masks, four steps, blocks of three: two and one, then one and one."""
    steps = run(FIVE, Blocks(Confidence(4), 3), ids=masks(50, 5))
    for step, written in zip(steps, (0, 2, 1, 1, 1), strict=True):
        assert (step.revealed.sum(1) == written).all()


# ------------------------------------------------------------ early commit


def leftmost(exact, canvas):
    i = exact.holes(canvas)[0]
    return {exact.replace(canvas, {i: t}): x for t, x in exact.choices(canvas, i)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inner", "gap", "rule"),
    [
        (Confidence(4), 1.8, lambda exact, c: exact.confidence_step(c, 1, "probability")),
        (Blocks(FirstHitting(), 1), 1.5, leftmost),  # it fills beyond the block
    ],
)
def test_early_commit_follows_its_law(inner, gap, rule):
    exact = ExactLaws(LARGE, temperature=0.8)

    def step(canvas):
        return exact.committing(canvas, (0, 2, 3, 4), gap, lambda c: rule(exact, c))

    ours = run(LARGE, EarlyCommit(inner, gap), Sampling(0.8), rows=60_000, seed=96)
    assert (ours[-1].nfe < 4).any() and (ours[-1].nfe > 1).any()
    assert_trajectory(ours, exact.trajectory(start(LARGE), [step] * 4))


def test_early_commit_ends_samplers_that_would_go_on():
    for inner in (RandomRemask(6), ReMDM(6, "rescale", eta=1.0), P2(6, 2.0)):
        steps = run(LARGE, EarlyCommit(inner, 1e-9), rows=500, seed=98)
        assert len(steps) <= 7 and not steps[-1].masked.any()
        assert (steps[-1].nfe == 1).all()  # the first forward pass decides


def test_a_text_that_is_committed_takes_no_fresh_noise():
    """Others are still being written, and their sampler adds random tokens to all rows."""
    hybrid = TabularDenoiser(length=5, vocab=3, seed=1, scale=3, noise="hybrid", p_u=0.3)
    sampler = make_sampler("ddim", 8, early_commit=1.5, sigma=0.3, noise=hybrid.noise)
    steps = run(hybrid, sampler, rows=300, seed=1, ids=masks(300, 5))
    ended = 0
    for before, after in itertools.pairwise(steps):
        done = ~before.masked.any(1) & (after.nfe == steps[-1].nfe) & (before.nfe == after.nfe)
        ended += int(done.sum())
        assert (after.ids >= 0).all() and not after.masked[done].any()
    assert ended > 300
