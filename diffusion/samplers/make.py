"""Which positions to write, and which to open again: one small class per published strategy.

`state` says what a sampler is, `unmasking` and `remasking` hold the strategies, `wrappers` what
goes around any of them; here they get their names.
"""

from diffusion.options import STEPPED
from diffusion.samplers.base import Sampler
from diffusion.samplers.remasking import P2, ReMDM, Saber, Seed, Wino
from diffusion.samplers.unmasking import (
    Ancestral,
    Confidence,
    EntropyBound,
    Factor,
    FirstHitting,
    Klass,
    Threshold,
)
from diffusion.samplers.wrappers import Blocks, EarlyCommit

_CLASSES = {
    "seed": Seed,
    "ancestral": Ancestral,
    "first-hitting": FirstHitting,
    "confidence": Confidence,
    "threshold": Threshold,
    "factor": Factor,
    "entropy-bound": EntropyBound,
    "klass": Klass,
    "remdm": ReMDM,
    "p2": P2,
    "wino": Wino,
    "saber": Saber,
}


def make_sampler(
    name: str, n_steps: int = 0, block_length: int = 0, early_commit: float = 0, **own
) -> Sampler:
    """The sampler ``name`` (see `options.SAMPLERS`) with its own options, in blocks and with early
    commit if asked."""
    kind = _CLASSES[name]
    sampler = kind(n_steps, **own) if name in STEPPED else kind(**own)
    sampler = Blocks(sampler, block_length) if block_length else sampler
    return EarlyCommit(sampler, early_commit) if early_commit else sampler
