"""The layers of an encoder of BERT's kind as plain calls, which compute no more than is read.

Left to right, a pass computes a handful of slots: the products are small, and much of the time of a
transformers model goes into what is around them. Here a layer is eight calls, with queries, keys and
values from one product. On a full canvas the last layer computes keys and values of all slots, and
the rest only for those that are read.
"""

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.models.families import family
from diffusion.models.linear import Packed


class Encoder:
    """The encoder of a model in evaluation mode; its weights may not change any more.

    It keeps one more copy of the matrices of queries, keys and values, and of the last ones two.

    Args:
        base: the model without its head, of a family that names the parts of its `encoder`.
    """

    def __init__(self, base: nn.Module):
        layers, *names = map(attrgetter, family(base.config).encoder.split())
        self.heads = base.config.num_attention_heads
        self.width = base.config.hidden_size // self.heads
        self.embeddings = base.embeddings
        self.project = getattr(base, "embeddings_project", None)  # ELECTRA's
        self.layers = []
        for layer in layers(base):
            *attend, out, norm, up, activation, down, last = (name(layer) for name in names)
            self.layers.append((_joined(attend), out, norm, up, activation, down, last))
        self.ends = attend[0], _joined(attend[1:])  # of the last layer

    def __call__(self, inputs, position_ids, keep=None, seen=None, read=None) -> Tensor:
        """Hidden states (R, S, d) of S slots, or (R, n, d) of those that are read.

        Args:
            inputs: ``input_ids`` (R, S), or those None and ``inputs_embeds`` (R, S, d).
            position_ids: (R, S).
            keep: called in each layer with its number and the keys and values (R, S, H, d / H) of
                the slots; gives those (R, H, K, d / H) that are attended to. None: these slots.
            seen: (R, 1, S or 1, K) bool, which of them each slot attends to; None: all.
            read: (R, n) slots whose last hidden states are returned; None: all.
        """
        hidden = self.embeddings(**inputs, position_ids=position_ids)
        if self.project is not None:
            hidden = self.project(hidden)
        for number, layer in enumerate(self.layers):
            attend, out, norm, up, activation, down, last = layer
            if read is None or number + 1 < len(self.layers):
                query, key, value = attend(hidden).chunk(3, -1)
            else:
                attend, attended = self.ends
                key, value = attended(hidden).chunk(2, -1)
                hidden = _rows(hidden, read)
                query = attend(hidden)
                if seen is not None and seen.shape[2] > 1:
                    seen = _rows(seen[:, 0], read)[:, None]
            heads = -1, (self.heads, self.width)
            query, key, value = (part.unflatten(*heads) for part in (query, key, value))
            if keep is None:
                key, value = key.transpose(1, 2), value.transpose(1, 2)
            else:
                key, value = keep(number, key, value)
            mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key, value, seen)
            mixed = mixed.transpose(1, 2).reshape(hidden.shape)
            hidden = norm(hidden + out(mixed))
            hidden = last(hidden + down(activation(up(hidden))))
        return hidden


def _joined(parts: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """Several linear maps of the same input as one, their outputs side by side."""
    weight, bias = (
        torch.cat([getattr(part, name) for part in parts]).detach() for name in ("weight", "bias")
    )
    if isinstance(parts[0], Packed):
        return Packed(weight, bias)
    return partial(F.linear, weight=weight, bias=bias)


def _rows(values: Tensor, read: Tensor) -> Tensor:
    """Those slots (R, n, X) of (R, S, X) that are read."""
    return values.gather(1, read[..., None].expand(-1, -1, values.shape[-1]))


def read_at(row: Tensor, slot: Tensor, rows: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """For N slots (``row`` (N,), ``slot`` (N,)) what `Encoder` is to ``read`` (R, n), where rows that
    are read at fewer slots are filled up, and the index (row, place) of the N among what it gives."""
    count, order = row.new_zeros(rows), row.argsort(stable=True)
    count = count.index_add_(0, row, torch.ones_like(row))
    number = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row[order]]
    place = torch.empty_like(number).scatter_(0, order, number)
    read = slot.new_zeros(rows, int(count.max()) if rows else 0)
    read[row, place] = slot
    return read, (row, place)
