"""Soft-masking: masks that remember what was predicted for them (Soft-Masked Diffusion Language
Models, 2025).

The word embedding of a mask is mixed with those of the k tokens that were most probable there in the
forward pass before, weighted by their probabilities π:

    e = (1 - λ) W[mask] + λ Σ π_v W[v],    λ = ω_s sigmoid(ω_a (-H - ω_b)),

where H is the entropy of that prediction in nats. Three scalars are learned; ω_s = 0 is the model
without soft-masking.
"""

import math
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import cached_file

from diffusion.canvas import Canvas, Feedback, Query
from diffusion.errors import UserError, cause
from diffusion.models.guidance import Wrapped
from diffusion.models.hub import resolve
from diffusion.models.loading import diffusion_settings
from diffusion.noise import Absorbing
from diffusion.proposal import rows_at_once

FILE = "soft.safetensors"
MIXINGS = ("linear", "spherical")
LEAST = 1e-6  # of ω_s, ω_a and -ω_b


class SoftMask(nn.Module):
    """The memory of a mask: how strong it is, and of how many tokens.

    ω_s = sigmoid(rho) is in (0, 1), ω_a = softplus(alpha) + 1e-6 is positive and
    ω_b = -softplus(beta) - 1e-6 negative.

    Args:
        k: tokens that are mixed in.
        mixing: linear, the weighted mean of embeddings; or spherical, see `_on_the_arc`.
        omega_s, omega_a, omega_b: where the three start; the last two as published.
    """

    def __init__(
        self,
        k: int = 3,
        mixing: str = "linear",
        omega_s: float = 0.05,
        omega_a: float = 6.66,
        omega_b: float = -0.75,
    ):
        super().__init__()
        self.k, self.mixing = k, mixing
        share = min(max(omega_s, LEAST), 1 - LEAST)
        self.rho = nn.Parameter(torch.tensor(math.log(share / (1 - share))))
        self.alpha = nn.Parameter(torch.tensor(_softplus_inverse(omega_a - LEAST)))
        self.beta = nn.Parameter(torch.tensor(_softplus_inverse(-omega_b - LEAST)))

    def omegas(self) -> tuple[Tensor, Tensor, Tensor]:
        """(ω_s, ω_a, ω_b)"""
        return self.rho.sigmoid(), F.softplus(self.alpha) + LEAST, -F.softplus(self.beta) - LEAST

    def strength(self, entropy: Tensor) -> Tensor:
        """λ for entropies in nats, any shape."""
        share, slope, middle = self.omegas()
        return share * (slope * (-entropy - middle)).sigmoid()

    def feedback(self, logits: Tensor) -> Feedback:
        """What N masks remember of their predictions, logits (N, V): token ids (N, k) and weights
        (N, k + 1), the first being that of the mask itself. The weights sum to 1."""
        entropy, ids, chances = summary(logits, self.k)
        strength = self.strength(entropy)[:, None]
        weights = torch.cat([1 - strength, strength * chances], 1)
        return Feedback(ids, weights, self.mixing == "spherical")

    def settings(self) -> dict:
        """For the config of a model."""
        names = "omega_s", "omega_a", "omega_b"
        omegas = {name: round(x.item(), 6) for name, x in zip(names, self.omegas(), strict=True)}
        return {"k": self.k, "mixing": self.mixing} | omegas

    def save(self, folder: Path) -> None:
        save_file({name: value.cpu() for name, value in self.state_dict().items()}, folder / FILE)

    def load(self, folder: Path | str) -> None:
        """Read the three scalars of a folder, or of a model on the hub; `UserError` where they are
        missing or not finite."""
        try:
            values = load_file(cached_file(folder, FILE))
            for name, parameter in self.named_parameters():
                if values[name].shape != () or not values[name].isfinite():
                    raise ValueError(f"{name} is not a finite number")
                parameter.data.copy_(values[name])
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise UserError(f"cannot read {folder}/{FILE}: {cause(error)}") from None


def _softplus_inverse(x: float) -> float:
    return x + math.log(-math.expm1(-x))


@torch.no_grad()
def summary(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of predictions (N, V), without a copy of all: entropies (N,) in nats, the k most probable
    tokens (N, k), and their probabilities among one another (N, k)."""
    found = []
    for some in logits.split(rows_at_once(logits)):
        some = some.float()
        log_p = some.log_softmax(-1)
        # 0 log 0 = 0: what is forbidden has the logit -inf.
        entropy = -(log_p.exp() * log_p.clamp(min=-1e30)).sum(-1)
        best, ids = some.topk(k)
        found.append((entropy, ids, best.softmax(-1)))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def blend(table: nn.Embedding, ids: Tensor, noise: Absorbing, feedback: Feedback) -> Tensor:
    """Word embeddings (B, L, d) of ``ids`` (B, L) from those of the model, ``table``, with a memory at
    the masks: ``feedback`` (M,) in row-major order."""
    # In float32: in fewer digits a small λ would be none.
    weights = feedback.weights  # (M, k + 1)
    tokens = F.embedding(feedback.ids, table.weight).to(weights.dtype)  # (M, k, d)
    mask = table.weight[noise.mask_id].to(weights.dtype)
    mixed = weights[:, :1] * mask + (weights[:, 1:, None] * tokens).sum(1)
    if feedback.spherical:
        mixed = _on_the_arc(mask, tokens, weights, mixed)
    masks = noise.noisy(ids)[..., None]
    return table(ids).masked_scatter(masks, mixed.to(table.weight.dtype))


def _on_the_arc(mask: Tensor, tokens: Tensor, weights: Tensor, mixed: Tensor) -> Tensor:
    """(M, d) spherical interpolation by λ from ``mask`` (d,) to the mean of ``tokens`` (M, k, d);
    lengths are interpolated linearly, that of the mean being the mean of the tokens' lengths."""
    strength = 1 - weights[:, :1]
    chances = weights[:, 1:] / strength.clamp(min=1e-12)
    mean = (chances[..., None] * tokens).sum(1)
    start, end = F.normalize(mask, dim=-1), F.normalize(mean, dim=-1)
    cosine = (end * start).sum(-1, keepdim=True).clamp(-0.999999, 0.999999)
    angle = cosine.acos()
    direction = ((1 - strength) * angle).sin() * start + (strength * angle).sin() * end
    lengths = torch.cat([mask.norm().expand(len(tokens), 1), tokens.norm(dim=-1)], 1)
    on_the_arc = direction / angle.sin() * (weights * lengths).sum(1, keepdim=True)
    return torch.where(strength > 0, on_the_arc, mixed)  # no rounding where nothing is fed back


class TwoPass(nn.Module):
    """A `Backbone` as it is trained and evaluated with soft-masking, called the same way: a first
    pass without gradient, then one whose masks remember its predictions. ``forbidden``: as that of
    `Denoiser`."""

    def __init__(self, backbone: nn.Module, soft: SoftMask, noise: Absorbing, forbidden: list[int]):
        super().__init__()
        self.backbone, self.soft, self.noise = backbone, soft, noise
        self.config = backbone.config
        forbidden = torch.tensor(sorted({noise.mask_id, *forbidden}))
        self.register_buffer("forbidden", forbidden, persistent=False)  # goes where the model goes

    def forward(self, input_ids: Tensor, query_mask: Tensor, *settings, **more) -> Tensor:
        masks = self.noise.noisy(input_ids)
        if not masks.any():
            return self.backbone(input_ids, query_mask, *settings, **more)
        read = masks
        if more.get("layout") is not None and self.backbone.shift:  # by slots, not by positions
            read = torch.cat([masks[:, 1:], masks.new_zeros(len(masks), 1)], 1)
        with torch.no_grad():
            logits = self.backbone(input_ids, read, *settings, **more)
            forbidden = self.forbidden.to(logits.device)
            logits = logits.index_fill_(1, forbidden, -torch.inf)
        table = self.backbone.model.get_input_embeddings()
        embeds = blend(table, input_ids, self.noise, self.soft.feedback(logits))
        return self.backbone(input_ids, query_mask, *settings, inputs_embeds=embeds, **more)


class SoftMasked(Wrapped):
    """A denoiser, `Denoiser` or `InBlocks`, whose masks remember the predictions of the step before.
    All masks that a pass can predict are queried, since all are fed back.
    A token that is masked again remembers itself, as in the published code."""

    def __init__(self, denoiser, soft: SoftMask):
        super().__init__(denoiser)
        self.soft = soft

    def start(self, canvas: Canvas) -> "SoftMasked":
        other = super().start(canvas)
        other.allowed = canvas.allowed
        size, spherical = (*canvas.ids.shape, self.soft.k), self.soft.mixing == "spherical"
        other.feedback = Feedback.plain(*size, canvas.ids.device, spherical)
        return other

    def __call__(self, query: Query) -> Tensor:
        rows = slice(None) if query.rows is None else query.rows
        ids, feedback = query.ids, self.feedback.take(rows)
        masks = self.noise.noisy(ids)
        query_mask = query.query_mask | (masks & self.denoiser.scope(query))
        logits = self.denoiser(replace(query, query_mask=query_mask, feedback=feedback))
        if self.allowed is not None:  # what may not be written is not remembered
            logits = self.allowed[rows](logits, query_mask)
        found = self.soft.feedback(_some(logits, masks[query_mask]))
        feedback = feedback.replaced(~masks, self._written(ids[~masks]))
        self.feedback.put(rows, feedback.replaced(masks & query_mask, found))
        return _some(logits, query.query_mask[query_mask])

    def _written(self, tokens: Tensor) -> Feedback:
        """What tokens (N,) would remember as masks: themselves, a prediction of entropy 0."""
        strength = self.soft.strength(torch.zeros((), device=tokens.device)).detach()
        weights = torch.zeros(len(tokens), self.soft.k + 1, device=tokens.device)
        weights[:, 0], weights[:, 1] = 1 - strength, strength
        ids = tokens[:, None].expand(-1, self.soft.k)
        return Feedback(ids, weights, self.soft.mixing == "spherical")


def _some(logits: Tensor, rows: Tensor) -> Tensor:
    """The logits (N, V) of some rows; without a copy where these are all."""
    return logits if rows.all() else logits[rows]


def load_soft_mask(model: nn.Module, folder: str) -> SoftMask | None:
    """The soft-masking that finetune.py recorded in the config of a model and wrote beside it, or None;
    `UserError` where it is damaged."""
    settings = diffusion_settings(model.config).get("soft")
    if settings is None:
        return None
    known = settings if isinstance(settings, dict) else {}
    k, mixing = known.get("k"), known.get("mixing")
    if mixing not in MIXINGS or type(k) is not int or not 1 <= k <= model.config.vocab_size:
        raise UserError(
            f"the config of {folder} has invalid settings of soft-masking, k {k} and mixing {mixing}; "
            "copy the folder that finetune.py wrote"
        )
    soft = SoftMask(k, mixing)
    soft.load(resolve(folder)[0])
    return soft.to(next(model.parameters()).device).eval().requires_grad_(False)
