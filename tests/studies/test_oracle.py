"""studies/oracle.py against all texts of four tokens, one by one."""

import itertools

import pytest
import torch

from diffusion.canvas import Canvas, Query
from diffusion.noise import make_noise
from studies import oracle

LENGTH, MASK = 4, oracle.MASK
CHAIN = oracle.Chain()
TEXTS = torch.tensor([*itertools.product(range(oracle.TOKENS), repeat=LENGTH)])


def law():
    """p of all texts, a sum over all paths of states."""
    p = torch.zeros(len(TEXTS), dtype=torch.float64)
    for path in itertools.product(range(oracle.STATES), repeat=LENGTH):
        chance = CHAIN.start[path[0]]
        for one, other in itertools.pairwise(path):
            chance = chance * CHAIN.move[one, other]
        p += chance * CHAIN.emit[list(path)].gather(1, TEXTS.T).prod(0)
    return p


P = law()
ENTROPY = CHAIN.nats(CHAIN.texts(50_000, 0)).mean().item()  # of a long text, nats


def posterior(canvas, place, channel):
    """p(token at a place | all others) by Bayes' rule, where ``channel`` (x, z) is what becomes of x."""
    others = [i for i in range(LENGTH) if i != place]
    chance = P * channel[TEXTS[:, others], canvas[others]].prod(1)
    found = torch.zeros(oracle.TOKENS, dtype=torch.float64).index_add(0, TEXTS[:, place], chance)
    return (found / found.sum()).float()


def channel_of(noise, r):
    r = torch.tensor(r).double()
    rest = noise.at(torch.arange(oracle.TOKENS + 1), *noise.shares(r)[1:])
    return noise.shares(r)[0] * torch.eye(oracle.TOKENS, oracle.TOKENS + 1).double() + rest


def canvases(low):
    return torch.randint(low, MASK + 1, (40, LENGTH), generator=torch.Generator().manual_seed(1))


def test_likelihoods_and_windows_are_those_of_all_paths():
    torch.testing.assert_close(CHAIN.nats(TEXTS).neg().exp(), P)
    torch.testing.assert_close(CHAIN.windows(LENGTH).flatten(), P)
    pairs = CHAIN.nats(TEXTS), -(P * P.log()).sum()  # what an excess is measured from
    assert abs((P * pairs[0]).sum() - pairs[1]) < 1e-9


@pytest.mark.parametrize(("kind", "r"), [("absorbing", None), ("uniform", 0.3), ("hybrid", 0.6)])
def test_predictions_are_those_of_bayes_rule(kind, r):
    noise, ids = make_noise(kind, MASK, [], MASK + 1, 0.2), canvases(0)
    if kind == "uniform":
        ids = ids.clamp(max=MASK - 1)
    mask = ids == MASK if r is None else torch.ones_like(ids, dtype=torch.bool)
    denoiser = oracle.Oracle(CHAIN, noise, None if r is None else [r])
    nothing = torch.zeros_like(mask)
    p = denoiser.start(Canvas(ids, nothing, nothing))(Query(ids, mask)).softmax(-1)
    channel = torch.eye(MASK, MASK + 1).double()
    channel[:, MASK] = 1  # a mask says nothing
    channel = channel if r is None else channel_of(noise, r)
    for (row, place), found in zip(mask.nonzero().tolist(), p, strict=True):
        expected = posterior(ids[row], place, channel)
        torch.testing.assert_close(found[:MASK], expected, rtol=1e-4, atol=1e-6)


def test_a_visible_token_predicts_itself_unless_it_is_hidden():
    noise, ids = make_noise("absorbing", MASK, [], MASK + 1), canvases(0)
    every = torch.ones_like(ids, dtype=torch.bool)
    denoiser = oracle.Oracle(CHAIN, noise).start(None)
    p = denoiser(Query(ids, every)).softmax(-1).view(*ids.shape, -1)
    assert (p[ids != MASK].argmax(1) == ids[ids != MASK]).all() and (
        p.amax(2)[ids != MASK] == 1
    ).all()
    hidden = denoiser(Query(ids, every, shadows=ids != MASK)).softmax(-1).view(*ids.shape, -1)
    channel = torch.cat([torch.eye(MASK), torch.ones(MASK, 1)], 1).double()
    expected = posterior(ids[0], 2, channel)
    torch.testing.assert_close(hidden[0, 2, :MASK], expected, rtol=1e-4, atol=1e-6)


def test_what_is_drafted_is_read_given_the_tokens_before():
    """Of texts without masks: the chain's p(token | before), whose logs add up to log p(text)."""
    denoiser = oracle.ReadingOracle(CHAIN, make_noise("absorbing", MASK, [], MASK + 1), 0)
    p = denoiser(Query(TEXTS, torch.ones_like(TEXTS, dtype=torch.bool))).log_softmax(1)
    each = p.view(*TEXTS.shape, -1).gather(2, TEXTS[..., None])[..., 0]
    torch.testing.assert_close(-each.sum(1).double(), CHAIN.nats(TEXTS), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("first-hitting", {}),
        ("speculative", {"draft_length": 3}),
        ("confidence", {"n_steps": 16, "score": "entropy"}),
        ("threshold", {"threshold": 0.6}),
        ("arpc", {"tokens_per_draft": 2}),
    ],
)
def test_exact_samplers_are_found_exact_and_others_not(name, own):
    texts, passes = oracle.write(CHAIN, "absorbing", name, 3000, 0, **own)
    found = oracle.measure(CHAIN, texts, ENTROPY)
    off = abs(found["excess"]) / found["excess_error"]
    assert off > 10 if name in ("threshold", "arpc") else off < 2
    assert passes.double().mean() < 7.5 if name == "speculative" else True
