"""Texts with blanks -> blocks in which only the blanks are learned."""

import functools

import torch

from diffusion.cli.console import say
from diffusion.data import corpus
from diffusion.data.packing import ANSWER, CONTEXT, PADDING, Blocks
from diffusion.data.report import Report
from diffusion.errors import UserError
from diffusion.text import encode

FORM = '{"parts": ["given", "blank", "given", ...]}'

Parts = list[str]  # given text and the text of blanks in turns; the first may be ""


def load_blanks(name: str, split: str = "train", **where) -> list[Parts]:
    """The texts of a data set, whose rows are lists of `Parts`; see `corpus.load_records`."""
    where = {"report": Report(), "column": "parts"} | where
    where["report"].unit = "text"
    names = "text with blanks", "texts with blanks", FORM
    return corpus.load_records(name, split, _parts, *names, reader="--infill", **where)


def _parts(row) -> Parts | None:
    """The parts of a row; None where it is not of that form."""
    try:
        "".join(row).encode("utf-8")  # nor half a character
    except (TypeError, UnicodeEncodeError):
        return None
    return list(row) if isinstance(row, list) and any(row[1::2]) else None


def pack_blanks(
    texts: list[Parts],
    tokenizer,
    block_size: int,
    what: str = "data set",
    most: int | None = None,
) -> Blocks:
    """The first ``most`` texts, one per block after ``<s>``, padded. Each part is encoded by itself, as those of
    an ``--infill`` of inference.py: the space before a blank belongs to it. Longer texts are left out, which
    is reported.

    Raises:
        UserError: none fits.
    """
    encoded = functools.cache(lambda part: encode(tokenizer, part))  # of a puzzle most are a digit
    texts = texts[:most]
    blocks = torch.full((len(texts), block_size), tokenizer.pad_token_id or 0, dtype=torch.int32)
    kinds = torch.full(blocks.shape, PADDING, dtype=torch.int8)
    row = 0
    for parts in texts:
        ids, kind, space = [tokenizer.bos_token_id], [CONTEXT], ""
        for i, part in enumerate(parts):
            part, space = space + part, ""
            if i % 2 == 0 and part.endswith(" ") and i + 1 < len(parts):
                part, space = part[:-1], " "
            new = encoded(part)
            ids += new
            kind += [ANSWER if i % 2 else CONTEXT] * len(new)
        if len(ids) <= block_size:
            blocks[row, : len(ids)], kinds[row, : len(ids)] = torch.tensor([ids, kind])
            row += 1
    if row < len(texts):
        say(
            f"note: {len(texts) - row} of {len(texts)} texts are left out, which are longer than "
            f"--block_size {block_size}"
        )
    if row == 0:
        raise UserError(
            f"the {what} has no text of at most {block_size} tokens; increase --block_size"
        )
    return Blocks(blocks[:row], kinds[:row])
