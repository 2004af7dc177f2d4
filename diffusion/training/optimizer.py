"""Muon for matrices, AdamW for tables and vectors (Jordan et al., 2024; arXiv:2502.16982), and the
average of weights."""

import torch
from torch import Tensor, nn

MUON = "muon"


def ema_update(decay: float):
    """Update rule of a weight average with decay min(decay, (1 + n) / (10 + n)) at update n,
    which forgets the random start quickly (as in MDLM's ema.py)."""

    @torch.no_grad()
    def update(average: list[Tensor], current: list[Tensor], n: Tensor) -> None:
        d = min(decay, (1 + n.item()) / (10 + n.item()))
        torch._foreach_lerp_(average, current, 1 - d)

    return update


def split(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(matrices, all other weights), by name. Embeddings and the output matrix are tables of
    vectors, which Muon was not designed for."""
    tables = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            tables.add(id(module.weight))
        elif hasattr(module, "get_output_embeddings"):
            tables.add(id(getattr(module.get_output_embeddings(), "weight", None)))
    matrices, others = {}, {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            hidden = weight.ndim == 2 and id(weight) not in tables
            (matrices if hidden else others)[name] = weight
    return matrices, others


class MuonAndAdam(torch.optim.Optimizer):
    """Both as one optimiser. Muon's steps are scaled to the size of Adam's, so that both can have one
    learning rate.

    Args:
        decayed: names of the weights that weight decay is for; those of matrices are among them.
        adam: settings of AdamW, ``lr`` and ``weight_decay`` among them.
    """

    def __init__(self, model: nn.Module, decayed: set[str], **adam):
        matrices, others = split(model)
        lr, decay = adam["lr"], adam["weight_decay"]
        tables = [weight for name, weight in others.items() if name in decayed]
        rest = [weight for name, weight in others.items() if name not in decayed]
        self.parts = (
            torch.optim.Muon(
                matrices.values(), lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW([{"params": tables}, {"params": rest, "weight_decay": 0.0}], **adam),
        )
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The same groups, not copies: a learning rate that is set here is that of the part."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self._share()
