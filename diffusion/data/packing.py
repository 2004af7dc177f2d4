"""Documents -> packed blocks of token ids -> an order of (block, draw) pairs."""

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffusion import rng
from diffusion.errors import UserError

CONTEXT, ANSWER, PADDING = range(3)  # of conversations and texts with blanks; answers are learned


def token_stream(documents: Iterable[str], tokenizer, most: int | None = None) -> Tensor:
    """All documents as one int32 tensor (T,), each followed by ``</s>``; no more are read than
    ``most`` tokens need."""
    end = [tokenizer.eos_token_id]
    # In a text "<mask>" and "</s>" are words, not special tokens.
    plain = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    parts, found, documents = [], 0, iter(documents)
    while some := list(itertools.islice(documents, 256)):
        for ids in tokenizer(some, **plain)["input_ids"]:
            parts.append(torch.tensor(ids + end, dtype=torch.int32))
            found += len(parts[-1])
        if most is not None and found >= most:
            break
    return torch.cat(parts)[:most] if parts else torch.zeros(0, dtype=torch.int32)


def pack(
    documents: Iterable[str],
    tokenizer,
    block_size: int,
    what: str = "data set",
    most: int | None = None,
) -> Tensor:
    """Documents packed into blocks (N, block_size), int32: ``<s>``, then block_size - 1 tokens of
    the stream, of at most ``most`` blocks; the tail that fills none is dropped.

    Raises:
        UserError: not even one block.
    """
    body = block_size - 1
    stream = token_stream(documents, tokenizer, most and most * body)
    n = len(stream) // body
    if n == 0:
        raise UserError(
            f"the {what} has {len(stream)} tokens, too few for one block of {block_size}; "
            "give more text or a smaller --block_size"
        )
    first = torch.full((n, 1), tokenizer.bos_token_id, dtype=torch.int32)
    return torch.cat([first, stream[: n * body].view(n, body)], dim=1)


class Blocks(Dataset):
    """Packed blocks; the index of an item is (block, draw), see `DrawSampler`.

    Args:
        blocks: (N, L) token ids.
        kinds: (N, L) of conversations, or texts with blanks: `CONTEXT`, `ANSWER` or `PADDING`.
        source: what they were read from, for people.
    """

    def __init__(self, blocks: Tensor, kinds: Tensor | None = None, source: str = ""):
        self.blocks, self.kinds, self.source = blocks, kinds, source

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, item: tuple[int, int]) -> dict:
        block, draw = item
        own = {} if self.kinds is None else {"kinds": self.kinds[block]}
        return {"input_ids": self.blocks[block], "draw": draw, **own}

    def take(self, which: slice | Tensor) -> "Blocks":
        kinds = None if self.kinds is None else self.kinds[which]
        return Blocks(self.blocks[which], kinds, self.source)

    @property
    def tokens(self) -> int:
        """How many, without padding."""
        return self.blocks.numel() if self.kinds is None else int((self.kinds != PADDING).sum())


class DrawSampler(torch.utils.data.Sampler):
    """Shuffled (block, draw) pairs, a whole number of global batches an epoch: ``draw`` numbers the
    samples of the whole run, for the collator. Blocks that fill no batch wait for another epoch;
    fewer blocks than one batch are repeated to fill it.
    """

    def __init__(self, blocks: int, global_batch: int, seed: int):
        self.blocks = blocks
        self.length = max(1, blocks // global_batch) * global_batch
        self.key = rng.seed_key(seed)
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def start_at(self, draw: int) -> None:
        """Choose the epoch that holds a draw."""
        self.epoch = draw // self.length

    def __iter__(self):
        order = rng.uniform(rng.fold_in(self.key, self.epoch), self.blocks).argsort()
        order = order.repeat(-(-self.length // self.blocks))[: self.length].tolist()
        first = self.epoch * self.length
        return iter(zip(order, range(first, first + self.length), strict=True))
