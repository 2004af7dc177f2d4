"""A sampler by its name, with its options and what goes around it."""

from diffusion.noise import Noise
from diffusion.samplers import interpolating, remasking, unmasking
from diffusion.samplers.base import Sampler
from diffusion.samplers.catalog import SAMPLERS, STEPPED
from diffusion.samplers.wrappers import Blocks, EarlyCommit

_HOMES = {"unmasking": unmasking, "remasking": remasking, "interpolating": interpolating}


def sampler_class(name: str) -> type[Sampler]:
    """The class of the sampler ``name`` of the `catalog`."""
    home, _, kind = SAMPLERS[name].kind.partition(".")
    return getattr(_HOMES[home], kind)


def make_sampler(
    name: str,
    n_steps: int = 0,
    block_length: int = 0,
    early_commit: float = 0,
    end_id: int | None = None,
    apart: bool = False,
    noise: Noise | None = None,
    **own,
) -> Sampler:
    """The sampler ``name`` of the `catalog` with its own options, in blocks and with early commit
    if asked; ``end_id`` ends a text that is written in blocks, see `Blocks`; ``apart``: no block sees
    those behind it, so that early commit is about one block. ``noise`` is that of the denoiser; None
    stands for masks."""
    kind = sampler_class(name)
    if noise is not None and noise.doubtful and name == "ancestral":
        kind = interpolating.Posterior
    sampler = kind(n_steps, **own) if name in STEPPED else kind(**own)
    if kind is unmasking.LeftToRight and end_id is not None:
        block_length = 1
    if early_commit and apart:
        sampler, early_commit = EarlyCommit(sampler, early_commit), 0
    sampler = Blocks(sampler, block_length, end_id) if block_length else sampler
    return EarlyCommit(sampler, early_commit) if early_commit else sampler
