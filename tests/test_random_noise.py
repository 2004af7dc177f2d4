"""Noise with random tokens: its process, and its likelihood bound, on texts that can be enumerated."""

import functools
import itertools
import math

import numpy
import pytest
import torch
from helpers.exact import RATES, Forward
from helpers.tabular import TabularDenoiser

from diffusion import rng
from diffusion.canvas import Canvas
from diffusion.collator import IGNORE, DiffusionCollator
from diffusion.likelihood import likelihood_bound, text_bounds
from diffusion.noise import MIN_TIME, Absorbing, make_noise
from diffusion.objective import cross_entropy, divergence, noise_weights, plain_divergence

VOCAB, P_U = 3, 0.2
MASK = VOCAB
KINDS = {"uniform": {}, "hybrid": {"p_u": P_U}}
every_kind = pytest.mark.parametrize("kind", KINDS)
LEVELS = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


def noise_of(kind: str, p_u: float = P_U, vocab: int = VOCAB):
    return make_noise(kind, vocab, [], vocab + 1, p_u)


# ------------------------------------------------------------ the process


@pytest.mark.parametrize("kind", ["absorbing", *KINDS])
def test_shares_sum_to_one_and_are_the_published_ones(kind):
    noise, exact = noise_of(kind), Forward(kind, VOCAB, P_U)
    for r in LEVELS:
        keep, masks, random = noise.shares(r)
        assert keep + masks + random == pytest.approx(1, abs=1e-12)
        there, added = exact.noise(r.item())
        assert keep == pytest.approx(there, abs=1e-12)
        assert masks == pytest.approx(added[MASK].item(), abs=1e-12)
        assert random == pytest.approx(added[:MASK].sum().item(), abs=1e-12)


@pytest.mark.parametrize("p_u", [0.0, 0.1, 0.2, 0.9])
def test_half_way_the_share_of_random_tokens_is_p_u(p_u):
    shares = noise_of("hybrid", p_u).shares(torch.tensor(0.5, dtype=torch.float64))
    assert shares[2].item() == pytest.approx(p_u, abs=1e-12)
    assert shares[1] == pytest.approx(shares[0])


@every_kind
def test_noise_comes_in_at_the_rate_that_the_process_has(kind):
    """A step from r to r + h puts g(z) h at every z but the one that was there."""
    noise, exact, h = noise_of(kind), Forward(kind, VOCAB, P_U), 1e-6
    for r in LEVELS:
        step = exact.between(r.item(), r.item() + h)
        masks, random = noise.pull(r)
        for y, z in itertools.product(range(VOCAB), range(VOCAB + 1)):
            if y != z:
                rate = masks if z == MASK else random / VOCAB
                assert step[y, z].item() / h == pytest.approx(rate.item(), rel=1e-3, abs=1e-6)


@pytest.mark.slow
@every_kind
def test_noisy_texts_have_the_shares_of_their_level(kind):
    noise, exact, rows, r = noise_of(kind), Forward(kind, VOCAB, P_U), 80_000, 0.6
    text = torch.tensor([[0, 1, 2]]).expand(rows, -1)
    where = torch.tensor([True, True, False]).expand(rows, -1)
    u, v = (rng.uniform(rng.row_keys(seed, rows), 3) for seed in (0, 1))
    seen = noise.noised(text, where, torch.full((rows, 1), r, dtype=torch.float64), u, v)
    assert (seen[:, 2] == 2).all()
    for place, token in ((0, 0), (1, 1)):
        share = torch.bincount(seen[:, place], minlength=VOCAB + 1) / rows
        assert share.tolist() == pytest.approx(exact.until(r)[token].tolist(), abs=6e-3)


def test_no_forbidden_token_is_noise():
    noise = make_noise("uniform", 4, [0, 1, 7], 8)
    assert noise.tokens.tolist() == [2, 3, 5, 6]
    u = rng.uniform(rng.row_keys(0, 100), 8)
    assert set(noise.drawn(u).flatten().tolist()) == {2, 3, 5, 6}


def test_without_random_tokens_hybrid_batches_are_those_of_masks():
    """Bit for bit, but for the loss at tokens that are seen, which then weighs nothing."""
    rows = [{"input_ids": torch.tensor([0, 1, 2, 1, 0, 2]), "draw": i} for i in range(40)]
    plain, hybrid = (
        DiffusionCollator(noise, [], 1, global_batch=8)(rows)
        for noise in (Absorbing(MASK), noise_of("hybrid", 0.0))
    )
    assert torch.equal(plain["input_ids"], hybrid["input_ids"])
    masked = plain["labels"] != IGNORE
    assert torch.equal(plain["labels"][masked], hybrid["labels"][masked])
    assert (hybrid["weights"][~masked] == 0).all()
    assert (hybrid["weights"][masked] > 0).all()


# ------------------------------------------------------------ the loss of a position


def published(forward: Forward, r: float, z: int, x: int, p: list[float]) -> float:
    """GIDD's weight times its two divergences, from the rates of the process in both directions:
    the continuous limit of KL(q(y | z, x) || q(y | z, p)) over a small step."""
    h = 1e-6
    true = forward.posterior(r - h, r, z, torch.eye(VOCAB)[x])
    model = forward.posterior(r - h, r, z, p)
    return (torch.xlogy(true, true) - torch.xlogy(true, model)).sum().item() / h


@every_kind
def test_weighted_divergence_is_the_rate_at_which_the_reverse_steps_diverge(kind):
    noise, forward = noise_of(kind), Forward(kind, VOCAB, P_U)
    p = [0.5, 0.3, 0.2]
    logits = torch.tensor([*p, 9.0]).log()[None]  # what is said of the mask is not heard
    for r, x, z in itertools.product((0.1, 0.5, 0.9), range(VOCAB), range(VOCAB + 1)):
        if forward.until(r)[x, z] == 0:
            continue
        level, true, seen = torch.tensor([r]).double(), torch.tensor([x]), torch.tensor([z])
        nats = divergence(logits, true, seen, level, noise) * noise.weight(level, seen, true)
        assert nats.item() == pytest.approx(published(forward, r, z, x, p), rel=2e-3, abs=2e-4)


def test_of_masks_alone_the_divergence_is_the_weighted_cross_entropy():
    noise = noise_of("hybrid", 0.0)
    logits = torch.randn(VOCAB, VOCAB + 1, generator=torch.Generator().manual_seed(0))
    logits[:, MASK] = -torch.inf
    true, seen = torch.arange(VOCAB), torch.full((VOCAB,), MASK)
    r = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    nats = divergence(logits, true, seen, r, noise) * noise.weight(r, seen, true)
    torch.testing.assert_close(nats, cross_entropy(logits, true) / r, check_dtype=False)


@every_kind
def test_the_gradient_of_the_divergence_is_its_slope(kind):
    noise = noise_of(kind, vocab=6)
    generator = torch.Generator().manual_seed(1)
    n = 60
    logits = (torch.randn(n, 7, generator=generator) * 2).requires_grad_()
    true, r = torch.randint(0, 6, (n,), generator=generator), torch.linspace(0.05, 0.95, n).double()
    u, v = (torch.rand(1, n, generator=generator).double() for _ in range(2))
    seen = noise.noised(true[None], torch.ones(1, n, dtype=torch.bool), r[None], u, v)[0]
    along = torch.randn(n, 7, generator=generator)
    weight = torch.rand(n, generator=generator)
    (divergence(logits, true, seen, r, noise) * weight).sum().backward()
    with torch.no_grad():
        ahead, back = (
            divergence(logits + h * along, true, seen, r, noise).double() for h in (1e-2, -1e-2)
        )
    slope = ((ahead - back) * weight / 2e-2).sum()
    assert (logits.grad * along).sum().item() == pytest.approx(slope.item(), rel=2e-3)


@every_kind
def test_the_divergence_stays_finite_where_numbers_end(kind):
    noise = noise_of(kind)
    logits = torch.tensor([[300.0, 0, 0, 0], [300.0, 0, 0, 0]], requires_grad=True)
    for r in (1e-9, 0.5, 1 - 1e-6):
        level = torch.full((2,), r, dtype=torch.float64)
        for seen in ([0, 0], [1, 1], [2, 1]):
            nats = divergence(logits, torch.tensor([0, 1]), torch.tensor(seen), level, noise)
            assert nats.isfinite().all()
            assert (nats > -1e-6).all()
            (slope,) = torch.autograd.grad(nats.sum(), logits)
            assert slope.isfinite().all()


# ------------------------------------------------------------ the bound of a text

LENGTH = 2
TEXT = (2, 0)


def levels(n: int):
    """Nodes and weights of an integral over r from 0 to 1; square roots at the ends are smoothed."""
    nodes, weights = numpy.polynomial.legendre.leggauss(n)
    angle = (nodes + 1) / 2 * math.pi / 2
    weights = weights * math.pi / 4 * numpy.sin(2 * angle)
    return list(zip(numpy.sin(angle) ** 2, weights, strict=True))


def canvases(forward: Forward, r: float, text=TEXT):
    """[(canvas, probability)] of a text at the level r."""
    rows = forward.until(r)[list(text)]
    for canvas in itertools.product(range(VOCAB + 1), repeat=len(text)):
        chance = math.prod(rows[i, z].item() for i, z in enumerate(canvas))
        if chance:
            yield canvas, chance


def at_level(kind: str, predict, r: float, text=TEXT) -> float:
    """What is integrated over r: a mean over canvases, by enumeration, of this package's weighted
    divergences; ``predict`` (canvas, r) -> a list of distributions, one a position."""
    noise = noise_of(kind)
    cases = list(canvases(Forward(kind, VOCAB, P_U), r, text))
    p = torch.tensor([predict(canvas, r) for canvas, _ in cases], dtype=torch.float32)
    logits = torch.cat([p.log(), torch.full((*p.shape[:2], 1), -torch.inf)], 2).flatten(0, 1)
    seen = torch.tensor([canvas for canvas, _ in cases]).flatten()
    x, level = torch.tensor(text).repeat(len(cases)), torch.full(seen.shape, r, dtype=torch.float64)
    nats = divergence(logits, x, seen, level, noise) * noise.weight(level, seen, x)
    chance = torch.tensor([chance for _, chance in cases]).repeat_interleave(len(text))
    return (nats * chance).sum().item()


def integral(kind: str, predict, text=TEXT) -> float:
    """The bound in nats of a text."""
    return sum(dr * at_level(kind, predict, r, text) for r, dr in levels(40))


def in_steps(kind: str, predict, n: int, text=TEXT) -> float:
    """The bound of n steps of the reverse process, by Bayes' rule alone: the sum of the divergences
    of each step from its posterior, and the last one's own nats."""
    forward, total = Forward(kind, VOCAB, P_U), 0.0
    # Steps are short where noise with a square root comes in fast, at both ends.
    times = [math.sin(math.pi / 2 * k / n) ** 2 for k in range(n + 1)]
    for s, r in itertools.pairwise(times):
        for canvas, chance in canvases(forward, min(r, 1 - 1e-9), text):
            for i, p in enumerate(predict(canvas, r)):
                model = forward.posterior(s, min(r, 1 - 1e-9), canvas[i], p)
                true = forward.posterior(s, min(r, 1 - 1e-9), canvas[i], torch.eye(VOCAB)[text[i]])
                total += chance * (torch.xlogy(true, true) - torch.xlogy(true, model)).sum().item()
    return total


@functools.cache
def table(kind: str) -> TabularDenoiser:
    return TabularDenoiser(LENGTH, VOCAB, seed=3, noise=kind, p_u=P_U)


def tabular(kind: str):
    return lambda canvas, r: table(kind).probabilities(canvas)


@pytest.mark.slow
@every_kind
def test_many_steps_of_the_reverse_process_approach_the_continuous_bound(kind):
    exact = integral(kind, tabular(kind))
    errors = [in_steps(kind, tabular(kind), n) - exact for n in (8, 32)]
    assert errors[0] > 0  # fewer steps lose more
    assert errors[1] == pytest.approx(0, abs=0.06)
    assert abs(errors[1]) < abs(errors[0]) / 3


JOINT = torch.tensor([[0.4, 0.05, 0.05], [0.02, 0.2, 0.08], [0.1, 0.05, 0.05]], dtype=torch.float64)


def from_the_other(kind: str):
    """The exact distribution of each of two tokens given what stands in the place of the other."""
    forward = Forward(kind, VOCAB, P_U)

    def predict(canvas, r):
        seen = forward.until(r)[:VOCAB]
        first = JOINT @ seen[:, canvas[1]]
        second = seen[:, canvas[0]] @ JOINT
        return [(first / first.sum()).tolist(), (second / second.sum()).tolist()]

    return predict


@pytest.mark.parametrize("kind", ["uniform", pytest.param("hybrid", marks=pytest.mark.slow)])
def test_the_bound_of_exact_predictions_is_the_likelihood_itself(kind):
    """A prediction of a token from all others, by Bayes' rule, makes the reverse process exact, so
    that the mean bound is the entropy of the texts."""
    entropy = -torch.xlogy(JOINT, JOINT).sum().item()
    texts = itertools.product(range(VOCAB), repeat=2)
    mean = sum(JOINT[text].item() * integral(kind, from_the_other(kind), text) for text in texts)
    assert mean == pytest.approx(entropy, abs=1e-3)


@pytest.mark.slow
@every_kind
def test_what_is_evaluated_estimates_the_bound(kind):
    rows = 20_000
    blocks = torch.tensor([TEXT]).expand(rows, -1)
    editable, sizes = torch.ones_like(blocks, dtype=torch.bool), torch.ones(VOCAB + 1).long()
    model = table(kind)
    found = likelihood_bound(model.backbone, blocks, editable, model.noise, sizes, batch_size=rows)
    exact = integral(kind, tabular(kind)) / LENGTH
    assert found.nats_per_token == pytest.approx(exact, abs=4 * found.standard_error)
    assert found.standard_error < 0.03
    assert found.by_mask_rate == []


@every_kind
def test_of_a_prediction_that_is_the_same_everywhere_the_bound_is_the_likelihood(kind):
    """Draw by draw for that of the estimator, as exact counts give log V on every draw; in the mean,
    by quadrature, for any."""
    blocks = torch.tensor([TEXT, (1, 1), (0, 2)]).repeat(50, 1)
    every, noise = torch.ones_like(blocks).bool(), noise_of(kind)
    shares = torch.bincount(blocks.flatten()) / blocks.numel()
    p = 0.9 * shares + 0.1 / VOCAB

    def backbone(ids, query_mask, *_):
        return torch.cat([p.log(), torch.tensor([-torch.inf])]).expand(int(query_mask.sum()), -1)

    found = likelihood_bound(backbone, blocks, every, noise, torch.ones(VOCAB + 1).long())
    expected = -p.log()[blocks].mean(1)
    assert found.by_block == pytest.approx(expected.tolist(), abs=2e-3)

    other = [0.2, 0.7, 0.1]
    exact = integral(kind, lambda canvas, r: [other] * LENGTH)
    assert exact == pytest.approx(-sum(math.log(other[x]) for x in TEXT), abs=1e-3)


@every_kind
def test_the_divergence_of_a_prediction_that_is_the_same_everywhere(kind):
    noise, p = noise_of(kind), torch.tensor([0.2, 0.7, 0.1, 0.0], dtype=torch.float64)
    cases = list(itertools.product(range(VOCAB), range(VOCAB + 1), range(2)))
    x, z, row = torch.tensor(cases).T
    r = torch.tensor([0.3, 0.8], dtype=torch.float64)
    possible = noise.weight(r[row], z, x) > 0
    x, z, row = x[possible], z[possible], row[possible]
    logits = p.log().float().expand(len(x), -1)
    torch.testing.assert_close(
        plain_divergence(x, z, r, row, p.expand(2, -1), noise),
        divergence(logits, x, z, r[row], noise),
        check_dtype=False, rtol=1e-4, atol=1e-5,
    )  # fmt: skip


@pytest.mark.slow
@every_kind
def test_a_token_that_noise_never_is_has_a_bound_too(kind):
    """A tokenizer's <unk> may stand in a text."""
    model, rows = TabularDenoiser(LENGTH, VOCAB, seed=3), 40_000
    noise = make_noise(kind, MASK, [1], VOCAB + 1, P_U)
    blocks = torch.tensor([(1, 0)]).repeat(rows, 1)
    sizes, every = torch.ones(VOCAB + 1).long(), torch.ones_like(blocks).bool()
    found = likelihood_bound(model.backbone, blocks, every, noise, sizes, batch_size=rows)
    assert 0 < found.nats_per_token < 10
    assert found.standard_error < 0.1


@every_kind
def test_a_text_has_the_bound_of_itself_alone_and_in_a_batch(kind):
    model, draws = table(kind), 4000
    padding = torch.tensor([[False] * 2, [False, True]])
    canvas = Canvas(torch.tensor([TEXT, (1, 0)]), torch.ones(2, 2).bool(), padding)
    how = {"draws": draws, "batch_size": 1000}
    values = text_bounds(model.backbone, canvas, ~padding, model.noise, **how)
    exact = integral(kind, tabular(kind)) / LENGTH
    assert values[0].mean().item() == pytest.approx(exact, abs=0.1)
    first = Canvas(canvas.ids[:1], canvas.frozen[:1], canvas.padding[:1])
    how = {"draws": draws, "batch_size": 700}
    alone = text_bounds(model.backbone, first, ~first.padding, model.noise, **how)
    assert torch.equal(values[:1], alone)


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("schedule", ["linear", "cosine-a"])
def test_the_training_loss_estimates_the_bound(kind, schedule):
    """But for the shortest times, which are drawn as `MIN_TIME`."""
    model, rows = table(kind), 20_000
    collate = DiffusionCollator(model.noise, [], 0, schedule=schedule, global_batch=1000)
    batch = collate([{"input_ids": torch.tensor(TEXT), "draw": i} for i in range(rows)])
    labels, seen = batch["labels"], batch["input_ids"]
    assert (labels == torch.tensor(TEXT)).all()
    logits = model.backbone(seen, labels != IGNORE)
    r = batch["r"][:, None].expand(labels.shape).flatten()
    nats = divergence(logits, labels.flatten(), seen.flatten(), r, model.noise)
    per_row = (nats.view(labels.shape) * batch["weights"]).sum(1)
    first = RATES[schedule](MIN_TIME)
    short = sum(dr * at_level(kind, tabular(kind), first * r) for r, dr in levels(12))
    moved = first * (at_level(kind, tabular(kind), first) - short)
    exact = integral(kind, tabular(kind)) + moved
    error = per_row.std().item() / math.sqrt(rows)
    assert error < 0.05
    assert per_row.mean().item() == pytest.approx(exact / LENGTH, abs=4 * error)


def test_clipped_weights_are_at_most_what_is_asked_for():
    labels, seen = torch.tensor([[0, 1, 2]]), torch.tensor([[MASK, 2, 2]])
    given = labels, seen, torch.tensor([0.01]), torch.tensor([0.01]), torch.tensor([3]), "linear"
    noise = noise_of("hybrid")
    full, clipped = noise_weights(*given, noise)[0], noise_weights(*given, noise, 2.0)[0]
    assert (full[:2] > 2 / 3).all()
    assert clipped[:2].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert clipped[2] == full[2]


# ------------------------------------------------------------ what it costs not to know the time


def chain(text, vocab, again=0.85) -> float:
    """Probability of a text of a Markov chain, whose next token is mostly the same."""
    steps = (again if a == b else (1 - again) / (vocab - 1) for a, b in itertools.pairwise(text))
    return math.prod(steps) / vocab


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "vocab", "length", "cost"),
    [("uniform", 2, 2, 0.0175), ("uniform", 2, 4, 0.0143), ("uniform", 3, 2, 0.0358),
     ("hybrid", 2, 2, 0.0041), ("hybrid", 3, 2, 0.0082)],
)  # fmt: skip
def test_the_best_prediction_without_the_time_loses_little(kind, vocab, length, cost):
    """In nats per token (docs/noise.md). With the time, the exact prediction of each token from the
    others has the entropy as its bound; without, the best table is found by gradient descent."""
    noise, forward = noise_of(kind, vocab=vocab), Forward(kind, vocab, P_U)
    texts = torch.tensor(list(itertools.product(range(vocab), repeat=length)))
    states = torch.tensor(list(itertools.product(range(vocab + 1), repeat=length)))
    joint = torch.tensor([chain(text, vocab) for text in texts.tolist()], dtype=torch.float64)
    cases, exact = [], 0.0
    for r, dr in levels(8):
        q = forward.until(r)[:vocab]
        each = q[texts][:, :, states].diagonal(dim1=1, dim2=3)  # (texts, states, positions)
        for i in range(length):
            others = joint[:, None] * each[:, :, torch.arange(length) != i].prod(2)
            from_others = torch.stack([others[texts[:, i] == v].sum(0) for v in range(vocab)], 1)
            chance = dr * others * each[:, :, i]
            text, state = (chance > 1e-10).nonzero(as_tuple=True)
            x, z = texts[text, i], states[state, i]
            level = torch.full(x.shape, r, dtype=torch.float64)
            weight = noise.weight(level, z, x) * chance[text, state]
            logits = torch.cat([from_others.log(), torch.full((len(states), 1), -torch.inf)], 1)
            nats = divergence(logits[state].float(), x, z, level, noise)
            exact += (nats * weight).sum().item() / length
            cases.append((x, z, level, weight.float(), state, torch.full_like(x, i)))
    x, z, level, weight, state, place = map(torch.cat, zip(*cases, strict=True))
    table = torch.zeros(len(states), length, vocab + 1)
    table[..., vocab] = -torch.inf
    table.requires_grad_()
    optimizer = torch.optim.LBFGS([table], max_iter=40, line_search_fn="strong_wolfe")

    def bound():
        optimizer.zero_grad()
        loss = (divergence(table[state, place], x, z, level, noise) * weight).sum() / length
        loss.backward()
        return loss

    optimizer.step(bound)
    assert bound().item() - exact == pytest.approx(cost, abs=8e-4)
    assert exact == pytest.approx(-torch.xlogy(joint, joint).sum().item() / length, abs=6e-3)
