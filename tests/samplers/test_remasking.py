"""Samplers that take back what they wrote, and KLASS, which remembers: laws and equivalences."""

import itertools
import math

import pytest
import torch
from helpers.draws import LARGE, SMALL, M, assert_trajectory, run, same, start
from helpers.exact import RATES, ExactLaws, canvases
from helpers.tabular import TabularDenoiser

from diffusion import rng
from diffusion.canvas import Canvas
from diffusion.denoise import denoise
from diffusion.proposal import Sampling
from diffusion.samplers.remasking import P2, RandomRemask, ReMDM, Saber, Wino
from diffusion.samplers.unmasking import (
    Ancestral,
    Confidence,
    EntropyBound,
    Factor,
    Klass,
    Threshold,
)

THREE, FOUR = (0, 2, 3), (0, 2, 3, 4)  # what is to be written in SMALL and LARGE
ROWS = 40_000


# ------------------------------------------------------------ ReMDM


def published_sigma(remask, eta, a_t, a_s, t):
    largest = min(1, (1 - a_s) / a_t) if a_t > 0 else 1.0
    if remask == "loop":
        return min(eta, largest) if 0.05 < t <= 0.55 else 0.0
    return {
        "cap": min(eta, largest),
        "rescale": eta * largest,
        "psi": (1 - eta) * (1 - a_s),
    }[remask]


def loop_alpha(t):
    if t > 0.55:
        return 0.9 * (1 - t) / 0.45
    return 0.9 if t > 0.05 else 1 - t * 0.1 / 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("remask", "eta", "schedule", "n"),
    [
        ("cap", 0.3, "linear", 4),
        ("cap", 0.15, "cosine-a", 3),
        ("rescale", 0.6, "linear", 4),
        ("rescale", 1.0, "cosine-b", 3),
        ("loop", 0.1, None, 6),
        ("psi", 0.4, "linear", 4),
    ],
)
def test_remdm_follows_its_law(remask, eta, schedule, n):
    """END is large, so that the last fill with the best tokens is seen to happen."""
    exact, end = ExactLaws(SMALL, temperature=0.8), 0.1
    times = [1 - k / n * (1 - end) for k in range(n + 1)]
    alpha = loop_alpha if remask == "loop" else lambda t: 1 - RATES[schedule](t)
    steps = []
    for t, s in itertools.pairwise(times):
        sigma = published_sigma(remask, eta, alpha(t), alpha(s), t)
        sigma = dict.fromkeys((*THREE, None), sigma)
        steps.append(lambda c, t=t, s=s, x=sigma: exact.remdm_step(c, THREE, alpha(t), alpha(s), x))
    own = {"kappa": eta} if remask == "psi" else {"eta": eta}
    sampler = ReMDM(n, remask, schedule=schedule or "linear", **own)
    sampler.END = end
    ours = run(SMALL, sampler, Sampling(temperature=0.8), rows=ROWS, seed=21)
    assert len(ours) == n + 2
    assert_trajectory(ours, exact.trajectory(start(SMALL), [*steps, exact.argmax_step]))


@pytest.mark.slow
def test_remdm_conf_follows_its_law():
    exact, n, end = ExactLaws(SMALL), 3, 0.15
    times = [1 - k / n * (1 - end) for k in range(n + 1)]
    steps = [
        lambda c, a=1 - t, b=1 - s: exact.remdm_conf_step(c, THREE, a, b)
        for t, s in itertools.pairwise(times)
    ]
    steps.append(lambda state: {(c, None): x for c, x in exact.argmax_step(state[0]).items()})
    sampler = ReMDM(n, "conf")
    sampler.END = end
    ours = run(SMALL, sampler, rows=ROWS, seed=22)
    assert_trajectory(ours, canvases(exact.trajectory((start(SMALL), (1.0,) * 4), steps)))


@pytest.mark.parametrize(
    ("remask", "schedule"), [("cap", "linear"), ("loop", "linear"), ("psi", "cosine-a")]
)
def test_remdm_keeps_the_expected_share_of_masks(remask, schedule):
    """a_t (1 - sigma) + (1 - a_t) reveal = a_s, whatever sigma."""
    n, rows = 12, 30_000
    own = {} if remask == "psi" else {"eta": 0.1}
    sampler = ReMDM(n, remask, schedule=schedule, **own)
    steps = run(LARGE, sampler, rows=rows, seed=23)
    assert any(s.remasked.any() for s in steps)
    for k in range(n + 1):
        t = 1 - k / n * (1 - 1e-5)
        rate = 1 - loop_alpha(t) if remask == "loop" else RATES[schedule](t)
        share = steps[k].masked.double().sum(1).mean().item() / 4
        assert share == pytest.approx(rate, abs=4 * math.sqrt(0.25 / 4 / rows) + 1e-4)


def until_zero(sampler):
    sampler.END = 0.0
    return sampler


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(
            (ReMDM(6, schedule=schedule, **own), Ancestral(6, schedule=schedule))
            for schedule in ("linear", "cosine-a")
            for own in ({"eta": 0.0}, {"remask": "psi", "kappa": 1.0})
        ),
        (until_zero(ReMDM(6, "psi", kappa=0.0)), RandomRemask(6)),
        (P2(4, 0.0), Confidence(4)),  # the order of confidence, with P2's quotas
        (Wino(0.5, 0.0), Threshold(0.5)),  # with room for all; no probability here is equal to tau
        (Klass(0.5, 0.0, 0), Threshold(0.5)),
        (Klass(1.1, 0.0, 0), Threshold(1.1)),
        (Factor(0.0), Threshold(1.1)),  # one at a time, as these
        *(
            (sampler, Threshold(1.1, kind))
            for kind in ("probability", "margin", "entropy")
            for sampler in (Confidence(4, kind), EntropyBound(0.0, kind))
        ),
    ],
    ids=repr,
)
def test_at_the_end_of_an_option_one_sampler_is_another_bit_for_bit(one, other):
    for temperature in (1.0, 0.0):
        how = {"sampling": Sampling(temperature), "rows": 2000, "seed": 26}
        same(*(run(LARGE, sampler, **how) for sampler in (one, other)))


# ------------------------------------------------------------ P2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p2_score", "eta", "own"),
    [
        ("hidden", 1.0, {}),
        ("hidden", 0.4, {"temperature": 0.7}),
        ("released", 2.0, {"temperature": 0.7}),
    ],
)
def test_p2_follows_its_law(p2_score, eta, own):
    exact, n = ExactLaws(SMALL, **own), 4
    steps = [
        lambda c, k=k: exact.p2_step(
            c, THREE, 3 - math.floor(3 * (1 - k / n)), eta, p2_score == "hidden"
        )
        for k in range(1, n + 1)
    ]
    ours = run(SMALL, P2(n, eta, p2_score), Sampling(**own), rows=ROWS, seed=31)
    # The third step writes the last token, and the fourth needs no pass.
    assert len(ours) == n + 1 and (ours[-1].nfe == 3).all()
    assert_trajectory(ours, exact.trajectory(start(SMALL), steps))


def test_p2_masks_follow_the_clock():
    for power in (1.0, 2.0):
        steps = run(LARGE, P2(10, 3.0, time_power=power), rows=300, seed=32)
        for k, step in enumerate(steps):
            expected = math.floor(4 * (1 - k / 10) ** power + 1e-9)
            assert (step.masked.sum(1) == expected).all()
        assert any(s.remasked.any() for s in steps)


def test_p2_counts_masks_exactly():
    """Ten positions, ten steps: 10 * (1 - 0.9) is one mask, though a computer finds less."""

    class Even(TabularDenoiser):
        def __call__(self, query):
            return torch.zeros(int(query.query_mask.sum()), 4).index_fill_(
                1, torch.tensor([M]), -torch.inf
            )

    ids = torch.full((5, 10), M)
    nowhere = torch.zeros_like(ids, dtype=torch.bool)
    stream = denoise(Canvas(ids, nowhere, nowhere), Even(), P2(10), Sampling(), rng.row_keys(0, 5))
    for k, step in enumerate(stream):
        assert (step.masked.sum(1) == 10 - k).all()


def test_p2_without_doubt_never_masks_again():
    """Not even for predictions that are certain, whose score no written token can exceed."""
    certain = TabularDenoiser(length=5, vocab=3, seed=0)
    half = torch.rand(certain.table.shape[:-1], generator=torch.Generator().manual_seed(1)) < 0.5
    best = torch.nn.functional.one_hot(certain.table.argmax(-1), 3) * 200.0
    certain.table = torch.where(half[..., None], best, certain.table)
    assert not any(s.remasked.any() for s in run(certain, P2(12, 0.0), rows=200, seed=33))


# ------------------------------------------------------------ WINO, Saber


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threshold", "back", "own"),
    [(0.3, 0.45, {"temperature": 0.7}), (0.6, 0.9, {"temperature": 1.4})],
)
def test_wino_follows_its_law(threshold, back, own):
    exact = ExactLaws(LARGE, **own)
    sampler = Wino(threshold, back)
    sampler.LEAST, sampler.MOST = 2, 3

    def cap(n):
        return min(max(math.floor(0.7 * n), 2), 3)

    step = exact.until_full_state(lambda s: exact.wino_step(s, FOUR, threshold, back, cap))
    ours = run(LARGE, sampler, Sampling(**own), rows=ROWS, seed=41, limit=10)
    assert any(s.remasked.any() for s in ours)
    assert_trajectory(ours, canvases(exact.trajectory((start(LARGE), 0), [step] * 6)))


@pytest.mark.slow
@pytest.mark.parametrize(("mu", "own"), [(1, {}), (8, {"temperature": 0.6})])
def test_saber_follows_its_law(mu, own):
    exact = ExactLaws(LARGE, **own)
    step = exact.until_full_state(lambda s: exact.saber_step(s, 2, mu))
    nothing = (None,) * 5
    ours = run(LARGE, Saber(2, mu), Sampling(**own), rows=ROWS, seed=51, limit=10)
    assert any(s.remasked.any() for s in ours)
    laws = exact.trajectory((start(LARGE), nothing, nothing), [step] * 5)
    assert_trajectory(ours, canvases(laws))


@pytest.mark.slow
def test_saber_follows_its_law_where_a_token_is_judged_twice():
    """Five masks: the third step compares with the second, and the mean decides who is written."""
    exact, nothing = ExactLaws(LARGE), (None,) * 5
    step = exact.until_full_state(lambda s: exact.saber_step(s, 2, 1))
    laws = exact.trajectory(((M,) * 5, nothing, nothing), [step] * 4)
    ids = torch.full((60_000, 5), M)
    nowhere = torch.zeros_like(ids, dtype=torch.bool)
    stream = denoise(
        Canvas(ids, nowhere, nowhere), LARGE, Saber(2, 1), Sampling(), rng.row_keys(52, 60_000)
    )
    assert_trajectory(list(itertools.islice(stream, 7)), canvases(laws))


# ------------------------------------------------------------ KLASS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threshold", "kl_threshold", "history", "own"),
    [(0.4, 0.5, 1, {}), (0.3, 1.0, 2, {"temperature": 0.7}), (0.45, 0.3, 1, {"top_k": 2})],
)
def test_klass_follows_its_law(threshold, kl_threshold, history, own):
    exact = ExactLaws(LARGE, **own)
    step = exact.until_full_state(lambda s: exact.klass_step(s, threshold, kl_threshold, history))
    ours = run(LARGE, Klass(threshold, kl_threshold, history), Sampling(**own), ROWS, seed=61)
    assert min(s.nfe.max() for s in ours[-1:]) <= 4 and (ours[-1].nfe < 4).any()
    laws = exact.trajectory((start(LARGE), None, (0,) * 5), [step] * 4)
    assert_trajectory(ours, canvases(laws))


# ------------------------------------------------------------ clocks


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.5, 2.0])
def test_a_bent_grid_is_the_ancestral_rule_at_other_times(power):
    exact, n = ExactLaws(SMALL), 3
    times = [1 - (1 - (1 - k / n) ** power) * (1 - 1e-5) for k in range(n + 1)]
    steps = [lambda c, x=s / t: exact.ancestral_step(c, x) for t, s in itertools.pairwise(times)]
    ours = run(SMALL, Ancestral(n, time_power=power), rows=ROWS, seed=81)
    assert_trajectory(ours, exact.trajectory(start(SMALL), [*steps, exact.argmax_step]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Ancestral, RandomRemask])
def test_left_positions_run_on_an_earlier_clock(kind):
    exact, n, delay = ExactLaws(SMALL), 4, 0.5
    end = kind.END
    place = {0: 0.0, 2: 0.5, 3: 1.0}

    def time(k, i):
        progress = (k / n - delay * place[i]) / (1 - delay)
        return 1 - min(1, max(0, progress)) * (1 - end)

    def step(canvas, k):
        options = [[(token, 1.0)] for token in canvas]
        for i in THREE:
            stay = time(k, i) / time(k - 1, i) if kind is Ancestral else time(k, i)
            if canvas[i] != M and kind is Ancestral:
                continue
            tokens = exact.choices(canvas, i) if canvas[i] == M else [(canvas[i], 1.0)]
            options[i] = [(M, stay), *((t, x * (1 - stay)) for t, x in tokens)]
        return exact.independent(canvas, options)

    steps = [lambda c, k=k: step(c, k) for k in range(1, n + 1)]
    steps += [exact.argmax_step] if kind is Ancestral else []
    ours = run(SMALL, kind(n, clock_delay=delay), rows=ROWS, seed=82)
    assert_trajectory(ours, exact.trajectory(start(SMALL), steps))


def test_the_latest_clock_writes_from_left_to_right():
    steps = run(LARGE, Ancestral(100, clock_delay=0.999), rows=40, seed=83)
    for s in steps:  # what is masked is a suffix
        masked = s.masked[:, [0, 2, 3, 4]].long()
        assert (masked.diff(dim=1) >= 0).all()
    assert not steps[-1].masked.any()
