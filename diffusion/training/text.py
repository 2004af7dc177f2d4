"""The text of a run, read and packed into blocks to train on and blocks to validate with."""

import itertools
from collections.abc import Iterable

import torch

from diffusion.cli.console import say
from diffusion.data import conversations, corpus, packing
from diffusion.data.packing import Blocks
from diffusion.errors import UserError
from diffusion.training.arguments import DataArguments


def read(data: DataArguments, train: bool = True) -> tuple[Iterable, Iterable | None]:
    """(training documents, validation documents or None when blocks are to be held out). With --chat
    they are conversations; with --streaming they can be gone through once."""
    parts = [_documents(data, name, "train") for name in data.dataset] if train else []
    documents = itertools.chain(*parts)
    if not (train and data.streaming):
        documents = list(documents)
    if data.eval_dataset is not None:
        name = data.eval_dataset
    elif corpus.WIKITEXT in data.dataset:
        name = corpus.WIKITEXT
    elif train:
        return documents, None
    else:
        name = data.dataset[0]
    return documents, _documents(data, name, data.eval_split)


def _documents(data: DataArguments, name: str, split: str) -> Iterable:
    config, revision = data.dataset_config, data.dataset_revision
    if name not in data.dataset:  # they are of what is trained on
        config = revision = None
    if data.chat:
        return conversations.load_conversations(
            name, split, config, column=data.column, revision=revision
        )
    return corpus.load_documents(
        name, split, data.dataset_dir, config,
        column=data.column, revision=revision, streaming=data.streaming,
    )  # fmt: skip


def pack_splits(
    documents: Iterable,
    eval_documents: Iterable | None,
    tokenizer,
    data: DataArguments,
    train: bool = True,
) -> tuple[Blocks | None, Blocks]:
    """(training blocks, or None; validation blocks).

    Raises:
        UserError: too little text.
    """

    def pack(documents: Iterable, most: int | None, what: str = "data set") -> Blocks:
        if data.chat:
            return conversations.pack_conversations(
                documents, tokenizer, data.block_size, what, most
            )
        return Blocks(packing.pack(documents, tokenizer, data.block_size, what, most))

    blocks = pack(documents, data.max_train_samples) if train else None
    if eval_documents is not None:
        most = data.max_eval_blocks
        found = pack(eval_documents, most if data.streaming else None, "validation set")
        # Spread over the whole text, not only its beginning.
        keep = torch.linspace(0, len(found) - 1, min(len(found), most))
        return blocks, found.take(keep.round().long())
    held_out = min(max(2, len(blocks) // 50), data.max_eval_blocks)  # 2 for an error
    if len(blocks) <= held_out:
        raise UserError(
            f"the data set fills only {len(blocks)} blocks, none is left for validation; give "
            "more text or an --eval_dataset"
        )
    say(f"no --eval_dataset: the last {held_out} blocks are held out for validation")
    return blocks.take(slice(-held_out)), blocks.take(slice(-held_out, None))
