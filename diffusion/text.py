"""Text as tokens, and tokens as text, for all outputs.

A prompt is shown as it was typed. What a model wrote is spelled by the kind of its tokenizer: the bytes
of a byte-level BPE as they are, "▁" of SentencePiece as a space, and the pieces of WordPiece, which
have no spaces, as text is printed. Tokens of other kinds are what their tokenizer makes of them.
"""

from __future__ import annotations

import codecs
import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Typed:
    """The user's own string in one row of a canvas, by position."""

    # At fixed positions; one that is not here is spelled as its token.
    pieces: dict[int, str] = field(default_factory=dict)
    # Fixed text after a position that is to be written, which has no token of its own.
    after: dict[int, str] = field(default_factory=dict)
    tight: frozenset[int] = frozenset()  # where the string decides about a space, not the token


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
    # One that does not say where its tokens are has the whole text at the last of them.
    return ids, encoded["offset_mapping"] if fast else [(0, len(text))] * len(ids)


def parts(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """The part of a text that each of its tokens covers: joined, the text. White space is part of the
    token after it, a line break of the one before, a character of several tokens of the last."""
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


def _encoded(tokenizer, text: str, **settings) -> dict:
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, **settings)
    if tokenizer.unk_token_id is not None:  # Unigram finds the names of its specials in a text
        special = set(tokenizer.all_special_ids)
        ids = [tokenizer.unk_token_id if i in special else i for i in encoded["input_ids"]]
        encoded["input_ids"] = ids
    return encoded


# ---------------------------------------------------------------- tokens as text

SPACED = ("WordPiece", "Metaspace")  # kinds whose tokens say whether they begin a word
_KINDS = {  # and what the decoder of a tokenizer of that kind is called
    "ByteLevel": "ByteLevel",
    "WordPiece": "WordPiece",
    "Metaspace": "Metaspace|Replace|ByteFallback",
}


class Slot(NamedTuple):
    """What is to be spelled at a position: a token, what was typed there, or (neither) a mask."""

    token: int | None = None
    typed: str | None = None
    after: str = ""
    tight: bool = False


class Speller:
    """Spells the tokens of one tokenizer. Each token id is looked up once and then remembered.

    Attributes:
        kind: "ByteLevel"; "Metaspace", whose tokens contain their space as well; "WordPiece", of
            whole words and pieces that continue one; or "", of tokens that the tokenizer decodes.
        bytes_of: the UTF-8 bytes that a token id adds inside a text, with the space that begins a
            word; they need not be whole characters.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        decoder = repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))
        kinds = (kind for kind, names in _KINDS.items() if re.search(names, decoder))
        self.kind = next(kinds, "")
        self.bytes_of = functools.cache(self._bytes_of)

    # ------------------------------------------------------------ one token

    def _bytes_of(self, token_id: int) -> bytes:
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        if token is None:  # an id of the model beyond the tokenizer's vocabulary
            return "\N{REPLACEMENT CHARACTER}".encode()
        if self.kind == "ByteLevel" and all(char in _BYTE_OF for char in token):
            return bytes(_BYTE_OF[char] for char in token)
        if self.kind == "WordPiece":
            continues = token.startswith("##") and token != "##"
            return (token[2:] if continues else " " + token).encode()
        if self.kind == "":
            return self._decoded([token_id]).encode()
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", token):  # SentencePiece's byte fallback
            return bytes.fromhex(byte[1])
        return token.replace("▁", " ").encode()

    def _decoded(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def beginnings(self) -> list[bool]:
        """Of every token whether a text, or a word after a space that is no token's, can begin with
        it; where a tokenizer does not say, it can."""
        return [self.kind not in SPACED or self._begins(i) for i in range(len(self.tokenizer))]

    def _begins(self, token_id: int) -> bool:
        spelled = self.bytes_of(token_id)
        if spelled[:1] == b" ":
            return bool(spelled.strip())
        first = spelled.decode("utf-8", "replace")[:1]
        # A word of a script without spaces begins anywhere, and so does a quotation mark.
        return self.kind == "Metaspace" and (not first.isalnum() or bool(SPACELESS.match(first)))

    def awaits_word(self, text: str, ids: Sequence[int]) -> bool:
        """Whether a word has to begin after a text and its tokens: nothing is there, or a space that
        is no token's."""
        if self.kind not in SPACED:
            return False
        return not ids or (text[-1:].isspace() and not self.bytes_of(ids[-1])[-1:].isspace())

    def spells(self, ids: Iterable[int], text: str) -> bool:
        """Whether tokens are the text, byte for byte."""
        return self.kind == "ByteLevel" and b"".join(map(self.bytes_of, ids)) == text.encode()

    @functools.cached_property
    def prefixed(self) -> bool:
        """Whether the tokenizer adds a space before a text."""
        encoded = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        return bool(encoded) and self.bytes_of(encoded[0])[:1] == b" "

    # ------------------------------------------------------------ a row

    def pieces(self, slots: Sequence[Slot]) -> list[str]:
        """The string of each position, "" where it is masked, or shows the first bytes of a character
        whose last byte comes later. A fixed piece is as it was typed, with a space before it where
        another word was written there and the tokens say that a new one begins."""
        chunks: list[bytes | None] = []
        front = _Front()
        for slot in slots:
            if slot.token is None and slot.typed is None:
                front = _Front(None, front.quotes, begun=True)
                chunks.append(None)
                continue
            if slot.typed is None:
                chunks.append(self._written(slot, front) + slot.after.encode())
                front.fixed = bool(slot.after)
            else:
                chunks.append(self._given(slot, front))
                front.fixed |= bool(slot.typed)
            new = chunks[-1].decode("utf-8", "ignore")
            front.quotes += new.count('"')
            front.text = ((front.text or "") + new)[-4:] or front.text
            if slot.token is not None:
                front.begun = True
                front.tokens.append(slot.token)
        return _decode(chunks)

    def _given(self, slot: Slot, front: _Front) -> bytes:
        decided = front.fixed or slot.tight or slot.token is None or not front.text
        if decided or not self._begins_word(slot.token):
            return slot.typed.encode()
        return (space_between(front.text, slot.typed, front.quotes) + slot.typed).encode()

    def _written(self, slot: Slot, front: _Front) -> bytes:
        if self.kind == "":
            before = self._decoded(front.tokens)
            return self._decoded([*front.tokens, slot.token])[len(before) :].encode()
        spelled = self.bytes_of(slot.token)
        if self.kind == "Metaspace":
            doubled = front.fixed and front.text and front.text[-1].isspace()
            extra = doubled or (not front.begun and self.prefixed)
            return spelled.removeprefix(b" ") if extra else spelled
        if self.kind == "ByteLevel":
            return spelled
        word = spelled.decode().removeprefix(" ")
        if slot.tight or not self._begins_word(slot.token):
            return word.encode()
        if front.text is None:  # what comes there is not known yet
            return (" " * (word[:1] not in _CLOSE) + word).encode()
        return (space_between(front.text, word, front.quotes) + word).encode()

    def _begins_word(self, token_id: int) -> bool:
        """Whether a token says that it begins a word."""
        return self.kind in SPACED and self.bytes_of(token_id)[:1] == b" "


@dataclass
class _Front:
    """What is before a position."""

    text: str | None = ""  # its end; None: not known yet
    quotes: int = 0  # straight quotation marks
    fixed: bool = False  # its end
    begun: bool = False  # it has any token
    tokens: list[int] = field(default_factory=list)  # since the last mask


# ---------------------------------------------------------------- spaces as they are printed

_CLOSE = frozenset(".,;:!?)]}%’”»…、。，．！？；：）］｝」』】》〉")
_OPEN = frozenset("([{“‘«¿¡$£€¥（［｛「『【《〈")
_LINK = frozenset("'’-/")
IDEOGRAM = re.compile("[\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # fmt: skip
# Of these and of Thai, Lao, Burmese and Khmer, words have no spaces between them.
SPACELESS = re.compile(f"{IDEOGRAM.pattern}|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")


def in_word(character: str) -> bool:
    """Whether a character, or "", is a letter or digit."""
    mark = unicodedata.category(character or " ").startswith("M")
    return character.isalnum() or character == "_" or mark


def space_between(before: str, after: str, quotes: int = 0) -> str:
    """The space, or "", between a text and the word or sign after it, which a WordPiece tokenizer
    cuts off: ``It ' s 5 , 000 m ( 3 ft )`` was ``It's 5,000 m (3 ft)``. Of the ``quotes``, straight
    quotation marks in the whole text, every other one closes."""
    last, first, further = before[-1:], after[:1], before[-2:-1]
    number = further.isdigit() and first.isdigit()
    joined = (
        not last
        or last.isspace()
        or first.isspace()
        or first in _CLOSE
        or last in _OPEN
        or (first == '"' and quotes % 2 == 1)
        or (last == '"' and quotes % 2 == 1)
        or (first in _LINK and in_word(last))
        or (last in _LINK and in_word(further) and in_word(first))
        or (last == "'" and (not further.strip() or further in _OPEN))
        or (last in ".:" and number)
        or (last == "," and number and len(after) == 3)
        or bool(IDEOGRAM.match(last) and IDEOGRAM.match(first))
    )
    return "" if joined else " "


# ---------------------------------------------------------------- bytes

# Of byte-level BPE: a printable Latin-1 character is its own byte, and the characters from U+0100 on
# are the other bytes, in order.
_PLAIN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PLAIN]
_BYTE_OF = {chr(b): b for b in _PLAIN} | {chr(256 + i): b for i, b in enumerate(_OTHERS)}
_CONTINUATION = bytes(range(0x80, 0xC0))


def _decode(chunks: list[bytes | None]) -> list[str]:
    """The string of each position; None is a mask. A character appears at its last byte; bytes that
    cannot become one show as the replacement character, but as nothing beside a mask."""
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [""] * len(chunks)
    pending = None  # position of the last byte of an unfinished character
    beside_mask = False

    def add(position: int, text: str) -> None:
        # The decoder reports a broken character only at the next byte: move it back to its place.
        if pending is not None and text.startswith("�"):
            pieces[pending] += "�"
            text = text[1:]
        pieces[position] += text

    for i, chunk in enumerate(chunks):
        if chunk is None:
            utf8.reset()
            pending, beside_mask = None, True
            continue
        if beside_mask:
            chunk = chunk.lstrip(_CONTINUATION)
        if not chunk:
            continue
        beside_mask = False
        add(i, utf8.decode(chunk))
        pending = i if utf8.getstate()[0] else None
    if pending is not None:
        add(pending, utf8.decode(b"", final=True))
    return pieces
