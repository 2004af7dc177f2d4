"""Embeddings that stand on a canvas instead of tokens, for Gaussian noise (see `noise.Gaussian`).

A noisy position shows the model its vector x, scaled to the length that word embeddings have, and the
time as a sinusoid added to it; all other positions show the embeddings of their tokens. So a model of any
family can read it, and nothing but its own weights is learned. What x alone says of its token is known,
and is added to the logits: by Bayes' rule it is the likelihood N(x; sqrt(a) E(w), (1 - a) I), and the model
has to learn the rest.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion.noise import Gaussian

PERIODS = 1e4  # from 1 to so many radians of `clock` over the time from 0 to 1


def places(table: Tensor, noise: Gaussian) -> Tensor:
    """Where the tokens are: word embeddings (V, d) with norm `Gaussian.radius`, in float32."""
    return noise.radius * F.normalize(table.float(), dim=-1)


def nearest(x: Tensor, where: Tensor, noise: Gaussian) -> Tensor:
    """(...) the tokens whose `places` (V, d) are nearest to vectors (..., d): of equal norms, those with the
    largest product."""
    scores = x @ where.T
    return scores.masked_fill_(~noise.random, -torch.inf).argmax(-1)


def noised(table: Tensor, ids: Tensor, t: Tensor, normals: Tensor, noise: Gaussian) -> Tensor:
    """Vectors (B, L, d) at the times ``t`` (B, 1 or L) of tokens (B, L), by standard normals (B, L, d)."""
    a = noise.kept(t)[..., None]
    return a.sqrt().float() * places(table, noise)[ids] + (1 - a).sqrt().float() * normals.float()


def clock(t: Tensor, d: int) -> Tensor:
    """Times (...) as unit vectors (..., d): sines and cosines of d / 2 frequencies."""
    count = (d + 1) // 2
    rates = torch.logspace(0, math.log10(PERIODS), count, device=t.device)
    angles = t[..., None].float() * rates
    waves = torch.cat([angles.sin(), angles.cos()], -1)[..., :d]
    return waves / math.sqrt(count)


def predict(
    backbone, ids: Tensor, noisy: Tensor, x: Tensor, t: Tensor, noise: Gaussian, attention=None
) -> Tensor:
    """Logits (N, V), in float32, at the N positions ``noisy`` (B, L), at which the vectors ``x`` (B, L, d) stand at the
    times ``t`` (B, 1 or L); ``backbone`` is called as `models.backbone.Backbone` is."""
    table = backbone.model.get_input_embeddings().weight
    embeds = shown(table, ids, x, t, noisy, noise)
    logits = backbone(ids, noisy, attention, inputs_embeds=embeds)
    a = noise.kept(t).expand(noisy.shape)[noisy][:, None]
    # All places have one norm, so that the squares of the likelihood's exponent are the same for all.
    alone = ((a.sqrt() / (1 - a)).float() * x[noisy].float()) @ places(table, noise).T
    return logits.float() + alone  # which may be in the thousands


def shown(
    table: Tensor, ids: Tensor, x: Tensor, t: Tensor, noisy: Tensor, noise: Gaussian
) -> Tensor:
    """The word embeddings (B, L, d) that a model is given.

    Args:
        table: (V, d), its own.
        x: (B, L, d) the vectors of the positions ``noisy`` (B, L).
        t: (B, 1 or L) their times.
    """
    length = table.detach().float().norm(dim=-1).mean()
    a = noise.kept(t)[..., None].float()
    size = (a * noise.radius**2 + (1 - a) * x.shape[-1]).sqrt()
    vectors = length * (x / size + clock(t, x.shape[-1]))
    own = F.embedding(ids, table)
    return torch.where(noisy[..., None], vectors.to(own.dtype), own)
