"""A masked language model seen as p(clean token | canvas), and one draw from it.

With `row_logits` this is the only code that calls a model. The contract of every denoiser:
probabilities are computed in float32; ``<mask>``, padding and other ids that training never
supervised have probability 0; a visible token predicts itself (copy-through); logits exist only
where asked for. A model trained on masks alone says nothing new about a token it sees, so whoever
asks for a prediction at a visible position says whether the token is to be hidden there, see
``shadows``.
"""

import copy

import torch
from torch import Tensor

from diffusion.models.backbone import RowLogits


class Denoiser:
    """Logits over what may be written, at the positions asked for.

    Args:
        model: any ``AutoModelForMaskedLM`` in evaluation mode.
        mask_id: id of ``<mask>``.
        forbidden: ids that are never written, see `checkpoints.forbidden_ids`.
    """

    def __init__(self, model: torch.nn.Module, mask_id: int, forbidden: list[int]):
        self.row_logits = RowLogits(model)
        self.mask_id = mask_id
        self.device = next(model.parameters()).device
        self.forbidden = torch.tensor(sorted({mask_id, *forbidden}), device=self.device)
        self.passes = 1  # forward passes a call costs

    def forbidding(self, *ids: int) -> "Denoiser":
        """The same denoiser with more ids forbidden."""
        other = copy.copy(self)
        other.forbidden = torch.cat([self.forbidden, self.forbidden.new_tensor(ids)])
        return other

    def __call__(
        self,
        ids: Tensor,
        rows: Tensor,
        padding: Tensor | None = None,
        shadows: Tensor | None = None,
        frozen: Tensor | None = None,
    ) -> Tensor:
        """Logits (N, V) at the N positions of ``rows`` (B, L), row-major; -inf where forbidden.
        They are in the model's number format; who turns them into probabilities goes through
        float32.

        Args:
            padding: (B, L), positions that do not exist.
            shadows: (B, L), visible positions among ``rows`` that are predicted by a copy which
                does not see the token there, see `RowLogits.shadowed`.
            frozen: (B, L), what is given; of use to wrappers such as `guidance.Guided`.
        """
        attention_mask = None if padding is None else (~padding).long()
        if shadows is not None and shadows.any():
            logits = self.row_logits.shadowed(ids, rows, shadows, self.mask_id, padding)
        else:
            logits = self.row_logits(ids, rows, attention_mask)
        return logits.index_fill_(1, self.forbidden, -torch.inf)


def dense_probabilities(denoiser, ids: Tensor, mask_id: int) -> Tensor:
    """The denoiser distribution in full, (B, L, V): predictions at masks, one-hot elsewhere."""
    masked = ids == mask_id
    logits = denoiser(ids, masked).float()
    dense = torch.nn.functional.one_hot(ids, logits.shape[1]).to(logits.dtype)
    dense[masked] = logits.softmax(-1)
    return dense
