"""Many texts of a sampler on a tabular denoiser, to compare their frequencies with a law."""

import itertools

import torch

from diffusion import rng
from diffusion.canvas import Canvas
from diffusion.denoise import denoise
from diffusion.proposal import Sampling
from helpers.exact import assert_law
from helpers.tabular import TabularDenoiser

ROWS = 60_000
SMALL = TabularDenoiser(length=4, vocab=3, seed=2)  # one position is given, three are written
LARGE = TabularDenoiser(length=5, vocab=3, seed=4)  # one is given, four are written
M = SMALL.mask_id
# Options under which each sampler shows what is its own.
LIVELY = {
    "threshold": {"threshold": 0.5},
    "klass": {"threshold": 0.3, "kl_threshold": 2.0, "history": 1},
    "wino": {"threshold": 0.2, "threshold_back": 0.6},
    "saber": {"mu": 1},
    "remdm": {"eta": 0.4},
    "p2": {"eta": 1.5},
    "factor": {"factor": 1.5},
    "entropy-bound": {"entropy_bound": 0.5},
    "ddim": {"sigma": 0.5},
    "self-correction": {"corrections": 4},
    "gibbs": {"corrections": 1, "positions": 2},
}


def start(denoiser) -> tuple[int, ...]:
    """Position 1 is given, the others are masks."""
    return tuple(2 if i == 1 else M for i in range(denoiser.length))


def masks(rows: int, length: int) -> torch.Tensor:
    """Texts of which all is to be written."""
    return torch.full((rows, length), M)


def run(denoiser, sampler, sampling=None, rows=ROWS, seed=0, limit=None, ids=None) -> list:
    """All steps of ``rows`` texts, or of the rows of ``ids``, in which nothing but masks is written."""
    table = getattr(denoiser, "denoiser", denoiser)  # inside a wrapper
    ids = torch.tensor(start(table)).repeat(rows, 1) if ids is None else ids
    canvas = Canvas(ids, ids != M, torch.zeros_like(ids, dtype=torch.bool))
    keys = rng.row_keys(seed, len(ids))
    stream = denoise(canvas, denoiser, sampler, sampling or Sampling(), keys)
    # The canvas before the first step, and a final argmax.
    limit = (sampler.total or table.length - 1) + 2 if limit is None else limit
    steps = list(itertools.islice(stream, limit + 1))
    assert len(steps) <= limit, "more steps than planned, or than there are positions"
    return steps


def assert_trajectory(steps, laws) -> None:
    """The canvas after each step follows its law; when steps or laws run out, the last counts."""
    for i in range(1, max(len(steps), len(laws))):
        assert_law(steps[min(i, len(steps) - 1)].ids, laws[min(i, len(laws) - 1)])


def same(a, b) -> None:
    """The Steps of two runs are the same, bit for bit."""
    for one, other in zip(a, b, strict=True):
        for name in ("ids", "nfe", "masked", "revealed", "remasked"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
