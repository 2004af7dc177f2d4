"""No value of an option makes the loop endless: every sampler at both ends of every option."""

import itertools

import pytest
from helpers.draws import SMALL, run

from diffusion.errors import UserError
from diffusion.options import SAMPLER_FLAGS, GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.catalog import CAUSAL, SAMPLERS, SCHEDULES, STEPPED, VERIFYING
from diffusion.samplers.make import make_sampler, sampler_class
from diffusion.samplers.spec import options_of

MOST = 210  # steps that the slowest sampler takes for three tokens: 3 + 2 * 100 of gibbs
SHARED = {"block_length": [0, 2**62], "early_commit": [0, 5e-324, 1e-39, 1e39, 1e308]}


def extremes(option) -> list:
    """All choices, or the ends of the range and what lies beyond float32."""
    if option.name == "schedule":
        return list(SCHEDULES)
    if option.choices:
        return list(option.choices)
    least, most = option.range or (-1e308, None)
    if option.kind is int:
        return [least, 2**62 if most is None else most]
    return [least, 5e-324, 1e-39, 1e39 if most is None else most, 1e308]


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in CAUSAL])
def test_the_loop_ends_at_both_ends_of_every_option(name):
    own = options_of(sampler_class(name))
    own.pop("n_steps", None)
    choices = SHARED | {key: extremes(option) for key, option in own.items()}
    few = {"n_steps": 3 if name in STEPPED else None}
    few |= {"corrections": 4} if "corrections" in own else {}
    tried = 0
    for key, values in choices.items():
        for value, temperature in itertools.product(values, (1.0, 0.0)):
            attention = "auto" if name in VERIFYING else "full"
            asked = {"sampler": name, "attention": attention, **few, key: value}
            asked = GenerationOptions.from_dict(asked)
            try:
                asked.check()
            except UserError:
                continue
            shared = {flag: getattr(asked, flag) for flag in SAMPLER_FLAGS}
            sampler = make_sampler(asked.sampler, **shared)
            *_, last = run(SMALL, sampler, Sampling(temperature), rows=2, limit=MOST)
            assert not last.masked.any(), f"{key} {value}"
            tried += 1
    assert tried > 8
