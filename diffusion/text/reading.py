"""How text becomes tokens, and which part of it each token is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diffusion.text.spelling import Speller

# What the tokens of a tokenizer without offsets have besides the characters of a text.
MARKS = re.compile("^##|▁|@@$|</w>$")


@dataclass(frozen=True)
class Typed:
    """The user's own string in one row of a canvas, by position.

    Attributes:
        pieces: the string at fixed positions; a fixed position that is not here is spelled as its
            token.
        after: fixed text after a position that is to be written, which has no token of its own.
        tight: positions before which the string decides about a space, and not the token.
    """

    pieces: dict[int, str] = field(default_factory=dict)
    after: dict[int, str] = field(default_factory=dict)
    tight: frozenset[int] = frozenset()


NOTHING = Typed()


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, nothing added; ``<mask>`` or ``</s>`` typed by a user stays text."""
    return _encoded(tokenizer, text)["input_ids"]


def located(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids of `encode`, and the span (start, end) of each in the text, in characters."""
    fast = getattr(tokenizer, "is_fast", True)
    encoded = _encoded(tokenizer, text, return_offsets_mapping=fast)
    ids = encoded["input_ids"]
    if fast:
        return ids, encoded["offset_mapping"]
    spans, at = [], 0
    for token in tokenizer.convert_ids_to_tokens(ids):
        word = MARKS.sub("", token)
        start = text.find(word, at)
        spans.append((start, start + len(word)) if word and start >= 0 else (at, at))
        at = spans[-1][1]
    return ids, spans


def parts(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """The part of a text that each of its tokens covers: joined, the text.

    White space is part of the token after it, a line break of the one before. A character of several
    tokens is at the last of them, and the others have nothing.
    """
    cuts = [0]
    for (_, end), (following, _) in itertools.pairwise(spans):
        rest = re.match(r"\S*(?:.*\n)?", text[end:following], re.DOTALL)
        cuts.append(max(cuts[-1], min(following, end + rest.end())))
    return [text[a:b] for a, b in itertools.pairwise([*cuts, len(text)])] if spans else []


def read(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[str]]:
    """The ids of a text, and the `parts` that they cover."""
    ids, spans = located(tokenizer, text)
    return ids, parts(text, spans)


def read_on(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[str]]:
    """`read` for a text that continues another one, which is not known: no space before its first
    token, and a piece that continues a word."""
    for before in "a.":
        ids, spans = located(tokenizer, before + text)
        first = next((i for i, (start, _) in enumerate(spans) if start > 0), 0)
        if first and spans[first - 1][1] == 1:
            return ids[first:], parts(text, [(a - 1, b - 1) for a, b in spans[first:]])
    return read(tokenizer, text)


def unknown(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The parts of a text that a tokenizer has no tokens for."""
    found, before = [], False
    for token, part in zip(*read(tokenizer, text), strict=True):
        here = token == tokenizer.unk_token_id
        if here and before and not part[:1].isspace():
            found[-1] += part
        elif here:
            found.append(part)
        before = here
    return [part.strip() or part for part in found]


def typed_from(speller: Speller, text: str, first: int = 1) -> Typed:
    """The record of a text whose tokens begin at the position ``first``."""
    ids, pieces = read(speller.tokenizer, text)
    if not text or speller.spells(ids, text):
        return NOTHING
    return Typed(dict(enumerate(pieces, first)) if ids else {first - 1: text})


def typed_where(pieces: Sequence[str], given: Sequence[bool], first: int = 1) -> Typed:
    """The record of the fixed (``given``) tokens among those of a text. A character of several tokens
    is whole where all of them are fixed, and else spelled by those that are."""
    kept: dict[int, str] = {}
    begin = 0
    for i, piece in enumerate(pieces):
        if piece:
            if all(given[begin : i + 1]):
                kept |= dict(enumerate(pieces[begin : i + 1], first + begin))
            begin = i + 1
    return Typed(kept)


def folds_case(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether capitals and small letters are the same tokens."""
    pairs = ([encode(tokenizer, letter) for letter in (c, c.upper())] for c in "aeio")
    return any(a == b and tokenizer.unk_token_id not in a for a, b in pairs)


def _encoded(tokenizer, text: str, **settings) -> dict:
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, **settings)
    if tokenizer.unk_token_id is not None:  # Unigram finds the names of its specials in a text
        special = set(tokenizer.all_special_ids)
        ids = [tokenizer.unk_token_id if i in special else i for i in encoded["input_ids"]]
        encoded["input_ids"] = ids
    return encoded
