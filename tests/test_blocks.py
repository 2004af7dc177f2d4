"""Semi-autoregressive blocks around a sampler."""

import itertools
from collections import Counter

import pytest
import torch
from tabular import TabularDenoiser

from diffusion import rng
from diffusion.canvas import Canvas
from diffusion.denoise import denoise
from diffusion.denoiser import Sampling
from diffusion.samplers import make_sampler

DRAWS = 40_000


def run(denoiser, rows, name, **own):
    ids = torch.full((rows, denoiser.length), denoiser.mask_id)
    nothing = torch.zeros_like(ids, dtype=torch.bool)
    sampler = make_sampler(name, 1, **own)
    keys = rng.row_keys(3, rows)
    return list(denoise(Canvas(ids, nothing, nothing), denoiser, sampler, Sampling(), keys))


def test_blocks_of_one_write_left_to_right_with_the_law_of_that_order():
    """p(x) is the product of p(x_i | x_before, masks after), enumerated here."""
    denoiser = TabularDenoiser(length=3, vocab=3)
    counts = Counter(
        map(tuple, run(denoiser, DRAWS, "first-hitting", block_length=1)[-1].ids.tolist())
    )
    chi_square = 0.0
    for text in denoiser.texts():
        p = 1.0
        for i, token in enumerate(text):
            canvas = text[:i] + (denoiser.mask_id,) * (3 - i)
            p *= denoiser.probabilities(canvas)[i][token]
        chi_square += (counts[text] - DRAWS * p) ** 2 / (DRAWS * p)
    assert chi_square < 54.1  # 26 degrees of freedom, p = 0.001


def test_blocks_of_two_of_three_with_the_law_of_random_order_inside():
    denoiser = TabularDenoiser(length=3, vocab=3, seed=1)
    counts = Counter(
        map(tuple, run(denoiser, DRAWS, "first-hitting", block_length=2)[-1].ids.tolist())
    )
    chi_square = 0.0
    for text in denoiser.texts():
        p = 0.0
        for order in itertools.permutations(range(2)):
            canvas, path = [denoiser.mask_id] * 3, 0.5
            for i in (*order, 2):
                path *= denoiser.probabilities(tuple(canvas))[i][text[i]]
                canvas[i] = text[i]
            p += path
        chi_square += (counts[text] - DRAWS * p) ** 2 / (DRAWS * p)
    assert chi_square < 54.1


@pytest.mark.parametrize("name", ["first-hitting", "threshold", "entropy-bound"])
def test_a_block_is_full_before_the_next_changes(name):
    denoiser = TabularDenoiser(length=5, vocab=3)
    steps = run(denoiser, 200, name, block_length=2)
    for before, after in itertools.pairwise(steps):
        for start in (0, 2):
            open_before = before.masked[:, start : start + 2].any(1)
            assert not (after.revealed[:, start + 2 :].any(1) & open_before).any()
    assert not steps[-1].masked.any()


@pytest.mark.parametrize("name", ["first-hitting", "threshold", "entropy-bound"])
def test_one_block_of_everything_is_the_sampler_itself(name):
    denoiser = TabularDenoiser(length=4, vocab=3)
    plain, blocked = run(denoiser, 200, name), run(denoiser, 200, name, block_length=4)
    assert [s.ids.tolist() for s in plain] == [s.ids.tolist() for s in blocked]


def test_given_tokens_count_for_no_block():
    """Blocks are counted over editable positions: prefix, then blocks of two."""
    denoiser = TabularDenoiser(length=5, vocab=3)
    ids = torch.tensor([[1, 3, 3, 3, 3]]).repeat(50, 1)
    frozen = ids != 3
    sampler = make_sampler("first-hitting", 1, block_length=2)
    canvas = Canvas(ids, frozen, torch.zeros_like(frozen))
    steps = list(denoise(canvas, denoiser, sampler, Sampling(), rng.row_keys(0, 50)))
    written = [set(s.revealed.nonzero()[:, 1].tolist()) for s in steps[1:]]
    assert written == [{1, 2}, {1, 2}, {3, 4}, {3, 4}]
