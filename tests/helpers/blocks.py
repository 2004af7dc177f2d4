"""Small models and canvases for writing in blocks."""

import functools

import torch

from diffusion.canvas import Canvas
from diffusion.noise import Absorbing
from helpers import families

MASK, VOCAB = 31, 32
NOISE = Absorbing(MASK)


@functools.cache
def tiny(name="roberta", shift=True, attention=None):
    """A model of three layers; one for all tests, which do not change it."""
    return families.tiny(name, VOCAB, 3, attention, shift=shift)


def prompts(*sizes, total=20, new=None):
    """A canvas with prompts of these lengths; with ``new`` every row has so many masks."""
    ids = torch.randint(3, 30, (len(sizes), total), generator=torch.Generator().manual_seed(1))
    column, size = torch.arange(total), torch.tensor(sizes)[:, None]
    padding = column >= size + (total if new is None else new)
    ids[(column >= size) & ~padding] = MASK
    ids[padding] = 1
    return Canvas(ids, (column < size) | padding, padding)
