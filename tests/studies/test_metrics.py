"""Metrics on cases computed by hand, and intervals on known distributions."""

import math

import numpy as np
import pytest
from scipy import stats

from studies.board import metrics
from studies.board.metrics import Estimate

nan = math.nan

# ---------------------------------------------------------------- texts


def test_entropy_by_hand():
    assert metrics.entropy([7] * 9) == 0
    assert metrics.entropy(range(50)) == pytest.approx(math.log(50))
    by_hand = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert metrics.entropy([1, 1, 2, 1]) == pytest.approx(by_hand)


def test_distinct_by_hand():
    texts = [[1, 2, 1, 2], [1, 2, 3]]
    assert metrics.distinct(texts, 1).value == 3 / 7
    assert metrics.distinct(texts, 2).value == 3 / 5  # 12 21 12, 12 23
    assert metrics.distinct(texts, 3).value == 3 / 3  # 121 212, 123
    assert metrics.distinct([[1, 2, 3]] * 5, 1).value == 3 / 15
    assert math.isnan(metrics.distinct([[1], [2]], 2).value)


def test_the_interval_of_distinct_is_the_jackknife():
    generator = np.random.default_rng(0)
    texts = [generator.integers(0, 30, 12).tolist() for _ in range(9)]
    for n in (1, 2, 3):
        found = metrics.distinct(texts, n)
        left_out = []
        for i in range(9):
            grams = [g for t in texts[:i] + texts[i + 1 :] for g in metrics.ngrams(t, n)]
            left_out.append(len(set(grams)) / len(grams))
        deviation = math.sqrt(8 / 9 * sum((x - np.mean(left_out)) ** 2 for x in left_out))
        assert found.low == pytest.approx(found.value - metrics.Z95 * deviation)
        assert found.high == pytest.approx(min(1.0, found.value + metrics.Z95 * deviation))


def test_repetition_by_hand():
    assert metrics.repetition(list(range(20))) == 0
    assert metrics.repetition([1, 2, 3, 4, 1, 2, 3, 4]) == 1 - 4 / 5
    assert metrics.repetition([1, 2, 3] * 400) == pytest.approx(1 - 3 / 1197)  # towards 1
    assert metrics.repetition([1, 1, 1], n=2) == 1 / 2
    assert math.isnan(metrics.repetition([1, 2, 3]))


def test_bleu_by_hand():
    text = [1, 2, 3, 4, 5]
    assert metrics.bleu(text, [[9, 9], text]) == pytest.approx(1.0)
    # Orders 1 to 4 of 1 2 3 9 9 against it: 3/5, 2/4, 1/3, 0 -> 0.1/2.
    expected = (3 / 5 * 2 / 4 * 1 / 3 * 0.1 / 2) ** 0.25
    assert metrics.bleu([1, 2, 3, 9, 9], [text]) == pytest.approx(expected)
    # A count is clipped to the largest in one reference, not to their sum.
    expected = (2 / 3 * 1 / 2 * 0.1) ** (1 / 3)
    assert metrics.bleu([1, 1, 1], [[1, 1, 5], [1, 6, 7]]) == pytest.approx(expected)
    # Too short against the nearest reference, of 5 tokens rather than 9.
    longer = [*text, 6, 7, 8, 9]
    assert metrics.bleu([1, 2, 3, 4], [text, longer]) == pytest.approx(math.exp(1 - 5 / 4))
    # Of two as near the shorter counts.
    assert metrics.bleu([1, 2, 3, 4], [[1, 2, 3], text]) == pytest.approx(1.0)
    assert math.isnan(metrics.bleu([], [text]))


def test_self_bleu():
    text = list(range(12))
    assert metrics.self_bleu([text] * 5, 4) == pytest.approx([1.0] * 5)
    texts = [[i * 100 + k for k in range(8)] for i in range(5)]
    assert max(metrics.self_bleu(texts, 4)) < 0.05
    assert metrics.self_bleu([text, text, texts[1]], 2)[0] == pytest.approx(1.0)
    # Each is held against the next ones: of more texts no one has more references.
    one = metrics.self_bleu([text, *texts], 1)
    assert one[0] == metrics.bleu(text, [texts[0]]) and one[-1] == metrics.bleu(texts[4], [text])
    for references in (0, 5):
        with pytest.raises(ValueError):
            metrics.self_bleu(texts, references)


# ---------------------------------------------------------------- uncertainty


def test_the_bootstrap_covers_the_mean_of_a_known_distribution():
    generator = np.random.default_rng(1)
    hits = 0
    for repeat in range(500):
        values = generator.exponential(1.0, 60)
        found = metrics.bootstrap(metrics.mean, values, draws=400, seed=repeat)
        hits += found.low <= 1.0 <= found.high
    assert 0.90 <= hits / 500 <= 0.98  # 0.93 is what it has for 60 of so skewed a distribution


def test_the_bootstrap_covers_a_perplexity():
    """Texts of different lengths, whose tokens have a mean of 2 nats."""
    generator = np.random.default_rng(2)
    hits = 0
    for repeat in range(300):
        tokens = generator.integers(5, 40, 80)
        nats = np.array([generator.exponential(2.0, n).sum() for n in tokens])
        found = metrics.bootstrap(metrics.perplexity, nats, tokens, draws=400, seed=repeat)
        assert found.value == pytest.approx(math.exp(nats.sum() / tokens.sum()))
        hits += found.low <= math.exp(2.0) <= found.high
    assert 0.90 <= hits / 300 <= 0.99


def test_the_bootstrap_is_reproducible_and_knows_what_it_cannot_say():
    values = [1.0, 2.0, 5.0, 9.0]
    assert metrics.bootstrap(metrics.mean, values) == metrics.bootstrap(metrics.mean, values)
    assert math.isnan(metrics.bootstrap(metrics.mean, [3.0]).low)
    assert math.isnan(metrics.bootstrap(metrics.mean, []).value)
    same = metrics.bootstrap(metrics.mean, [4.0] * 7)
    assert (same.value, same.low, same.high) == (4.0, 4.0, 4.0)
    # In parts, for the memory's sake, it is still all of them.
    many = np.random.default_rng(0).normal(size=5000)
    found = metrics.bootstrap(metrics.mean, many, draws=1000)
    assert found.half == pytest.approx(1.96 / math.sqrt(5000), rel=0.15)


def test_a_share_of_all_is_not_certain():
    found = metrics.share(10, 10)  # Wilson's: 1 / (1 + z²/n)
    assert (found.value, found.high) == (1.0, pytest.approx(1.0))
    assert found.low == pytest.approx(1 / (1 + metrics.Z95**2 / 10))
    half = metrics.share(50, 100)
    assert (half.low, half.high) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_paired_differences_see_what_single_intervals_hide():
    generator = np.random.default_rng(3)
    tokens = generator.integers(20, 30, 100)
    hard = generator.exponential(3.0, 100)  # prompts differ much, rows little
    a = [(n * (h + 0.1), n) for n, h in zip(tokens, hard, strict=True)]
    b = [(n * h, n) for n, h in zip(tokens, hard, strict=True)]
    found = metrics.paired_difference(a, b)
    assert found.value == pytest.approx(0.1) and found.half < 1e-9
    alone = metrics.bootstrap(metrics.ratio, *zip(*a, strict=True))
    assert alone.half > 0.3
    reverse = metrics.paired_difference(b, a)
    assert reverse.value == pytest.approx(-found.value)


# ---------------------------------------------------------------- numbers for people


@pytest.mark.parametrize(
    "value, half, shown",
    [
        (93.27, 4.1, "93 ± 4"),
        (0.1234, 0.0096, "0.12 ± 0.01"),
        (5.8748, 0.049, "5.87 ± 0.05"),
        (1234, 37, "1230 ± 40"),
        (-0.001, 0.01, "0.00 ± 0.01"),
        (1250, 960, "1000 ± 1000"),
        (0.00123, 0.5, "0.0 ± 0.5"),
        (5.0, 0.0, "5"),
        (0.0100098, 0.0, "0.01"),
        (0.347, nan, "~0.3"),
        (512.0, nan, "~500"),
        (nan, nan, "-"),
        (math.inf, nan, "inf"),
        (3.0, math.inf, "3e+00 ± inf"),
    ],
)
def test_no_digit_that_the_interval_does_not_support(value, half, shown):
    assert metrics.with_error(value, half) == shown


def test_the_half_width_is_the_larger_one():
    assert str(Estimate(1.0, 0.9, 1.3)) == "1.0 ± 0.3"
    assert math.isnan(Estimate(1.0).half) and str(Estimate(1.0)) == "~1"
    assert metrics.within(1 + 1e-15, 0.1, 0.0, 1.0).value == 1  # by rounding
    assert metrics.within(0.95, 0.1, 0.0, 1.0) == Estimate(
        0.95, pytest.approx(0.95 - 0.1959964), 1.0
    )


def test_the_order_of_writing_is_kendalls_tau():
    """Against scipy, with tokens that were written in one step; windows on their own."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        first, second = draw.integers(1, 6, 16), draw.integers(6, 12, 9)
        taus = [stats.kendalltau(range(len(part)), part).statistic for part in (first, second)]
        found = metrics.order([*first, *second], 16)
        assert found == pytest.approx(np.mean(taus))
    assert metrics.order([1, 2, 3, 4], 4) == 1 and metrics.order([4, 3, 2, 1], 2) == -1
    assert math.isnan(metrics.order([5, 5, 5], 16))
