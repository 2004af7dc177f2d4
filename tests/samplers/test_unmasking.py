"""The law of every sampler, against the exact enumeration of its published rule.

Each test draws so many texts, with fixed keys, that a wrong formula shows in their frequencies.
"""

import itertools
import math

import pytest
import torch
from helpers.draws import LARGE, SMALL, assert_trajectory, run, start
from helpers.exact import RATES, ExactLaws, assert_law, assert_uniform, chi_square_p
from helpers.tabular import TabularDenoiser

from diffusion.proposal import Sampling
from diffusion.samplers.base import ranks
from diffusion.samplers.interpolating import SelfCorrection
from diffusion.samplers.remasking import RandomRemask, ReMDM, Wino
from diffusion.samplers.unmasking import (
    Ancestral,
    Confidence,
    EntropyBound,
    Factor,
    FirstHitting,
    Threshold,
    quotas,
)

samplings = pytest.mark.parametrize(
    "own", [{}, {"temperature": 0.6, "top_k": 2}, {"temperature": 1.5, "top_p": 0.8}]
)


# ------------------------------------------------------------ seed re-noise loop


@pytest.mark.slow
@samplings
def test_seed_loop_follows_its_law(own):
    exact, n = ExactLaws(SMALL, **own), 4
    steps = [lambda c, k=k: exact.seed_step(c, (0, 2, 3), 1 - k / n) for k in range(1, n + 1)]
    ours = run(SMALL, RandomRemask(n), Sampling(**own), seed=2)
    assert len(ours) == n + 1
    assert_trajectory(ours, exact.trajectory(start(SMALL), steps))


@pytest.mark.slow
def test_seed_loop_costs_a_forward_pass_in_each_step_that_writes():
    """Every position is written in the first step it leaves the noise in, so a row of E
    positions rests with the probability that all of them stay as they were."""
    steps, n = run(SMALL, RandomRemask(6), rows=40_000), 6
    expected = 0.0
    for k in range(1, n + 1):
        before, after = 1 - (k - 1) / n, 1 - k / n
        expected += 1 - (1 - before * (1 - after)) ** 3  # masked before, open now: one of three
    assert steps[-1].nfe.double().mean().item() == pytest.approx(expected, abs=0.02)


# ------------------------------------------------------------ ancestral


@pytest.mark.slow
@pytest.mark.parametrize("schedule", RATES)
def test_ancestral_follows_its_law(schedule):
    """With a late end of the clock, so that the final argmax has something left to fill."""
    exact, n, end = ExactLaws(SMALL, temperature=0.8), 3, 0.3
    times = [1 - k / n * (1 - end) for k in range(n + 1)]
    rates = [RATES[schedule](t) for t in times]
    steps = [
        lambda c, stay=s / r: exact.ancestral_step(c, stay) for r, s in itertools.pairwise(rates)
    ]
    sampler = Ancestral(n, schedule=schedule)
    sampler.END = end
    ours = run(SMALL, sampler, Sampling(temperature=0.8), seed=2)
    assert len(ours) == n + 2
    assert_trajectory(ours, exact.trajectory(start(SMALL), [*steps, exact.argmax_step]))


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3, 6, 40])
def test_ancestral_forward_passes_are_the_expected_distinct_opening_times(n):
    """E[NFE] = T (1 - (1 - 1/T)^E): a step in which nothing opens is free."""
    steps, e = run(LARGE, Ancestral(n), rows=30_000, seed=3), 4
    nfe = steps[-1].nfe.double()
    expected = n * (1 - (1 - 1 / n) ** e)
    assert nfe.mean().item() == pytest.approx(expected, abs=4 * nfe.std().item() / 173 + 1e-3)


# ------------------------------------------------------------ first hitting


@pytest.mark.slow
@samplings
def test_first_hitting_follows_the_law_of_random_orders(own):
    exact = ExactLaws(LARGE, **own)
    ours = run(LARGE, FirstHitting(), Sampling(**own), seed=4)
    assert len(ours) == 5
    assert (ours[-1].nfe == 4).all()
    laws = exact.trajectory(start(LARGE), [exact.random_order_step] * 4)
    assert_trajectory(ours, laws)


class _WatchClock(FirstHitting):
    def select(self, state):
        wanted = super().select(state)
        self.clock = [*getattr(self, "clock", []), state.memory["rate"].clone()]
        return wanted


@pytest.mark.slow
def test_first_hitting_rate_falls_as_the_largest_of_the_remaining_uniforms():
    """P(r_next <= rho) = (rho / r)^n with n masks left."""
    sampler = _WatchClock()
    steps = run(LARGE, sampler, rows=20_000, seed=6)
    rate = torch.ones(20_000, dtype=torch.float64)
    for n, after in zip((4, 3, 2, 1), sampler.clock, strict=True):
        assert_uniform((after / rate) ** n)
        rate = after
    # The clock says nothing about which position opens.
    first = steps[1].revealed.long().argmax(1)
    late = sampler.clock[0] > sampler.clock[0].median()
    cells = torch.bincount(first * 2 + late, minlength=10)[[0, 1, 4, 5, 6, 7, 8, 9]]
    assert chi_square_p(cells.tolist(), [2500] * 8) > 1e-3


# ------------------------------------------------------------ confidence


def published_quotas(n: int, steps: int, schedule: str | None) -> list[int]:
    if schedule is None:
        return [n // steps + (k < n % steps) for k in range(steps)]
    rate, left, out = RATES[schedule], n, []
    for k in range(1, steps + 1):
        share = 1 - rate(1 - k / steps) / rate(1 - (k - 1) / steps)
        take = left if k == steps else round(left * share)
        out += [take] if take else []
        left -= take
    return out


@pytest.mark.parametrize("schedule", [None, *RATES])
@pytest.mark.parametrize("n_steps", [1, 2, 7, 300])
def test_quotas_are_the_published_ones_and_sum_to_the_masks(schedule, n_steps):
    masks = torch.tensor([0, 1, 2, 5, 13, 100, 255])
    plan = quotas(masks, n_steps, schedule)
    assert plan.shape == (7, n_steps)
    assert torch.equal(plan.sum(1), masks)
    assert (plan >= 0).all()
    for n, row in zip(masks.tolist(), plan.tolist(), strict=True):
        spent = row[: len(row) - row[::-1].index(next((q for q in row[::-1] if q), 0))]
        assert all(spent) or n == 0  # empty steps are dropped, not waited for
        expected = published_quotas(n, n_steps, schedule)
        expected += [0] * (n_steps - len(expected))
        # A half may be rounded either way, and what follows then differs by one too.
        assert max(abs(a - b) for a, b in zip(row, expected, strict=True)) <= (schedule is not None)


def test_quotas_are_exact_where_nothing_is_near_a_half():
    assert quotas(torch.tensor([7, 2]), 3, None).tolist() == [[3, 2, 2], [1, 1, 0]]
    # 10 masks stay masked at rates sin(pi/2 * 3/4), sin(pi/4), sin(pi/8).
    plan = quotas(torch.tensor([10, 100]), 4, "cosine-a").tolist()
    assert plan == [[1, 2, 3, 4], [8, 22, 32, 38]]
    assert quotas(torch.tensor([2]), 4, "cosine-b").tolist() == [[1, 1, 0, 0]]
    assert published_quotas(4, 2, "cosine-b") == [3, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "own", "written", "more"),
    [
        ("probability", {"temperature": 0.5, "top_p": 0.9}, (2, 1, 1), {}),
        ("sharpened", {"temperature": 2.0, "top_k": 2}, (2, 1, 1), {}),
        ("margin", {"temperature": 1.6}, (2, 1, 1), {}),
        ("entropy", {"temperature": 3.0, "top_p": 0.9}, (2, 1, 1), {}),
        ("probability", {}, (3, 1), {"schedule": "cosine-b"}),
        ("probability", {"temperature": 0.9}, (2, 2), {"alg_temp": 0.3}),
        ("entropy", {"temperature": 0.9}, (2, 2), {"alg_temp": 0.5}),
    ],
)
def test_confidence_follows_its_law(kind, own, written, more):
    """Quotas of four masks in the order of each score, or drawn by it without replacement."""
    exact, alg_temp = ExactLaws(LARGE, **own), more.get("alg_temp", 0.0)
    steps = [lambda c, q=q: exact.confidence_step(c, q, kind, alg_temp) for q in written]
    sampler = Confidence(len(written), kind, **more)
    ours = run(LARGE, sampler, Sampling(**own), seed=7)
    assert len(ours) == len(written) + 1
    assert_trajectory(ours, exact.trajectory(start(LARGE), steps))


# ------------------------------------------------------------ threshold, entropy bound, factor


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "rule", "options", "own"),
    [
        (Threshold, "threshold_step", (0.6, "probability"), {}),
        (Threshold, "threshold_step", (0.7, "sharpened"), {"temperature": 0.0, "top_k": 2}),
        (Threshold, "threshold_step", (0.3, "margin"), {}),
        (Threshold, "threshold_step", (-0.7, "entropy"), {}),
        (EntropyBound, "entropy_bound_step", (0.4, "entropy"), {}),
        (EntropyBound, "entropy_bound_step", (0.8, "probability"), {}),
        (EntropyBound, "entropy_bound_step", (0.5, "margin"), {"temperature": 1.4}),
        (Factor, "factor_step", (1.8,), {}),
        (Factor, "factor_step", (1.2,), {"temperature": 0.6}),
    ],
)
def test_samplers_without_quotas_follow_their_law(make, rule, options, own):
    exact = ExactLaws(LARGE, **own)
    step = exact.until_full(lambda c: getattr(exact, rule)(c, *options))
    ours = run(LARGE, make(*options), Sampling(**own), seed=10)
    assert_trajectory(ours, exact.trajectory(start(LARGE), [step] * 4))


@pytest.mark.parametrize(
    ("make", "own", "levels"),
    [
        *(
            (Threshold, [k], [1.1, 0.9, 0.6, 0.3, 0.0])
            for k in ("probability", "sharpened", "margin")
        ),
        (EntropyBound, ["probability"], [0.0, 0.3, 0.8, 1.5, math.inf]),
        (Factor, [], [0, 0.5, 1, 2, 99]),
    ],
)
def test_sets_are_nested_from_one_to_all(make, own, levels):
    """Which positions are written in the first step, for the same predictions and draws."""
    sets = [run(LARGE, make(level, *own), rows=2000)[1].revealed for level in levels]
    assert (sets[0].sum(1) == 1).all()
    assert all((small <= large).all() for small, large in itertools.pairwise(sets))
    assert (sets[-1].sum(1) == 4).all()
    assert len({s.sum().item() for s in sets}) > 2


def test_certain_predictions_are_all_written_at_once():
    """Also where the bound is reached and not exceeded."""
    certain = TabularDenoiser(length=5, vocab=3, seed=0)
    certain.table = torch.nn.functional.one_hot(certain.table.argmax(-1), 3) * 200.0
    for sampler in (EntropyBound(0.0), Threshold(1.0)):
        assert (run(certain, sampler, rows=10)[-1].nfe == 1).all()


# ------------------------------------------------------------ equivalences


def random_order_law(denoiser) -> dict:
    exact = ExactLaws(denoiser)
    n = denoiser.length - 1
    return exact.trajectory(start(denoiser), [exact.random_order_step] * n)[-1]


@pytest.mark.slow
def test_ancestral_with_many_steps_is_first_hitting_in_law():
    many, few = (run(SMALL, Ancestral(n), rows=20_000, seed=13)[-1].ids for n in (200, 2))
    assert_law(many, random_order_law(SMALL))
    with pytest.raises(AssertionError):  # few steps are another law, and the test can tell
        assert_law(few, random_order_law(SMALL))


# ------------------------------------------------------------ parts


def test_ranks_are_places_in_descending_order_and_ties_keep_theirs():
    score = torch.tensor([[0.1, 0.9, -torch.inf, 0.9, 0.5]])
    assert ranks(score).tolist() == [[3, 0, 4, 1, 2]]


def test_defaults_are_the_published_ones():
    ours = Threshold().threshold, EntropyBound().entropy_bound, Confidence(1).alg_temp
    assert ours == (0.9, 0.1, 0) and (Wino.LEAST, Wino.MOST, Wino.SHARE) == (5, 20, 0.7)
    assert Ancestral.END == 1e-5 and ReMDM(10).eta == 0.04 and ReMDM(1024).eta == 0.008
    assert ReMDM(10, "rescale").eta == 0.015 and ReMDM(10, "loop").eta == 0.02
    correction = SelfCorrection(3)
    assert (correction.patience, correction.swap_temperature) == (32, 0.1)
