"""How text becomes noise: which tokens are replaced by what, at which rate, weighed how.

With the share r of a text being noise, a position holds z, independently of the others, with the
probability (the interpolating family of GIDD, arXiv:2503.04482)

    q_r(z | x) = a [z = x] + b [z = mask] + c / N [z is one of the N random tokens],

where x is its true token and the `shares` (a, b, c) are functions of r with a + b + c = 1. Noise comes
in at rates g(z) dr (`pull`), whatever stood there before.

With masks alone r is the mask rate, from 0 at t = 0 (clean text) to about 1 at t = 1. The weight w(t) =
r'(t) / r(t) turns the cross-entropy over masked positions into a bound on the negative log-likelihood
(MDLM, arXiv:2406.07524).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

MIN_TIME = 1e-3  # of training; w grows without bound as t -> 0
_EPS = 1e-3  # log-linear and cosine-b end at r(1) = 1 - _EPS


@dataclass(frozen=True)
class Noise:
    """What all kinds have in common: positions to write hold ``<mask>`` until the loop begins."""

    mask_id: int
    name: ClassVar[str]
    has_random_tokens: ClassVar[bool] = False  # whether a visible token may be noise

    def to(self, device: torch.device) -> "Noise":
        """The same noise, whose tensors are on a device."""
        return self

    def corrupt(self, ids: Tensor, where: Tensor) -> Tensor:
        """The ids (B, L) with ``<mask>`` at the positions ``where`` (B, L)."""
        return ids.masked_fill(where, self.mask_id)

    def noisy(self, ids: Tensor) -> Tensor:
        """(B, L) bool: which of ``ids`` are masks."""
        return ids == self.mask_id

    def fill(self, ids: Tensor, u: Tensor) -> Tensor:
        """The ids (B, L) with pure noise, r = 1, instead of masks; ``u`` (B, L) are uniforms."""
        return ids

    def shares(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is kept, masked and random at the noise share ``r``, in its shape."""
        raise NotImplementedError

    def at(self, z: Tensor, masks: Tensor, random: Tensor) -> Tensor:
        """What the tokens ``z`` get where ``<mask>`` has ``masks`` and all random tokens together have
        ``random``; all of shapes that broadcast."""
        return torch.where(z == self.mask_id, masks, 0.0)


@dataclass(frozen=True)
class Absorbing(Noise):
    """Tokens become ``<mask>`` (D3PM's absorbing state, arXiv:2107.03006)."""

    name = "absorbing"

    def shares(self, r):
        return 1 - r, r, torch.zeros_like(r)

    @classmethod
    def of(cls, tokenizer) -> "Absorbing":
        """With a tokenizer's ``<mask>``."""
        return cls(tokenizer.mask_token_id)


@dataclass(frozen=True, eq=False)
class Interpolating(Noise):
    """Noise with random tokens, indistinguishable from true ones.

    Args:
        random: (V,) bool, the tokens that noise may be: those that a text may consist of.
    """

    random: Tensor
    has_random_tokens = True

    def to(self, device):
        return replace(self, random=self.random.to(device))

    def pull(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """The rates g of ``<mask>``, and of all random tokens together, at the noise share ``r``."""
        raise NotImplementedError

    @cached_property
    def tokens(self) -> Tensor:
        """(N,) ids of the random tokens."""
        return self.random.nonzero()[:, 0]

    def drawn(self, u: Tensor) -> Tensor:
        """The random tokens that uniforms of any shape pick."""
        return self.tokens.to(u.device)[(u * len(self.tokens)).long()]

    def noised(self, ids: Tensor, where: Tensor, r: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The ids (B, L) when the share ``r`` (B, 1) of the positions ``where`` (B, L) is noise; the
        uniforms ``u`` and ``v`` (B, L) decide what becomes noise, and which."""
        _, masks, random = self.shares(r)
        noise = torch.where(u < masks, self.mask_id, self.drawn(v))
        return torch.where(where & (u < masks + random), noise, ids)

    def at(self, z, masks, random):
        each = self.random.to(z.device)[z] * random / len(self.tokens)
        return torch.where(z == self.mask_id, masks, each)

    def weight(self, r: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """The weight g(z) / q_r(z | x) of `objective.divergence`, in the bound as an integral over r,
        at positions that hold ``z`` instead of ``x``; all of one shape."""
        keep, *noise = self.shares(r)
        return self.at(z, *self.pull(r)) / (keep * (z == x) + self.at(z, *noise))


@dataclass(frozen=True, eq=False)
class Uniform(Interpolating):
    """Tokens become any others, with equal probabilities (D3PM, arXiv:2107.03006); no masks."""

    name = "uniform"

    def fill(self, ids, u):
        return torch.where(self.noisy(ids), self.drawn(u), ids)

    def shares(self, r):
        return 1 - r, torch.zeros_like(r), r

    def pull(self, r):
        return torch.zeros_like(r), 1 / (1 - r)


@dataclass(frozen=True, eq=False)
class Hybrid(Interpolating):
    """Masks and random tokens (GIDD with gamma = 1): a : b : c = 1 - r : r : B sqrt(r (1 - r)).

    Args:
        p_u: the share of random tokens at r = 1/2, where it is largest, in [0, 1); 0: `Absorbing`.
    """

    p_u: float = 0.1
    name = "hybrid"

    @property
    def has_random_tokens(self):
        return self.p_u > 0

    @property
    def _odds(self) -> float:  # B
        return 2 * self.p_u / (1 - self.p_u)

    def shares(self, r):
        random = self._odds * (r * (1 - r)).sqrt()
        return (1 - r) / (1 + random), r / (1 + random), random / (1 + random)

    def pull(self, r):
        root = (r * (1 - r)).sqrt()
        whole = 1 + self._odds * root
        return 1 / ((1 - r) * whole), self._odds / (2 * root * whole)


@dataclass(frozen=True, eq=False)
class Gaussian(Noise):
    """The embeddings of tokens drown in Gaussian noise (Diffusion-LM, arXiv:2205.14217):

        q(x_t | x_0) = N(sqrt(a) x_0, (1 - a) I),    a = 1 - sqrt(t + s),

    where x_0 is the embedding of the token, of norm `radius` (see `vectors`). Ids stay masks until
    the first step, and are then those of the nearest embeddings.

    Args:
        random: (V,) bool, the tokens that a text may consist of.
    """

    random: Tensor
    name = "gaussian"
    has_random_tokens = True
    START = 1e-4  # s: so much noise is left at t = 0

    def to(self, device):
        return replace(self, random=self.random.to(device))

    @cached_property
    def tokens(self) -> Tensor:
        """(N,) ids of these tokens."""
        return self.random.nonzero()[:, 0]

    @property
    def radius(self) -> float:
        """2 sqrt(log N): then N tokens can be told apart by their own embeddings, with no help of the
        others, until a is about a half. (The N - 1 projections of the noise on the ways to the other
        tokens, sqrt(2) radius away, have a largest value near sqrt(2 log N).)"""
        return 2 * math.sqrt(math.log(max(2, len(self.tokens))))

    def kept(self, t: Tensor) -> Tensor:
        """a at the times ``t``, in double precision where there is one."""
        return (1 - (t + self.START).sqrt()).clamp(min=0)


KINDS = {kind.name: kind for kind in (Absorbing, Uniform, Hybrid, Gaussian)}


def make_noise(
    name: str, mask_id: int, forbidden: list[int], vocab_size: int, p_u: float = 0.1
) -> Noise:
    """The noise of one of the names in `KINDS`.

    Args:
        forbidden: ids that are no random tokens, see `tokenizers.forbidden_ids`.
        p_u: of hybrid noise.
    """
    random = torch.ones(vocab_size, dtype=torch.bool)
    random[[mask_id, *forbidden]] = False
    own = {"absorbing": (), "uniform": (random,), "hybrid": (random, p_u), "gaussian": (random,)}
    return KINDS[name](mask_id, *own[name])


@dataclass(frozen=True)
class MaskSchedule:
    """A noise share r(t) and the loss weight w(t) = r'(t) / r(t) of masks."""

    rate: Callable[[Tensor], Tensor]
    weight: Callable[[Tensor], Tensor]


# Backwards from t = 1, cosine-a (MaskGIT, arXiv:2202.04200) reveals few tokens first, and cosine-b
# (MDLM's code) many. 1 - cos(a) = 2 sin^2(a/2) keeps its digits for small a.
_RIGHT = math.pi / 2
SCHEDULES = {
    "linear": MaskSchedule(lambda t: t, lambda t: 1 / t),
    "log-linear": MaskSchedule(lambda t: (1 - _EPS) * t, lambda t: 1 / t),
    "cosine-a": MaskSchedule(lambda t: (t * _RIGHT).sin(), lambda t: _RIGHT / (t * _RIGHT).tan()),
    "cosine-b": MaskSchedule(
        lambda t: (1 - _EPS) * 2 * (t * (_RIGHT / 2)).sin() ** 2,
        lambda t: _RIGHT * (t * _RIGHT).sin() / (2 * (t * _RIGHT / 2).sin() ** 2),
    ),
}


def choose_exactly(count: Tensor, candidates: Tensor, uniforms: Tensor) -> Tensor:
    """(..., L) bool: ``count`` (...) of the ``candidates`` (..., L), uniformly at random."""
    order = uniforms.masked_fill(~candidates, 2.0).argsort(-1).argsort(-1)
    return candidates & (order < count[..., None])
