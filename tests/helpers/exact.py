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
            return sharpen(p, self.temperature or 1, *self.sampling[1:])[token]
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
        best = {i: max(range(len(p[i])), key=p[i].__getitem__) for i in self.holes(canvas)}
        return {self.replace(canvas, best): 1.0}

    def random_order_step(self, canvas):
        """One hole, chosen uniformly, is drawn."""
        law, holes = defaultdict(float), self.holes(canvas)
        if not holes:
            return {canvas: 1.0}
        for i in holes:
            for token, x in self.choices(canvas, i):
                law[self.replace(canvas, {i: token})] += x / len(holes)
        return law

    def chosen_step(self, canvas, commit):
        """One token is drawn for every hole; ``commit`` ({hole: token}) -> [(holes, probability)]
        says which are written."""
        law = defaultdict(float)
        for drawn, x in self.draws(canvas, self.holes(canvas)):
            for written, probability in commit(drawn):
                law[self.replace(canvas, {i: drawn[i] for i in written})] += probability * x
        return law

    def scores(self, canvas, drawn, kind):
        return {i: self.score(canvas, i, token, kind) for i, token in drawn.items()}

    def best_step(self, canvas, kind, count):
        """The ``count`` (holes by descending score, scores) first are written."""

        def commit(drawn):
            scores = self.scores(canvas, drawn, kind)
            order = sorted(scores, key=lambda i: -scores[i])
            return [(order[: count(order, scores)], 1.0)]

        return self.chosen_step(canvas, commit)

    def confidence_step(self, canvas, quota, kind, alg_temp=0.0):
        if alg_temp == 0:
            return self.best_step(canvas, kind, lambda order, scores: quota)

        def commit(drawn):
            scores = self.scores(canvas, drawn, kind)
            weights = {i: math.exp(s / alg_temp) for i, s in scores.items()}
            return without_replacement(weights, quota)

        return self.chosen_step(canvas, commit)

    def threshold_step(self, canvas, threshold, kind):
        def count(order, scores):
            return max(1, sum(s >= threshold for s in scores.values()))

        return self.best_step(canvas, kind, count)

    def entropy_bound_step(self, canvas, gamma, kind="entropy"):
        def count(order, scores):
            entropies = [self.entropy(canvas, i) for i in order]
            bounds = [sum(entropies[:n]) - max(entropies[:n]) for n in range(1, len(order) + 1)]
            return max(1, sum(bound <= gamma for bound in bounds))  # they grow along the order

        return self.best_step(canvas, kind, count)

    def factor_step(self, canvas, factor):
        def count(order, scores):
            n = 1
            while n < len(order) and (n + 2) * (1 - scores[order[n]]) < factor:
                n += 1
            return n

        return self.best_step(canvas, "probability", count)

    # ------------------------------------------------------------ steps that remember or take back
    #
    # Some work on a state, a tuple whose first entry is the canvas; `canvases` forgets the rest.

    def replace(self, canvas, new):
        return tuple(new.get(i, token) for i, token in enumerate(canvas))

    def hidden_p(self, canvas, position):
        """Probability of the token at a written position, predicted with a mask in its place."""
        return self.p(self.replace(canvas, {position: self.mask}))[position][canvas[position]]

    def draws(self, canvas, positions):
        """[({position: token}, probability)] of one draw at each position."""
        for joint in itertools.product(*(self.choices(canvas, i) for i in positions)):
            tokens = dict(zip(positions, (t for t, _ in joint), strict=True))
            yield tokens, math.prod(x for _, x in joint)

    def remdm_step(self, canvas, editable, a_t, a_s, sigma):
        """The published transition, with sigma[i] of each written position, sigma[None] of masks,
        and mask rates 1 - a that may differ between positions."""
        options = [[(token, 1.0)] for token in canvas]
        for i in editable:
            if canvas[i] != self.mask:
                options[i] = [(self.mask, sigma[i]), (canvas[i], 1 - sigma[i])]
                continue
            opens = (a_s - (1 - sigma[None]) * a_t) / (1 - a_t)
            drawn = [(t, x * opens) for t, x in self.choices(canvas, i)]
            options[i] = [(self.mask, 1 - opens), *drawn]
        return self.independent(canvas, options)

    def remdm_conf_step(self, state, editable, a_t, a_s):
        """State: (canvas, probability of each position when it was written)."""
        canvas, sureness = state
        largest = min(1, (1 - a_s) / a_t) if a_t > 0 else 1.0
        written = [i for i in editable if canvas[i] != self.mask]
        weight = {i: math.exp(-sureness[i]) for i in written}
        sigma = {i: largest * w / sum(weight.values()) for i, w in weight.items()}
        law, p = defaultdict(float), self.p(canvas)
        for after, x in self.remdm_step(canvas, editable, a_t, a_s, {**sigma, None: 0.0}).items():
            filled = [i for i in editable if canvas[i] == self.mask != after[i]]
            new = {i: p[i][after[i]] for i in filled}
            law[(after, self.replace(sureness, new))] += x
        return law

    def p2_step(self, canvas, editable, keep, eta, hidden):
        """Of all editable positions the ``keep`` best stay or are written, the others are masks."""
        law = defaultdict(float)
        masks = [i for i in editable if canvas[i] == self.mask]
        for drawn, x in self.draws(canvas, masks if hidden else list(editable)):
            score = {i: math.log(self.p(canvas)[i][t]) for i, t in drawn.items()}
            for i in editable:
                if canvas[i] != self.mask:
                    score[i] = eta * (math.log(self.hidden_p(canvas, i)) if hidden else score[i])
            best = sorted(editable, key=lambda i: -score[i])[:keep]
            new = {i: self.mask for i in editable if i not in best}
            new |= {i: drawn[i] for i in best if i in masks}
            law[self.replace(canvas, new)] += x
        return law

    def draft_step(self, canvas, warmth):
        """All holes are drawn at ``warmth`` times the temperature."""
        kept, self.sampling = self.sampling, (self.temperature * warmth, *self.sampling[1:])
        self.choices.cache_clear()
        law = {self.replace(canvas, d): x for d, x in self.draws(canvas, self.holes(canvas))}
        self.sampling = kept
        self.choices.cache_clear()
        return law

    def verify_step(self, canvas, editable, count, kind):
        """The ``count`` tokens that the table finds worst are holes again."""
        p = self.p(canvas)
        score = {i: -math.log(p[i][canvas[i]]) for i in editable}
        if kind == "gap":
            score = {i: x + math.log(max(p[i])) for i, x in score.items()}
        worst = sorted(editable, key=lambda i: -score[i])[:count]
        return {self.replace(canvas, dict.fromkeys(worst, self.mask)): 1.0}

    def klass_step(self, state, threshold, kl_threshold, history):
        """State: (canvas, canvas before or None, steps for which each position was still)."""
        canvas, before, still = state
        holes = self.holes(canvas)
        counts = {i: 0 for i in range(len(canvas))}
        for i in holes if before else ():
            p, q = self.p(canvas)[i], self.p(before)[i]
            kl = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
            counts[i] = still[i] + 1 if kl < kl_threshold else 0
        law = defaultdict(float)
        for drawn, x in self.draws(canvas, holes):
            score = {i: self.p(canvas)[i][t] for i, t in drawn.items()}
            sure = [i for i in holes if score[i] > threshold and counts[i] >= history]
            chosen = sure or [max(holes, key=lambda i: score[i])]
            after = self.replace(canvas, {i: drawn[i] for i in chosen})
            law[(after, canvas, tuple(counts.values()))] += x
        return law

    def wino_step(self, state, editable, threshold, back, cap):
        """State: (canvas, tokens written in the step before). ``cap``: masks -> most to write."""
        canvas, accepted_before = state
        holes = self.holes(canvas)
        law = defaultdict(float)
        doubt = {i: self.hidden_p(canvas, i) for i in editable if i not in holes}
        doubted = sorted((i for i in doubt if doubt[i] < back), key=lambda i: doubt[i])
        for drawn, x in self.draws(canvas, holes):
            score = {i: self.p(canvas)[i][t] for i, t in drawn.items()}
            order = sorted(holes, key=lambda i: -score[i])
            write = [i for i in order if score[i] > threshold][: cap(len(holes))] or order[:1]
            new = {i: drawn[i] for i in write}
            if len(write) > 1:
                new |= {i: self.mask for i in doubted[: max(0, accepted_before - 1)]}
            law[(self.replace(canvas, new), len(write))] += x
        return law

    def saber_step(self, state, least, mu):
        """State: (canvas, probability when written, latest probability), nothing: None."""
        canvas, first, last = state
        holes, law = self.holes(canvas), defaultdict(float)
        written = [i for i in range(len(canvas)) if first[i] is not None]
        mean = sum(first[i] for i in written) / len(written) if written else 1.0
        now = {i: self.hidden_p(canvas, i) for i in written}
        fallen = sorted((i for i in written if now[i] < last[i]), key=lambda i: now[i] - last[i])
        for drawn, x in self.draws(canvas, holes):
            score = {i: self.p(canvas)[i][t] for i, t in drawn.items()}
            order = sorted(holes, key=lambda i: -score[i])
            write = [i for n, i in enumerate(order) if n < least or score[i] > mean]
            revert = fallen[: min(math.ceil(len(write) / mu), len(write) - 1)]
            new = {i: score[i] for i in write} | {i: None for i in revert}
            changes = {i: drawn[i] for i in write} | {i: self.mask for i in revert}
            after = self.replace(canvas, changes)
            law[(after, self.replace(first, new), self.replace(last, now | new))] += x
        return law

    def committing(self, canvas, editable, gap, step):
        """``step``, or one draw of everything once the mean logit gap is large enough."""
        holes = self.holes(canvas)
        if not holes:
            return {canvas: 1.0}
        best = [sorted(self.p(canvas)[i], reverse=True)[:2] for i in holes]
        mean = sum(math.log(a / b) for a, b in best) / len(holes)
        third = min(2, int(3 * (1 - len(holes) / len(editable)) + 1e-9))
        if mean < gap * (1, 2 / 3, 1 / 3)[third]:
            return step(canvas)
        return self.ancestral_step(canvas, 0.0)

    # ------------------------------------------------------------ whole trajectories

    def trajectory(self, start, steps):
        """The law after each of ``steps``, functions canvas (or state) -> law."""
        laws = [{tuple(start): 1.0}]
        for step in steps:
            law = defaultdict(float)
            for canvas, probability in laws[-1].items():
                for after, x in step(canvas).items():
                    law[after] += probability * x
            laws.append(dict(law))
        return laws

    def until_full(self, step):
        return lambda canvas: step(canvas) if self.holes(canvas) else {canvas: 1.0}

    def until_full_state(self, step):
        return lambda state: step(state) if self.holes(state[0]) else {state: 1.0}


def canvases(laws):
    """Laws of states -> laws of their canvases."""
    out = []
    for law in laws:
        out.append(defaultdict(float))
        for state, x in law.items():
            out[-1][state[0]] += x
    return out


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


# ------------------------------------------------------------ noise with random tokens


class Forward:
    """The forward process of one position as matrices, in float64: rows are what was there before,
    columns what comes; the last state is the mask.

    Args:
        kind: absorbing, uniform or hybrid, as published by D3PM and GIDD (gamma = 1).
        vocab: tokens without the mask.
    """

    def __init__(self, kind, vocab, p_u=0.2):
        self.kind, self.vocab, self.p_u = kind, vocab, p_u

    def noise(self, r):
        """(share of x that is kept, what is added: a vector over all states)."""
        mask = torch.zeros(self.vocab + 1, dtype=torch.float64)
        mask[-1] = 1
        others = (1 - mask) / self.vocab
        if self.kind == "absorbing":
            return 1 - r, r * mask
        if self.kind == "uniform":
            return 1 - r, r * others
        c = 2 * self.p_u / (1 - self.p_u) * math.sqrt(r * (1 - r))
        return (1 - r) / (1 + c), (r * mask + c * others) / (1 + c)

    def until(self, r):
        """q_r(z | x), (V + 1, V + 1)."""
        keep, added = self.noise(r)
        return keep * torch.eye(self.vocab + 1, dtype=torch.float64) + added

    def between(self, s, r):
        """q(z at r | y at s): what, after q_s, gives q_r, by division."""
        return torch.linalg.solve(self.until(s), self.until(r))

    def posterior(self, s, r, z, p):
        """q(y at s | z at r, x drawn from p), by Bayes' rule over y; p (V,) and the result (V + 1,)."""
        prior = torch.cat([torch.as_tensor(p, dtype=torch.float64), torch.zeros(1).double()])
        joint = (prior @ self.until(s)) * self.between(s, r)[:, z]
        return joint / joint.sum()

    def token(self, r, z, p):
        """The same of the token x itself."""
        joint = torch.as_tensor(p, dtype=torch.float64) * self.until(r)[: self.vocab, z]
        return joint / joint.sum()


# ------------------------------------------------------------ tests of frequencies


def chi_square_p(observed, expected) -> float:
    """p-value of Pearson's test; cells that expect fewer than 5 are joined."""
    pairs = list(zip(observed, expected, strict=True))
    rare = [pair for pair in pairs if pair[1] < 5]
    cells = [pair for pair in pairs if pair[1] >= 5] + [tuple(map(sum, zip(*rare, strict=True)))]
    cells = [cell for cell in cells if any(cell)]
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
