"""The layers of an encoder of BERT's kind as plain calls, for passes over a few slots.

Writing from left to right, a pass computes a handful of slots. There the products are small, and
much of the time of a model of transformers goes into what is around them. Here a layer is eight
calls, with queries, keys and values from one product of the matrices side by side.
"""

from collections.abc import Callable
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.models.families import family


class Encoder:
    """The encoder of a model in evaluation mode; its weights may not change any more.

    It keeps one more copy of the matrices of queries, keys and values.

    Args:
        base: the model without its head, of a family that has `families.Names`.
    """

    def __init__(self, base: nn.Module):
        names = family(base.config).encoder
        self.heads = base.config.num_attention_heads
        self.embeddings = base.embeddings
        self.project = getattr(base, "embeddings_project", None)  # ELECTRA's
        rest = (names.out, names.norm, names.up, names.activation, names.down, names.last)
        self.layers = []
        for layer in attrgetter(names.layers)(base):
            attend = [attrgetter(name)(layer) for name in names.attend]
            weight = torch.cat([part.weight for part in attend]).detach()
            bias = torch.cat([part.bias for part in attend]).detach()
            self.layers.append((weight, bias, *(attrgetter(name)(layer) for name in rest)))

    def __call__(
        self,
        inputs: dict[str, Tensor],
        position_ids: Tensor,
        keep: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]],
        seen: Tensor | None,
    ) -> Tensor:
        """Hidden states (R, S, d) of S slots.

        Args:
            inputs: ``input_ids`` (R, S), or those None and ``inputs_embeds`` (R, S, d).
            position_ids: (R, S).
            keep: called in each layer with its number and the keys and values (R, S, H, d / H) of
                the slots; gives those (R, H, K, d / H) that are attended to.
            seen: (R, 1, S, K) bool, which of them each slot attends to; None: all.
        """
        hidden = self.embeddings(**inputs, position_ids=position_ids)
        if self.project is not None:
            hidden = self.project(hidden)
        rows, slots = position_ids.shape
        for number, layer in enumerate(self.layers):
            weight, bias, out, norm, up, activation, down, last = layer
            both = F.linear(hidden, weight, bias).view(rows, slots, 3, self.heads, -1)
            query, key, value = both.unbind(2)
            key, value = keep(number, key, value)
            mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key, value, seen)
            mixed = mixed.transpose(1, 2).reshape(rows, slots, -1)
            hidden = norm(hidden + out(mixed))
            hidden = last(hidden + down(activation(up(hidden))))
        return hidden
