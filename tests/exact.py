"""The published rules of the samplers, enumerated in plain Python, and tests of frequencies.

Nothing here uses the package. A canvas is a tuple of token ids in which `mask` stands for a
position to be written; a law is a dict {canvas: probability}. Because only masks are ever
written, what is frozen needs no mention, except in the seed loop, which opens positions again.
"""

import functools
import itertools
import math
from collections import defaultdict

import torch


def sharpen(p, temperature=1.0, top_k=0, top_p=1.0):
    """A distribution after temperature, then top-k, then top-p with the crossing token kept."""
    order = sorted(range(len(p)), key=lambda i: -p[i])
    if temperature == 0:
        return [float(i == order[0]) for i in range(len(p))]
    q = [x ** (1 / temperature) for x in p]
    kept = order[:top_k] if top_k else order
    total = sum(q[i] for i in kept)
    nucleus, mass = [], 0.0
    for i in kept:
        if mass >= top_p:
            break
        nucleus.append(i)
        mass += q[i] / total
    total = sum(q[i] for i in nucleus)
    return [q[i] / total if i in nucleus else 0.0 for i in range(len(p))]


def normalise(p):
    return [x / sum(p) for x in p]


class ExactLaws:
    """What each published sampler does to a canvas, for one `tabular.TabularDenoiser`."""

    def __init__(self, denoiser, temperature=1.0, top_k=0, top_p=1.0):
        self.mask = denoiser.mask_id
        self.p = functools.cache(denoiser.probabilities)
        self.score, self.choices = functools.cache(self.score), functools.cache(self.choices)
        self.temperature = temperature
        self.sampling = (temperature, top_k, top_p)

    def holes(self, canvas):
        return [i for i, token in enumerate(canvas) if token == self.mask]

    def choices(self, canvas, position):
        """[(token, probability)] of a draw at one position."""
        q = sharpen(self.p(canvas)[position], *self.sampling)
        return [(token, x) for token, x in enumerate(q) if x > 0]

    def score(self, canvas, position, token, kind):
        p = self.p(canvas)[position]
        if kind == "probability":
            return p[token]
        if kind == "sharpened":
            return sharpen(p, *self.sampling)[token]
        if kind == "margin":
            best, second = sorted(p, reverse=True)[:2]
            return best - second
        assert kind == "entropy"
        return -self.entropy(canvas, position)

    def entropy(self, canvas, position):
        p = self.p(canvas)[position]
        q = normalise([x ** (1 / (self.temperature or 1)) for x in p])
        return -sum(x * math.log(x) for x in q)

    # ------------------------------------------------------------ single steps: canvas -> law

    def independent(self, canvas, options):
        """Each position on its own: options[i] is a list of (token, probability)."""
        law = defaultdict(float)
        for joint in itertools.product(*options):
            law[tuple(token for token, _ in joint)] += math.prod(x for _, x in joint)
        return law

    def seed_step(self, canvas, editable, stay_masked):
        """Masked with probability ``stay_masked``; otherwise drawn, or, when visible, kept."""
        options = []
        for i, token in enumerate(canvas):
            if i not in editable:
                options.append([(token, 1.0)])
                continue
            written = self.choices(canvas, i) if token == self.mask else [(token, 1.0)]
            kept = [(t, x * (1 - stay_masked)) for t, x in written]
            options.append([(self.mask, stay_masked), *kept])
        return self.independent(canvas, options)

    def ancestral_step(self, canvas, stay):
        options = [[(token, 1.0)] for token in canvas]
        for i in self.holes(canvas):
            drawn = [(t, x * (1 - stay)) for t, x in self.choices(canvas, i)]
            options[i] = [(self.mask, stay), *drawn]
        return self.independent(canvas, options)

    def argmax_step(self, canvas):
        p = self.p(canvas)
        out = list(canvas)
        for i in self.holes(canvas):
            out[i] = max(range(len(p[i])), key=lambda t: p[i][t])
        return {tuple(out): 1.0}

    def random_order_step(self, canvas):
        """One hole, chosen uniformly, is drawn."""
        law, holes = defaultdict(float), self.holes(canvas)
        if not holes:
            return {canvas: 1.0}
        for i in holes:
            for token, x in self.choices(canvas, i):
                law[(*canvas[:i], token, *canvas[i + 1 :])] += x / len(holes)
        return law

    def chosen_step(self, canvas, commit):
        """One token is drawn for every hole; ``commit`` ({hole: token}) -> [(holes, probability)]
        says which are written."""
        law, holes = defaultdict(float), self.holes(canvas)
        for joint in itertools.product(*(self.choices(canvas, i) for i in holes)):
            drawn = dict(zip(holes, (token for token, _ in joint), strict=True))
            for written, probability in commit(drawn):
                out = list(canvas)
                for i in written:
                    out[i] = drawn[i]
                law[tuple(out)] += probability * math.prod(x for _, x in joint)
        return law

    def confidence_step(self, canvas, quota, kind, alg_temp=0.0):
        def commit(drawn):
            scores = {i: self.score(canvas, i, t, kind) for i, t in drawn.items()}
            if alg_temp == 0:
                return [(sorted(scores, key=lambda i: -scores[i])[:quota], 1.0)]
            return without_replacement(
                {i: math.exp(s / alg_temp) for i, s in scores.items()}, quota
            )

        return self.chosen_step(canvas, commit)

    def threshold_step(self, canvas, threshold, kind):
        def commit(drawn):
            scores = {i: self.score(canvas, i, t, kind) for i, t in drawn.items()}
            sure = [i for i, s in scores.items() if s >= threshold]
            return [(sure or sorted(scores, key=lambda i: -scores[i])[:1], 1.0)]

        return self.chosen_step(canvas, commit)

    def entropy_bound_step(self, canvas, gamma, kind="entropy"):
        def commit(drawn):
            order = sorted(drawn, key=lambda i: -self.score(canvas, i, drawn[i], kind))
            entropies = [self.entropy(canvas, i) for i in order]
            n = max(
                n
                for n in range(1, len(order) + 1)
                if n == 1 or sum(entropies[:n]) - max(entropies[:n]) <= gamma
            )
            return [(order[:n], 1.0)]

        return self.chosen_step(canvas, commit)

    # ------------------------------------------------------------ whole trajectories

    def trajectory(self, start, steps):
        """The law after each of ``steps``, functions canvas -> law. Full canvases stay."""
        laws = [{tuple(start): 1.0}]
        for step in steps:
            law, known = defaultdict(float), {}
            for canvas, probability in laws[-1].items():
                known[canvas] = step(canvas)
                for after, x in known[canvas].items():
                    law[after] += probability * x
            laws.append(dict(law))
        return laws

    def until_full(self, step):
        return lambda canvas: step(canvas) if self.holes(canvas) else {canvas: 1.0}


def without_replacement(weights, n):
    """[(set of keys, probability)] of ``n`` successive draws with the given weights."""
    if n == 0 or not weights:
        return [(frozenset(), 1.0)]
    law, total = defaultdict(float), sum(weights.values())
    for first, weight in weights.items():
        rest = {key: w for key, w in weights.items() if key != first}
        for others, x in without_replacement(rest, n - 1):
            law[others | {first}] += weight / total * x
    return list(law.items())


RATES = {
    "linear": lambda t: t,
    "log-linear": lambda t: (1 - 1e-3) * t,
    "cosine-a": lambda t: math.sin(math.pi * t / 2),
    "cosine-b": lambda t: (1 - 1e-3) * (1 - math.cos(math.pi * t / 2)),
}


# ------------------------------------------------------------ tests of frequencies


def chi_square_p(observed, expected) -> float:
    """p-value of Pearson's test; cells that expect fewer than 5 are joined."""
    small = [e < 5 for e in expected]
    cells = [(o, e) for o, e, s in zip(observed, expected, small, strict=True) if not s]
    if any(small):
        cells.append(
            tuple(
                sum(x for x, s in zip(xs, small, strict=True) if s) for xs in (observed, expected)
            )
        )
    cells = [(o, e) for o, e in cells if e > 0 or o > 0]
    if any(e < 1e-6 for _, e in cells):
        return 0.0  # something impossible happened
    statistic = sum((o - e) ** 2 / e for o, e in cells)
    if len(cells) < 2:
        return 1.0
    half = torch.tensor([(len(cells) - 1) / 2, statistic / 2], dtype=torch.float64)
    return torch.special.gammaincc(half[0], half[1]).item()


def assert_law(samples: torch.Tensor, law: dict, smallest_p: float = 1e-4) -> None:
    """The rows of ``samples`` (N, L) are N independent draws from ``law``."""
    base = int(samples.max()) + 1
    place = base ** torch.arange(samples.shape[1])  # rows as numbers: quicker to count
    codes, counts = (samples * place).sum(1).unique(return_counts=True)
    rows = codes[:, None] // place % base
    observed = dict(zip(map(tuple, rows.tolist()), counts.tolist(), strict=True))
    assert abs(sum(law.values()) - 1) < 1e-9
    impossible = [row for row in observed if law.get(row, 0) == 0]
    assert not impossible, f"drawn though impossible: {impossible[:3]}"
    cells = list(law)
    p = chi_square_p([observed.get(c, 0) for c in cells], [law[c] * len(samples) for c in cells])
    assert p > smallest_p, f"frequencies do not follow the law: p = {p:.1e}"


def assert_uniform(values: torch.Tensor) -> None:
    """Kolmogorov-Smirnov test against the uniform law on (0, 1), at p = 1e-4."""
    x = values.double().flatten().sort().values
    n = len(x)
    grid = torch.arange(n, dtype=torch.float64) / n
    distance = max((x - grid).max().item(), (grid + 1 / n - x).max().item())
    assert distance * math.sqrt(n) < 2.23, f"not uniform: distance {distance:.4f}"
