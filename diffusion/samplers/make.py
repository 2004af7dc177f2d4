"""A sampler by its name, with its options and what goes around it."""

from importlib import import_module

from diffusion.noise import Noise
from diffusion.samplers import spec
from diffusion.samplers.base import Sampler
from diffusion.samplers.catalog import SAMPLERS
from diffusion.samplers.wrappers import Blocks, EarlyCommit


def sampler_class(name: str) -> type[Sampler]:
    """The class of the sampler ``name`` of the `catalog`."""
    module, kind = SAMPLERS[name].kind.split(".")
    return getattr(import_module(f"diffusion.samplers.{module}"), kind)


def make_sampler(
    name: str,
    n_steps: int | None = None,
    schedule: str | None = None,
    block_length: int | None = None,
    early_commit: float | None = None,
    end_id: int | None = None,
    apart: bool = False,
    noise: Noise | None = None,
    **own,
) -> Sampler:
    """A sampler, in blocks and with early commit if given.

    Args:
        name: of the `catalog`, or with options, ``remdm:eta=0.02``.
        n_steps, schedule: for samplers that take them; others ignore them.
        end_id: ends a text that is written in blocks, see `Blocks`.
        apart: no block sees those after it, so that early commit is about one block.
        noise: that of the denoiser; None: masks.
        own: options of the sampler.
    """
    name, written = spec.split(name)
    kind = sampler_class(name)
    own = spec.read_options(name, kind, written) | own
    shared = {"n_steps": n_steps, "schedule": schedule}
    takes = spec.options_of(kind)
    own |= {key: v for key, v in shared.items() if key in takes and v is not None}
    if name == "ancestral" and noise is not None and noise.has_random_tokens:
        kind = import_module("diffusion.samplers.interpolating").Posterior
    if name == "speculative":
        own["end_id"] = end_id
    sampler = kind(**own)
    if name == "causal" and end_id is not None:
        block_length = 1
    if early_commit and apart:
        sampler, early_commit = EarlyCommit(sampler, early_commit), 0
    sampler = Blocks(sampler, block_length, end_id) if block_length else sampler
    return EarlyCommit(sampler, early_commit) if early_commit else sampler
