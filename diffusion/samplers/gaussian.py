"""Samplers for Gaussian noise: vectors that become embeddings, step by step (Diffusion-LM,
arXiv:2205.14217). What they keep is ``memory["x"]`` (B, L, d), the vectors at editable positions.

From t to s < t, with the prediction x_0 = sum of p(w) E(w), the mean embedding under the model's
distribution after temperature, top-k and top-p (CDCD, arXiv:2211.15089). The canvas shows the nearest
tokens of every x; the last step writes the most probable tokens.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from diffusion import rng, vectors
from diffusion.samplers.base import Decision, Timed
from diffusion.samplers.spec import Range

START, FRESH = 0, 1  # random streams of a step


@dataclass
class Vectors(Timed):
    """What both have in common.

    Args:
        clamp: the clamping trick: after this share of the steps x_0 becomes the nearest embedding.
    """

    draws = False

    clamp: float = 1.0

    def start(self, state):
        state.memory["x"] = self.normals(state, START)

    def normals(self, state, stream: int) -> Tensor:
        """(B, L, d) standard normals of this step."""
        (rows, length), d = state.ids.shape, state.denoiser.table.embedding_dim
        key = rng.fold_in(rng.fold_in(state.keys, state.step), stream)
        return rng.normal(key, length * d).view(rows, length, d).float()

    def times(self, state) -> tuple[Tensor, Tensor]:
        """(B, 1 or L) before and after this step."""
        return self.time(state, state.turn - 1), self.time(state, state.turn)

    def shown(self, state):
        return {"vectors": state.memory["x"], "time": self.times(state)[0]}

    def select(self, state):
        return state.editable & (state.turn <= self.planned(state))

    def decide(self, state, proposal):
        noise, here = state.noise, proposal.query_mask
        where = vectors.places(state.denoiser.table.weight, noise)
        x, (t, s) = state.memory["x"], self.times(state)
        x_0 = x.new_zeros(x.shape)
        x_0[here] = proposal.distribution().float() @ where
        if self.clamp < 1:
            sure = state.turn > self.clamp * self.planned(state)
            x_0 = torch.where(sure[..., None], where[vectors.nearest(x_0, where, noise)], x_0)
        a, a_s = (noise.kept(time)[..., None] for time in (t, s))
        x = self.step(state, x, x_0, a, a_s).to(x.dtype)
        state.memory["x"] = x
        last = state.turn >= self.planned(state)
        tokens = torch.where(last, proposal.best, vectors.nearest(x, where, noise))
        return Decision(here, None, torch.where(here, tokens, state.ids), here & ~last)

    def step(self, state, x: Tensor, x_0: Tensor, a: Tensor, a_s: Tensor) -> Tensor:
        """The vectors (B, L, d) at the time s from those at t, ``a`` and ``a_s`` (B, 1 or L, 1) being what
        is kept at both."""
        raise NotImplementedError

    def settled(self, state):
        return state.turn >= self.planned(state)

    def finished(self, state):
        return self.settled(state)[:, 0]


@dataclass
class Ancestral(Vectors):
    """The reverse process: x_s from the posterior q(x_s | x_t, x_0) (DDPM, arXiv:2006.11239)."""

    def step(self, state, x, x_0, a, a_s):
        kept = torch.where(a_s > 0, a / a_s, 1.0)  # of what is there at s, until t
        noise = 1 - a
        mean = a_s.sqrt() * (1 - kept) * x_0 + kept.sqrt() * (1 - a_s) * x
        spread = ((1 - kept) * (1 - a_s) / noise).sqrt()
        return mean / noise + spread * self.normals(state, FRESH)


@dataclass
class Ddim(Vectors):
    """DDIM (arXiv:2010.02502): x_s = sqrt(a_s) x_0 + sqrt(1 - a_s) e, where the noise e is the share
    ``sigma`` of that in x_t, and for the rest fresh: 1 is deterministic, 0 noises x_0 anew."""

    sigma: Annotated[float, Range(0, 1), "1: no fresh noise, 0: all noised anew"] = 1.0

    def step(self, state, x, x_0, a, a_s):
        same = (x - a.sqrt() * x_0) / (1 - a).sqrt()
        if self.sigma < 1:
            fresh = self.normals(state, FRESH)
            same = self.sigma * same + (1 - self.sigma**2) ** 0.5 * fresh
        return a_s.sqrt() * x_0 + (1 - a_s).sqrt() * same
