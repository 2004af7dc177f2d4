"""Random numbers are functions of their keys, and look random."""

import pytest
import torch
from helpers.exact import assert_uniform, chi_square_p

from diffusion import rng

_64 = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def splitmix64(state: int, n: int) -> list[int]:
    """The first n outputs of SplitMix64 as published, in Python's unbounded integers."""
    out = []
    for _ in range(n):
        state = (state + _GAMMA) & _64
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _64
        out.append(z ^ (z >> 31))
    return out


def signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x


def fold_in(key: int, data: int) -> int:
    """Output number ``data`` of the generator seeded with the first output of the key's own."""
    return splitmix64(splitmix64(key & _64, 1)[0], data + 1)[data]


def test_the_reference_here_gives_the_published_numbers():
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("key", [0, 1, -1, 123456789, -(1 << 63), (1 << 63) - 1])
def test_fold_in_is_splitmix64(key):
    ours = rng.fold_in(torch.tensor(key), torch.arange(20))
    assert ours.tolist() == [signed(fold_in(key, i)) for i in range(20)]


def test_uniforms_are_the_high_bits_in_the_middle_of_their_cells():
    key = rng.seed_key(3)
    expected = [((fold_in(key.item(), i) >> 12) + 0.5) / 2**52 for i in range(50)]
    assert rng.uniform(key, 50).tolist() == expected


def test_uniforms_are_uniform_strictly_inside_the_interval():
    u = rng.uniform(rng.row_keys(0, 300), 1000)
    assert u.shape == (300, 1000)
    assert u.dtype == torch.float64
    assert u.min() > 0 and u.max() < 1
    assert_uniform(u)
    assert_uniform(u[:, 0])  # over keys as within one


@pytest.mark.parametrize("lag", ["next number", "next key", "child key", "next seed"])
def test_neighbouring_streams_are_independent(lag):
    keys = rng.row_keys(0, 2000)
    u = rng.uniform(keys, 100)
    other = {
        "next number": u.roll(1, 1),
        "next key": u.roll(1, 0),
        "child key": rng.uniform(rng.fold_in(keys, 0), 100),
        "next seed": rng.uniform(rng.row_keys(1, 2000), 100),
    }[lag]
    cells = ((u * 8).long() * 8 + (other * 8).long()).flatten()
    counts = torch.bincount(cells, minlength=64).tolist()
    assert chi_square_p(counts, [len(cells) / 64] * 64) > 1e-4


def test_a_row_has_the_same_key_in_every_batch():
    keys = rng.row_keys(7, 10)
    assert torch.equal(rng.row_keys(7, range(3, 7)), keys[3:7])
    assert torch.equal(rng.uniform(keys[[5, 2]], 9), rng.uniform(keys, 9)[[5, 2]])
    assert torch.equal(rng.uniform(keys, 9), rng.uniform(keys, 30)[:, :9])


def test_keys_do_not_collide_and_do_not_commute():
    keys = rng.fold_in(rng.row_keys(0, 400)[:, None], torch.arange(400)).flatten()
    assert len(keys.unique()) == 400 * 400
    key = rng.seed_key(0)
    assert rng.fold_in(rng.fold_in(key, 1), 2) != rng.fold_in(rng.fold_in(key, 2), 1)
    seeds = torch.stack([rng.seed_key(s) for s in (-(2**63), -2, -1, 0, 1, 2**63 - 1)])
    assert len(seeds.unique()) == 6
