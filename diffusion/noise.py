"""How text becomes noise: which tokens are replaced by what, at which rate, weighed how.

`Absorbing` says what a noisy token looks like, and is asked by all that makes or reads noise: the
collator, the likelihoods, the loop and the denoisers. A `MaskSchedule` says how much of a text is
noise at a time, and how that weighs in the loss.

A position is masked at time t with probability r(t), independently of the others; t = 0 is clean
text and t = 1 is (almost) all masks. The weight w(t) = r'(t) / r(t) turns the cross-entropy over
masked positions into a bound on the negative log-likelihood (MDLM, arXiv:2406.07524). All
functions map a float tensor of times to a tensor of the same shape.

Two schedules of the literature are both called "cosine" and bend in opposite directions: backwards
from t = 1, ``cosine-a`` (MaskGIT, arXiv:2202.04200) reveals few tokens first and ``cosine-b``
(MDLM's code) reveals many first.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# w grows without bound as t -> 0; times are drawn from [MIN_TIME, 1].
MIN_TIME = 1e-3
_EPS = 1e-3  # log-linear and cosine-b end at r(1) = 1 - _EPS


@dataclass(frozen=True)
class Absorbing:
    """Noise that turns a token into ``<mask>``, which it stays (D3PM's absorbing state,
    arXiv:2107.03006)."""

    mask_id: int

    def corrupt(self, ids: Tensor, where: Tensor) -> Tensor:
        """The ids (B, L) with noise at the positions ``where`` (B, L)."""
        return ids.masked_fill(where, self.mask_id)

    def noisy(self, ids: Tensor) -> Tensor:
        """(B, L) bool: which of ``ids`` are noise, and say nothing of the token behind it."""
        return ids == self.mask_id

    @classmethod
    def of(cls, tokenizer) -> "Absorbing":
        """With the ``<mask>`` of a tokenizer."""
        return cls(tokenizer.mask_token_id)


@dataclass(frozen=True)
class MaskSchedule:
    """A mask rate r(t) and its loss weight w(t) = r'(t) / r(t)."""

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
