"""How text becomes noise: which tokens are replaced by what, at which rate, weighed how.

Three kinds: `Absorbing` turns tokens into ``<mask>``, `Uniform` into random ones, and `Hybrid` does
both. They say what a noisy token looks like, and serve all that makes or reads noise: the
collator, the likelihoods, the loop, the samplers and the denoisers. A `MaskSchedule` says how much of
a text is noise at a time, and how that weighs in the loss.

Of a text of which the share r is noise, a position holds z, independently of the others, with the
probability

    q_r(z | x) = a [z = x] + m(z),    m(z) = b [z = mask] + c / N [z is one of the N random tokens],

where x is its true token and the `shares` (a, b, c) of what is kept, masked and random are functions
of r with a + b + c = 1 (the interpolating family of GIDD, arXiv:2503.04482). Noise comes in at rates
g(z) dr (`pull`), whatever stood there before, so that the reverse process of one position, from a
prediction p of its token, has the rates g(z) q_r(y | p) / q_r(z | p) from z to y.

With masks alone, r is the mask rate; r(t) is 0 at t = 0, which is clean text, and (almost) 1 at t = 1.
The weight w(t) = r'(t) / r(t) turns the cross-entropy over masked positions into a bound on the
negative log-likelihood (MDLM, arXiv:2406.07524). All functions map a float tensor of times to a
tensor of the same shape.

Two schedules of the literature are both called "cosine" and bend in opposite directions: backwards
from t = 1, ``cosine-a`` (MaskGIT, arXiv:2202.04200) reveals few tokens first and ``cosine-b``
(MDLM's code) reveals many first.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

# w grows without bound as t -> 0; times are drawn from [MIN_TIME, 1].
MIN_TIME = 1e-3
_EPS = 1e-3  # log-linear and cosine-b end at r(1) = 1 - _EPS


@dataclass(frozen=True)
class Noise:
    """What all kinds have in common: a position that is to be written holds ``<mask>`` until the loop
    begins, and where a kind has masks while it goes on."""

    mask_id: int
    name: ClassVar[str]

    def corrupt(self, ids: Tensor, where: Tensor) -> Tensor:
        """The ids (B, L) with ``<mask>`` at the positions ``where`` (B, L)."""
        return ids.masked_fill(where, self.mask_id)

    def noisy(self, ids: Tensor) -> Tensor:
        """(B, L) bool: which of ``ids`` are masks, and say nothing of the token under it."""
        return ids == self.mask_id

    @property
    def has_random_tokens(self) -> bool:
        """Whether a token that is seen may be noise."""
        return False

    def fill(self, ids: Tensor, u: Tensor) -> Tensor:
        """The ids (B, L) with pure noise, r = 1, instead of masks; ``u`` (B, L) are uniforms."""
        return ids

    def shares(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is kept, masked and random at the noise share ``r``, in its shape."""
        raise NotImplementedError

    def at(self, z: Tensor, masks: Tensor, random: Tensor) -> Tensor:
        """A vector over the vocabulary that is ``masks`` at ``<mask>`` and ``random`` on all random
        tokens together, at the tokens ``z``; all of shapes that broadcast."""
        return torch.where(z == self.mask_id, masks, 0.0)


@dataclass(frozen=True)
class Absorbing(Noise):
    """Noise that turns a token into ``<mask>``, which it stays (D3PM's absorbing state,
    arXiv:2107.03006)."""

    name = "absorbing"

    def shares(self, r):
        return 1 - r, r, torch.zeros_like(r)

    @classmethod
    def of(cls, tokenizer) -> "Absorbing":
        """With the ``<mask>`` of a tokenizer."""
        return cls(tokenizer.mask_token_id)


@dataclass(frozen=True, eq=False)
class Interpolating(Noise):
    """Noise with random tokens, which nothing tells from true ones.

    Args:
        random: (V,) bool, the tokens that noise may be: those that a text may consist of.
    """

    random: Tensor

    @property
    def has_random_tokens(self):
        return True

    def pull(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """The rates g at which noise comes in at the noise share ``r``: to ``<mask>``, and to all
        random tokens together."""
        raise NotImplementedError

    @cached_property
    def tokens(self) -> Tensor:
        """(N,) ids of the random tokens."""
        return self.random.nonzero()[:, 0]

    def drawn(self, u: Tensor) -> Tensor:
        """The random tokens that uniforms of any shape pick."""
        return self.tokens.to(u.device)[(u * len(self.tokens)).long()]

    def noised(self, ids: Tensor, where: Tensor, r: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """The ids (B, L) as they are when the share ``r`` (B, 1) of the positions ``where`` (B, L) is
        noise; ``u`` and ``v`` (B, L) are uniforms for what becomes noise, and which."""
        _, masks, random = self.shares(r)
        noise = torch.where(u < masks, self.mask_id, self.drawn(v))
        return torch.where(where & (u < masks + random), noise, ids)

    def at(self, z, masks, random):
        each = self.random.to(z.device)[z] * random / len(self.tokens)
        return torch.where(z == self.mask_id, masks, each)

    def weight(self, r: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """The weight g(z) / q_r(z | x) of what `objective.divergence` compares, in the bound as an
        integral over r: of positions that hold ``z`` instead of ``x``; all of one shape."""
        keep, *noise = self.shares(r)
        return self.at(z, *self.pull(r)) / (keep * (z == x) + self.at(z, *noise))


@dataclass(frozen=True, eq=False)
class Uniform(Interpolating):
    """Every token becomes any other with the same probability (D3PM's uniform noise,
    arXiv:2107.03006). There are no masks."""

    name = "uniform"

    def fill(self, ids, u):
        return torch.where(self.noisy(ids), self.drawn(u), ids)

    def shares(self, r):
        return 1 - r, torch.zeros_like(r), r

    def pull(self, r):
        return torch.zeros_like(r), 1 / (1 - r)


@dataclass(frozen=True, eq=False)
class Hybrid(Interpolating):
    """Masks, and random tokens among them, so that a model learns that what it sees may be wrong (GIDD,
    arXiv:2503.04482, with its gamma = 1): a : b : c = 1 - r : r : B sqrt(r (1 - r)).

    Args:
        p_u: the share of random tokens at r = 1/2, where it is largest; in [0, 1). At 0 this is
            `Absorbing`.
    """

    p_u: float = 0.1
    name = "hybrid"

    @property
    def has_random_tokens(self):
        return self.p_u > 0

    @property
    def _odds(self) -> float:
        """B"""
        return 2 * self.p_u / (1 - self.p_u)

    def shares(self, r):
        random = self._odds * (r * (1 - r)).sqrt()
        return (1 - r) / (1 + random), r / (1 + random), random / (1 + random)

    def pull(self, r):
        root = (r * (1 - r)).sqrt()
        whole = 1 + self._odds * root
        return 1 / ((1 - r) * whole), self._odds / (2 * root * whole)


KINDS = {kind.name: kind for kind in (Absorbing, Uniform, Hybrid)}


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
    own = {"absorbing": (), "uniform": (random,), "hybrid": (random, p_u)}
    return KINDS[name](mask_id, *own[name])


@dataclass(frozen=True)
class MaskSchedule:
    """A noise share r(t) and the loss weight w(t) = r'(t) / r(t) of masks."""

    name: str
    rate: Callable[[Tensor], Tensor]
    weight: Callable[[Tensor], Tensor]


def _cosine_b_weight(t: Tensor) -> Tensor:
    angle = t * (math.pi / 2)
    # 1 - cos(a) = 2 sin^2(a/2) keeps its digits for small a.
    return (math.pi / 2) * angle.sin() / (2 * (angle / 2).sin() ** 2)


SCHEDULES = {
    schedule.name: schedule
    for schedule in (
        MaskSchedule("linear", lambda t: t, lambda t: 1 / t),
        MaskSchedule("log-linear", lambda t: (1 - _EPS) * t, lambda t: 1 / t),
        MaskSchedule(
            "cosine-a",
            lambda t: (t * (math.pi / 2)).sin(),
            lambda t: (math.pi / 2) / (t * (math.pi / 2)).tan(),
        ),
        MaskSchedule(
            "cosine-b",
            lambda t: (1 - _EPS) * 2 * (t * (math.pi / 4)).sin() ** 2,
            _cosine_b_weight,
        ),
    )
}


def choose_exactly(count: Tensor, candidates: Tensor, uniforms: Tensor) -> Tensor:
    """(..., L) bool: ``count`` (...) of the ``candidates`` (..., L), uniformly at random."""
    order = uniforms.masked_fill(~candidates, 2.0).argsort(-1).argsort(-1)
    return candidates & (order < count[..., None])
