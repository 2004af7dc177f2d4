"""What is measured of texts: pure functions of token ids and numbers, with their uncertainty.

A text is a list of token ids. Definitions are those of the papers named; each docstring states what they
leave open (lengths, pooling, smoothing), because it changes the numbers.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Texts = Sequence[Sequence[int]]
Z95 = 1.959964  # 95 % of a normal distribution lies within so many standard deviations


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % interval, nan where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def half(self) -> float:
        """The larger distance to an end of the interval; nan without one."""
        if math.isnan(self.low) or math.isnan(self.high):
            return math.nan
        return max(self.value - self.low, self.high - self.value)

    def __str__(self) -> str:
        return with_error(self.value, self.half)


def within(value: float, deviation: float, low: float = -math.inf, high: float = math.inf):
    """The `Estimate` with a normal interval, both cut to the values that are possible."""
    value, reach = min(max(value, low), high), Z95 * deviation
    return Estimate(value, max(low, value - reach), min(high, value + reach))


# ---------------------------------------------------------------- one text


def entropy(ids: Sequence[int]) -> float:
    """-sum q log q over the token frequencies q of a text, in nats (as MDLM's and ReMDM's
    evaluations). At most log of the length: compare texts of one length only."""
    counts = np.array(list(Counter(ids).values()), dtype=float)
    q = counts / counts.sum()
    return float(max(0.0, -(q * np.log(q)).sum()))


def ngrams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return list(zip(*(ids[i:] for i in range(n)), strict=False))


def repetition(ids: Sequence[int], n: int = 4) -> float:
    """rep-n of Welleck et al. 2019 (arXiv:1908.04319): 1 - unique / all n-grams of a text; nan for
    one that is shorter than n."""
    grams = ngrams(ids, n)
    return 1 - len(set(grams)) / len(grams) if grams else math.nan


# ---------------------------------------------------------------- a set of texts


def distinct(texts: Texts, n: int) -> Estimate:
    """distinct-n of Li et al. 2016 (arXiv:1510.03055): unique / all n-grams, pooled over the set.

    It falls as a set grows, so compare sets of one size only. For the same reason its interval
    is the jackknife's: a bootstrap draws texts twice, which are not distinct.
    """
    per_text = [Counter(ngrams(ids, n)) for ids in texts]
    owners, total = Counter(), Counter()
    for counts in per_text:
        total.update(counts)
        owners.update(counts.keys())
    grams = total.total()
    if not grams:
        return Estimate(math.nan)
    value = len(total) / grams
    # Without a text, the n-grams that only it has are gone.
    own = [sum(owners[gram] == 1 for gram in counts) for counts in per_text]
    rest = [grams - counts.total() for counts in per_text]
    if len(per_text) < 2 or not all(rest):
        return Estimate(value)
    left_out = np.array([(len(total) - o) / r for o, r in zip(own, rest, strict=True)])
    m = len(left_out)
    deviation = math.sqrt((m - 1) / m * ((left_out - left_out.mean()) ** 2).sum())
    return within(value, deviation, 0.0, 1.0)


def bleu(text: Sequence[int], references: Texts, n: int = 4) -> float:
    """BLEU-n of one text (Papineni et al. 2002), uniform weights, length of the nearest
    reference. An order without a match counts as 0.1 matches (smoothing 1 of Chen and Cherry 2014), as in
    Texygen; a text shorter than n uses the orders it has."""
    logs = []
    for order in range(1, min(n, len(text)) + 1):
        counts = Counter(ngrams(text, order))
        most = Counter()
        for reference in references:
            other = Counter(ngrams(reference, order))
            for gram in counts.keys() & other.keys():
                most[gram] = max(most[gram], other[gram])
        matches = sum(min(count, most[gram]) for gram, count in counts.items())
        logs.append(math.log((matches or 0.1) / counts.total()))
    if not logs:
        return math.nan
    nearest = min((len(r) for r in references), key=lambda m: (abs(m - len(text)), m))
    brevity = min(0.0, 1 - nearest / len(text))
    return math.exp(brevity + sum(logs) / len(logs))


def self_bleu(texts: Texts, references: int) -> list[float]:
    """BLEU-4 of each text against ``references`` others of the set (Zhu et al. 2018,
    arXiv:1802.01886): the ones that follow it, round the end. More references give a higher
    value, so their number is fixed whatever the size of the set."""
    m, around = len(texts), [*texts, *texts]
    if not 1 <= references < m:
        raise ValueError(f"{references} references of {m} texts")
    return [bleu(texts[i], around[i + 1 : i + 1 + references]) for i in range(m)]


# ---------------------------------------------------------------- uncertainty


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *columns: Sequence[float],
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A statistic of N samples with the percentile bootstrap's 95 % interval (Efron 1979).

    Args:
        statistic: of arrays (..., N), one for each of ``columns``, to (...): it reduces the last
            axis. Samples, not columns, are drawn again, so columns stay paired.
    """
    data = [np.asarray(column, dtype=float) for column in columns]
    n = len(data[0])
    value = float(statistic(*data)) if n else math.nan
    if n < 2:
        return Estimate(value)
    generator = np.random.default_rng(seed)
    step = max(1, 2**21 // n)  # draws at once, for the memory's sake
    parts = []
    for start in range(0, draws, step):
        index = generator.integers(0, n, (min(step, draws - start), n))
        parts.append(statistic(*(column[index] for column in data)))
    low, high = np.percentile(np.concatenate(parts), [2.5, 97.5])
    # In a tiny set the interval of a ratio can miss the value by rounding.
    return Estimate(value, float(min(low, value)), float(max(high, value)))


def mean(values: np.ndarray) -> np.ndarray:
    return values.mean(-1)


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Pooled mean: the sum of ``total`` over the sum of ``count``."""
    return total.sum(-1) / count.sum(-1)


def perplexity(nats: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """exp(pooled nats / pooled tokens)."""
    return np.exp(ratio(nats, tokens))


def share(yes: int, n: int) -> Estimate:
    """A proportion with Wilson's 95 % interval (1927), which does not vanish when all agree."""
    p, z2 = yes / n, Z95**2 / n
    middle = (p + z2 / 2) / (1 + z2)
    reach = math.sqrt(z2 * p * (1 - p) + z2**2 / 4) / (1 + z2)
    return Estimate(p, min(p, middle - reach), max(p, middle + reach))


def paired_difference(first: Sequence[tuple], second: Sequence[tuple]) -> Estimate:
    """Pooled nats per token of ``first`` minus that of ``second``, each (N, 2) of nats and tokens,
    sample by sample on the same prompts, which are drawn again together."""
    a, b = np.array(first, dtype=float), np.array(second, dtype=float)
    columns = (a[:, 0], a[:, 1], b[:, 0], b[:, 1])
    return bootstrap(lambda x, m, y, n: ratio(x, m) - ratio(y, n), *columns)


def mean_difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The mean of ``first`` minus that of ``second``, pair by pair, with its normal interval."""
    differences = np.subtract(first, second)
    value, n = float(differences.mean()), len(differences)
    return within(value, differences.std(ddof=1) / math.sqrt(n)) if n > 1 else Estimate(value)


def order(when: Sequence[int], window: int) -> float:
    """Kendall's tau-b between the place of a token and the step in which it was written: 1 from left
    to right, 0 in random order; the mean over windows of so many tokens. nan where every window was
    written in one step."""
    found = []
    for begin in range(0, len(when), window):
        steps = np.asarray(when[begin : begin + window])
        pairs = np.triu_indices(len(steps), 1)
        signs = np.sign(steps[pairs[1]] - steps[pairs[0]])
        if signs.any():
            found.append(signs.sum() / math.sqrt(len(signs) * np.abs(signs).sum()))
    return float(np.mean(found)) if found else math.nan


# ---------------------------------------------------------------- numbers for people


def with_error(value: float, half: float) -> str:
    """``93 ± 4``: one digit of the interval's half-width, and of the value no digit below it. A
    value without an interval gets one digit and ``~``; one that cannot vary two, or, of a whole
    number, all."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf"
    if math.isnan(half):
        return f"~{float(f'{value:.0e}'):.10g}"
    if half <= 1e-12 * abs(value):
        return f"{value:.0f}" if value == round(value) else f"{value:.2g}"
    if math.isinf(half):
        return f"{value:.0e} ± inf"
    shown = float(f"{half:.0e}")  # 0.096 is 0.1
    places = -math.floor(math.log10(shown))
    value = round(value, places) + 0.0  # no -0
    return f"{value:.{max(0, places)}f} ± {shown:.{max(0, places)}f}"
