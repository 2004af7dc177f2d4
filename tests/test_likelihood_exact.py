"""The likelihood bound and the causal NLL against exact enumeration."""

import itertools
import math

import pytest
import torch
from helpers.tabular import TabularDenoiser

from diffusion import likelihood

LENGTH, VOCAB = 4, 3
DENOISER = TabularDenoiser(LENGTH, VOCAB, seed=1)
BYTES = torch.tensor([1, 2, 3, 0])


# ---------------------------------------------------------------- the bound and the NLL, exactly


def exact_bound(text) -> float:
    """The sum over k of the mean loss with k masks over k: `test_objective` says why."""
    total = 0.0
    for k in range(1, LENGTH + 1):
        ways = list(itertools.combinations(range(LENGTH), k))
        for way in ways:
            canvas = tuple(DENOISER.mask_id if i in way else t for i, t in enumerate(text))
            p = DENOISER.probabilities(canvas)
            total -= sum(math.log(p[i][text[i]]) for i in way) / len(ways) / k
    return total


@pytest.mark.parametrize("text", [(2, 0, 1, 2), (0, 0, 0, 0)])
def test_the_estimate_is_the_exact_bound(text):
    blocks = torch.tensor(text).expand(4000, LENGTH)
    editable = torch.ones_like(blocks, dtype=torch.bool)
    settings = {"draws": 10, "batch_size": 4000}
    bound = likelihood.likelihood_bound(
        DENOISER.backbone, blocks, editable, DENOISER.noise, BYTES, **settings
    )
    expected = exact_bound(text) / LENGTH
    assert bound.standard_error < 0.02
    assert abs(bound.nats_per_token - expected) < 4 * bound.standard_error
    assert bound.nats_per_byte == pytest.approx(
        bound.nats_per_token * LENGTH / sum(BYTES[list(text)].tolist())
    )


def test_only_the_queried_tokens_are_masked():
    blocks = torch.zeros(60, LENGTH, dtype=torch.int64)
    editable = torch.ones_like(blocks, dtype=torch.bool)
    editable[:, :2] = False

    def uniform(ids, rows, *_):
        assert not rows[:, :2].any() and (ids[:, :2] == 0).all()
        return torch.zeros(int(rows.sum()), VOCAB)

    bound = likelihood.likelihood_bound(uniform, blocks, editable, DENOISER.noise, BYTES, draws=4)
    assert bound.nats_per_token == pytest.approx(math.log(VOCAB), abs=1e-6)
    assert bound.standard_error == pytest.approx(0, abs=1e-6)


def test_the_causal_nll_is_the_exact_one():
    """A table of p(token | all before): the probabilities of all texts sum to 1, and each is the
    product of its conditionals."""
    table = {
        prefix: torch.randn(VOCAB, generator=torch.Generator().manual_seed(hash(prefix) % 2**31))
        for n in range(LENGTH)
        for prefix in itertools.product(range(VOCAB), repeat=n)
    }

    def backbone(ids, rows, causal):
        assert causal
        where = rows.nonzero().tolist()
        return torch.stack([table[tuple(ids[i, :j].tolist())] for i, j in where])

    texts = torch.tensor(list(itertools.product(range(VOCAB), repeat=LENGTH)))
    total = 0.0
    for text in texts:
        bound = likelihood.causal_nll(backbone, text[None], torch.ones(1, LENGTH).bool(), BYTES)
        nll = bound.nats_per_token * LENGTH
        chain = [table[tuple(text[:j].tolist())].double().log_softmax(0)[text[j]] for j in range(4)]
        assert nll == pytest.approx(-sum(chain).item(), rel=1e-5)
        total += math.exp(-nll)
    assert total == pytest.approx(1.0, abs=1e-5)
