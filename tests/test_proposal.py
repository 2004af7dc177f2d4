"""One token from one prediction: temperature, top-k, top-p, and the draw itself."""

import math

import pytest
import torch
from helpers.exact import normalise, sharpen
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from diffusion.proposal import Proposal, Sampling

VOCAB = 30
LOGITS = torch.randn(200, VOCAB, generator=torch.Generator().manual_seed(0)) * 2
LOGITS[:, [3, 17]] = -torch.inf  # forbidden

settings = pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, 0, 1.0),
        (0.7, 0, 1.0),
        (1.6, 0, 1.0),
        (1.0, 5, 1.0),
        (1.0, 1, 1.0),
        (1.0, 30, 1.0),
        (1.0, 31, 1.0),
        (1.0, 500, 1.0),
        (1.0, 0, 0.9),
        (1.0, 0, 0.3),
        (1.0, 0, 1e-6),
        (0.8, 7, 0.6),
        (1.3, 12, 0.95),
        (1.0, 500, 0.5),
    ],
)


@settings
def test_distribution_is_that_of_the_transformers_warpers_and_the_definition(
    temperature, top_k, top_p
):
    scores = TemperatureLogitsWarper(temperature)(None, LOGITS.double())
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    ours = Sampling(temperature, top_k, top_p).dense(LOGITS)
    torch.testing.assert_close(ours, scores.softmax(-1), rtol=1e-6, atol=1e-9)
    for row, p in zip(ours[:40].tolist(), LOGITS[:40].double().softmax(-1).tolist(), strict=True):
        assert row == pytest.approx(sharpen(p, temperature, top_k, top_p), rel=1e-5, abs=1e-9)


@settings
def test_draws_invert_the_distribution_function(temperature, top_k, top_p):
    """Evenly spaced uniforms give each token its probability to within their spacing."""
    sampling, n = Sampling(temperature, top_k, top_p), 5000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for logits in LOGITS[:5]:
        tokens, probability = sampling.draw(logits.expand(n, VOCAB), u)
        p = sampling.dense(logits[None])[0]
        share = torch.bincount(tokens, minlength=VOCAB) / n
        assert (share - p).abs().max() <= 1 / n
        torch.testing.assert_close(probability, p[tokens])
        assert not torch.isin(tokens, torch.tensor([3, 17])).any()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=4), Sampling(top_p=0.5)])
def test_uniforms_at_the_ends_never_draw_what_is_forbidden(sampling):
    logits = LOGITS[:50].clone()
    logits[:, [0, 1, VOCAB - 2, VOCAB - 1]] = -torch.inf
    allowed = sampling.dense(logits) > 0
    for u in (2.0**-53, 1 - 2.0**-53):
        tokens, p = sampling.draw(logits, torch.full((50,), u, dtype=torch.float64))
        assert allowed.gather(1, tokens[:, None]).all()
        assert (p > 0).all()


def test_a_nucleus_may_reach_its_mass_exactly():
    p = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])
    u = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for sampling in (Sampling(1.0, 0, 0.75), Sampling(1.0, 0, 0.76), Sampling(0.5, 3, 0.9)):
        tokens, _ = sampling.draw(p.log().expand(4000, 5), u)
        expected = sharpen(p.tolist(), sampling.temperature, sampling.top_k, sampling.top_p)
        assert set(tokens.tolist()) == {i for i, x in enumerate(expected) if x > 0}


def test_temperature_zero_takes_the_most_probable_token_whatever_the_uniform():
    u = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for top_k, top_p in ((0, 1.0), (5, 0.1)):
        tokens, p = Sampling(0, top_k, top_p).draw(LOGITS, u)
        assert torch.equal(tokens, LOGITS.argmax(1))
        assert (p == 1).all()


def test_rare_tokens_of_a_large_vocabulary_are_not_lost():
    """The cumulative sum has room for probabilities far below float32's rounding."""
    logits = torch.full((1, 50_001), math.log(1e-9))
    logits[0, 0] = 0.0
    p, _ = Sampling().distribution(logits)
    assert p.dtype == torch.float64
    n = 200
    u = 1 - 5e-5 * (torch.arange(n, dtype=torch.float64) + 0.5) / n  # the mass of the rare ones
    tokens, _ = Sampling().draw(logits.expand(n, -1), u)
    assert len(tokens.unique()) > 0.99 * n
    assert tokens.min() > 0


# ------------------------------------------------------------ the confidence of a proposal

KINDS = ("probability", "sharpened", "margin", "entropy")
ROWS = torch.tensor([[True, False, True, True], [False, False, True, False]])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0, 0.0])
def test_scores_are_their_definitions(temperature):
    logits = LOGITS[:4]
    sampling = Sampling(temperature, 8, 0.8)
    u = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    proposal = Proposal(logits, ROWS, sampling, u)
    scores = {k: proposal.score(k) for k in KINDS}
    query_mask = [(0, 0), (0, 2), (0, 3), (1, 2)]
    for place, row in zip(query_mask, logits.double(), strict=True):
        p = row.softmax(-1).tolist()
        token = proposal.tokens[place].item()
        assert token == sampling.draw(row[None].float(), u[place][None])[0].item()
        best, second = sorted(p, reverse=True)[:2]
        tempered = [x for x in normalise([x ** (1 / (temperature or 1)) for x in p]) if x > 0]
        entropy = -sum(x * math.log(x) for x in tempered)
        expected = {
            "probability": p[token],
            "sharpened": sharpen(p, temperature or 1, 8, 0.8)[token],
            "margin": best - second,
            "entropy": -entropy,
        }
        for kind, value in expected.items():
            assert scores[kind][place].item() == pytest.approx(value, rel=1e-5), kind
        assert proposal.entropy()[place].item() == pytest.approx(entropy, rel=1e-5)
        assert proposal.probability[place].item() == pytest.approx(p[token], rel=1e-5)
    for kind in scores:
        assert (scores[kind][~ROWS] == -torch.inf).all()
    assert (proposal.tokens[~ROWS] == -1).all()
    assert proposal.probability[~ROWS].isnan().all()


@pytest.mark.parametrize(
    "logits", [[-20.0, -25.0, -30.0], [3.0, 2.9, -torch.inf], [0.0, 0.0, -9.0]]
)
@pytest.mark.parametrize("temperature", [1.5e-4, 1e-3, 1e-2, 1.0])
def test_entropy_at_any_temperature(logits, temperature):
    rows, u = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.float64)
    ours = Proposal(torch.tensor([logits]), rows, Sampling(temperature), u).entropy().item()
    p = (torch.tensor(logits, dtype=torch.float64) / temperature).softmax(-1)
    assert ours == pytest.approx(torch.special.entr(p).sum().item(), abs=1e-5)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 5, 0.9), Sampling(0)])
def test_half_precision_logits_are_computed_in_single_precision(sampling):
    """In bfloat16 probabilities near 1 differ by 0.004 or not at all, and ties decide the order."""
    rows = torch.ones(20, 10, dtype=torch.bool)
    u = torch.rand(20, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    half = LOGITS.bfloat16()
    ours, exact = (Proposal(x, rows, sampling, u) for x in (half, half.float()))
    assert torch.equal(ours.tokens, exact.tokens)
    for kind in KINDS:
        assert ours.score(kind).dtype in (torch.float32, torch.float64)
        assert torch.equal(ours.score(kind), exact.score(kind))
    assert ours.probability.dtype == torch.float32


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 5, 0.9)])
def test_a_large_vocabulary_gives_each_position_what_it_gets_alone(sampling):
    """Large enough that the positions are not all computed at once."""
    n, vocab = 6, 2**18
    logits = torch.randn(n, vocab, generator=torch.Generator().manual_seed(4)) * 3
    u = torch.rand(1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    rows = torch.ones(1, n, dtype=torch.bool)
    whole = Proposal(logits, rows, sampling, u)
    for i in range(n):
        alone = Proposal(logits[i : i + 1], rows[:, :1], sampling, u[:, i : i + 1])
        assert whole.tokens[0, i] == alone.tokens[0, 0]
        for kind in KINDS:
            torch.testing.assert_close(whole.score(kind)[0, i], alone.score(kind)[0, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_divergence_from_an_earlier_proposal_is_its_definition(dtype):
    earlier_rows = torch.tensor([[True, True, True, False], [False, False, False, False]])
    u = torch.full((2, 4), 0.5, dtype=torch.float64)
    now = Proposal(LOGITS[:4].to(dtype), ROWS, Sampling(0.7, 5), u)
    earlier = Proposal(LOGITS[10:13].to(dtype), earlier_rows, Sampling(), u)
    everywhere = torch.ones_like(ROWS)
    kl = now.divergence(earlier, everywhere)
    p = LOGITS[:4].to(dtype).double().softmax(-1)
    q = LOGITS[10:13].to(dtype).double().softmax(-1)
    for place, i, j in (((0, 0), 0, 0), ((0, 2), 1, 2)):
        both = (p[i] > 0) & (q[j] > 0)
        expected = (p[i][both] * (p[i][both] / q[j][both]).log()).sum().item()
        assert kl[place].item() == pytest.approx(expected, rel=1e-4)
    assert kl[0, 3] == kl[1, 2] == torch.inf  # no earlier prediction
    assert now.divergence(earlier.only(ROWS & False), everywhere)[0, 0] == torch.inf
    same = now.divergence(now, everywhere)
    assert same[ROWS].abs().max() < 1e-6 and (same[~ROWS] == torch.inf).all()
    nothing = Proposal(torch.zeros(0, 2), ROWS & False, Sampling(), u)
    assert (now.divergence(nothing, everywhere) == torch.inf).all()
    assert (now.divergence(earlier, ROWS & False) == torch.inf).all()


def test_probability_of_other_tokens_and_gaps_are_their_definitions():
    u = torch.full((2, 4), 0.5, dtype=torch.float64)
    proposal = Proposal(LOGITS[:4], ROWS, Sampling(0.5, 3), u)
    tokens = torch.tensor([[5, 6, 7, 8], [9, 10, 3, 11]])
    p, gap = proposal.probability_of(tokens), proposal.gap()
    for i, place in enumerate([(0, 0), (0, 2), (0, 3), (1, 2)]):
        row = LOGITS[i].double()
        assert p[place].item() == pytest.approx(row.softmax(-1)[tokens[place]].item(), rel=1e-5)
        best, second = row.sort(descending=True).values[:2]
        assert gap[place].item() == pytest.approx((best - second).item(), rel=1e-5)
    assert p[~ROWS].isnan().all() and gap[~ROWS].isnan().all()


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.7, 3), Sampling(1, 0, 0.6), Sampling(0)]
)
def test_the_best_other_token_is_that_of_the_whole_distribution(sampling):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(8, 7, generator=generator)
    mask = torch.ones(2, 4, dtype=torch.bool)
    p = sampling.dense(logits).view(2, 4, 7)
    proposal = Proposal(logits, mask, sampling, torch.full((2, 4), 0.5))
    for tokens in (proposal.best, torch.randint(7, (2, 4), generator=generator)):
        others = p.scatter(2, tokens[..., None], 0)
        torch.testing.assert_close(proposal.chance_besides(tokens), others.amax(2))


def test_a_proposal_seen_in_part_is_the_same_there_and_nothing_elsewhere():
    u = torch.full((2, 4), 0.5, dtype=torch.float64)
    whole = Proposal(LOGITS[:4], ROWS, Sampling(), u)
    rows = torch.zeros_like(ROWS)
    rows[0, 2] = rows[0, 1] = True
    part = whole.only(rows)
    assert part.query_mask.nonzero().tolist() == [[0, 2]]
    for kind in KINDS:
        assert part.score(kind)[0, 2] == whole.score(kind)[0, 2]
        assert (part.score(kind)[~part.query_mask] == -torch.inf).all()


def test_rows_that_take_the_best_token_are_told_apart():
    u = torch.full((2, 4), 0.999, dtype=torch.float64)
    best = torch.tensor([[True], [False]])
    for sampling in (Sampling(), Sampling(1.0, 4), Sampling(top_p=0.9)):
        assert sampling.draw(LOGITS[:0], u[0, :0])[0].shape == (0,)
        mixed = Proposal(LOGITS[:4], ROWS, sampling, u, best)
        drawn = Proposal(LOGITS[:4], ROWS, sampling, u)
        assert torch.equal(mixed.tokens[0][ROWS[0]], LOGITS[:3].argmax(-1))
        assert mixed.tokens[1, 2] == drawn.tokens[1, 2] != LOGITS[3].argmax()
        p = LOGITS[:3].softmax(-1).amax(-1)
        torch.testing.assert_close(mixed.probability[0][ROWS[0]], p)


@pytest.mark.parametrize("temperature", [0.7, 3.0])
def test_a_draw_from_many_tokens_inverts_the_same_function(temperature):
    """A vocabulary that is searched in groups, the last of which is not full, with groups and
    both ends forbidden, against one distribution function in float64."""
    n, vocabulary = 20_000, 1000
    logits = 3 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(2))
    logits[[0, 1, -1]] = logits[64:192] = logits[700::3] = -torch.inf
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    u[:2], u[-1] = 0, 1 - 2**-53
    tokens, probability = Sampling(temperature).draw(logits.expand(n, vocabulary), u)
    p = (logits.double() / temperature).softmax(-1)
    cdf = p.cumsum(-1)
    assert (p[tokens] > 0).all()
    # Within a few digits of float32 of the token's own part of [0, 1).
    assert (u < cdf[tokens] + 1e-6).all() and (u >= cdf[tokens] - p[tokens] - 1e-6).all()
    torch.testing.assert_close(probability, p[tokens], rtol=2e-6, atol=0)
