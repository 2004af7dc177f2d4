"""Random numbers that depend on a key and on nothing else.

Every random draw is a pure function of integers: the seed, the row or training sample, and the step.
So it depends on no batch, device, number of workers or resume. The mixing function is SplitMix64
(Steele, Lea and Flood, OOPSLA 2014), computed on int64 tensors, whose products wrap around.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# The random streams of tokens, and of the initial noise of a canvas; samplers number theirs from 0.
TOKENS, START = 1000, 1001

_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # as signed numbers
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical (zero-filling) right shift; ``>>`` on int64 copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def fold_in(key: Tensor, data: Tensor | int) -> Tensor:
    """The key of a separate random stream, from a key and a number (int64 tensors that broadcast)."""
    if isinstance(data, Tensor):
        step = (data.to(key.device, torch.int64) + 1) * _GAMMA
    else:  # a tensor of it would be a copy, for which a GPU is waited for
        step = ((data + 1) * _GAMMA + 2**63) % 2**64 - 2**63
    # Mixing the key before adding makes fold_in(fold_in(k, a), b) differ from (k, b, a).
    return _mix(_mix(key + _GAMMA) + step)


def seed_key(seed: int, device: torch.device | str = "cpu") -> Tensor:
    """The key () of a seed."""
    return fold_in(torch.zeros((), dtype=torch.int64, device=device), seed)


def row_keys(seed: int, samples: int | Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Keys (B,) of samples of a seed: of B sample numbers, or of 0 to B - 1."""
    number = range(samples) if isinstance(samples, int) else samples
    return fold_in(seed_key(seed, device), torch.tensor(list(number), device=device))


def double(device: torch.device) -> torch.dtype:
    """Float64, or float32 on Apple's MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def uniform(key: Tensor, n: int) -> Tensor:
    """Independent uniforms in the open interval (0, 1), shape (*key.shape, n), of 52 random bits
    in float64 or 23 in float32, see `double`."""
    bits = fold_in(key.unsqueeze(-1), torch.arange(n, device=key.device))
    if double(key.device) == torch.float32:
        return (_shift_right(bits, 41).to(torch.float32) + 0.5) * 2.0**-23
    return (_shift_right(bits, 12).to(torch.float64) + 0.5) * 2.0**-52


def normal(key: Tensor, n: int) -> Tensor:
    """Independent standard normals, shape (*key.shape, n): the quantiles of `uniform`."""
    return torch.special.ndtri(uniform(key, n))
