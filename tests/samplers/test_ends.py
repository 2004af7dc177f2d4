"""No value of an option makes the loop endless: every sampler at both ends of every option."""

import dataclasses
import itertools

import pytest
import torch
from helpers.tabular import TabularDenoiser

from diffusion import rng
from diffusion.canvas import Canvas
from diffusion.denoise import denoise
from diffusion.errors import UserError
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.catalog import CAUSAL, SAMPLERS
from diffusion.samplers.make import make_sampler

OPTIONS = [o for o in dataclasses.fields(GenerationOptions) if "owners" in o.metadata]
TOKENS, MOST = 4, 40  # on the canvas, and steps that the slowest sampler takes for them


def extremes(option) -> list:
    """All choices, or the ends of the range and what lies beyond float32."""
    if "choices" in option.metadata:
        return list(option.metadata["choices"])
    least, most = option.metadata.get("range", (-1e308, None))
    if "int" in str(option.type):
        return [least, 2**62 if most is None else most]
    return [least, 5e-324, 1e-39, 1e39 if most is None else most, 1e308]


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in CAUSAL])
def test_the_loop_ends_at_both_ends_of_every_option(name):
    denoiser = TabularDenoiser(TOKENS + 1, 4)
    ids = torch.full((2, TOKENS + 1), denoiser.mask_id)
    ids[:, 0] = 0
    frozen = ids != denoiser.mask_id
    canvas, keys = Canvas(ids, frozen, torch.zeros_like(frozen)), rng.row_keys(0, range(2))
    tried = 0
    for option in OPTIONS:
        if name not in option.metadata["owners"] or option.name == "n_steps":
            continue
        for value, temperature in itertools.product(extremes(option), (1.0, 0.0)):
            query_mask = GenerationOptions(sampler=name, attention="full", **{option.name: value})
            try:
                query_mask.check()
            except UserError:
                continue
            sampler = make_sampler(name, **query_mask.resolved().sampler_options())
            steps = denoise(canvas, denoiser, sampler, Sampling(temperature), keys)
            last = list(itertools.islice(steps, MOST))[-1]
            assert not last.masked.any(), f"--{option.name} {value}"
            tried += 1
    assert tried > 8
