"""Steps -> Frames: what a view shows of one row at one moment, as plain strings.

A `Frame` knows no tensor and no tokenizer, so the terminal, the animation and a file that is
replayed later all show the same thing. Entry i of ``pieces`` and ``states`` is the same canvas
position in every frame of a generation; an autoregressive model gives frames that grow by a token.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest
from typing import TYPE_CHECKING

from diffusion.errors import printable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diffusion.denoise import Step


END_MARK = "∎"  # drawn where a written </s> ends the text
GUESSES = (0.02, 0.1, 0.3)  # a mask that remembers a token as strongly shows it, three shades
DOUBTS = (0.3, 0.1, 0.02)  # a token of lower probability is marked as that much less sure


class State(StrEnum):
    """What a view has to tell apart."""

    GIVEN = "given"
    MASKED = "masked"
    FRESH = "fresh"  # written in this step
    SETTLED = "settled"
    REMASKED = "remasked"  # masked again in this step
    REPLACED = "replaced"  # written in this step, in place of another token
    NOISE = "noise"  # a random token, which the model has not written

    @property
    def open(self) -> bool:
        """Still to be written, where a mask stands."""
        return self in (State.MASKED, State.REMASKED)

    @property
    def pending(self) -> bool:
        """Still to be written, whatever stands there."""
        return self.open or self is State.NOISE


_WRITTEN = (State.FRESH, State.REPLACED, State.SETTLED)


@dataclass(frozen=True)
class Frame:
    """One row of one step.

    ``pieces`` is the text at each position, "" where it is masked or has nothing to show: the
    first bytes of a character whose last byte stands further on, or text after the end. ``ends``
    lists the positions of written ``</s>``. ``nfe`` counts forward passes, ``slots`` what they
    computed, ``seconds`` is the time spent in model and sampler so far. ``confidence`` is the probability that each written
    token had when it was written, None where there is none; empty: nothing is known. ``guesses`` are
    what masks remember, (text, strength) or None; empty: nothing.
    """

    pieces: list[str]
    states: list[State]
    index: int
    total: int | None
    nfe: int
    seconds: float
    ends: list[int] = field(default_factory=list)
    confidence: list[float | None] = field(default_factory=list)
    slots: int = 0
    guesses: list[tuple[str, float] | None] = field(default_factory=list)

    def __post_init__(self):
        if len(self.pieces) != len(self.states):
            raise ValueError(f"{len(self.pieces)} pieces but {len(self.states)} states")
        if not self.confidence:
            object.__setattr__(self, "confidence", [None] * len(self.pieces))

    @property
    def text(self) -> str:
        """The text as far as it is written."""
        return "".join(self.pieces)

    @property
    def masks(self) -> int:
        """Positions still to be written."""
        return sum(state.open for state in self.states)

    @property
    def noise(self) -> int:
        """Random tokens."""
        return sum(state is State.NOISE for state in self.states)

    @property
    def written(self) -> int:
        """Positions that were written, and are not open again."""
        return sum(state in _WRITTEN for state in self.states)

    def shown(self, position: int) -> str:
        """The string to draw at a written position, with nothing in it that can do harm."""
        return END_MARK if position in self.ends else printable(self.pieces[position])

    @property
    def knows_guesses(self) -> bool:
        """Whether any mask remembers so much of a token that it is shown."""
        return any(self.guess(i)[1] for i in range(len(self.pieces) if self.guesses else 0))

    def guess(self, position: int) -> tuple[str, int]:
        """What a mask remembers, and how clearly it is to be shown: 0 (not at all) to 3. One that was
        masked again in this step shows that alone."""
        known = self.guesses and self.states[position] is State.MASKED
        if not known or self.guesses[position] is None:
            return "", 0
        text, strength = self.guesses[position]
        shade = sum(strength >= bound for bound in GUESSES)
        return (printable(text.strip()), shade) if text.strip() and shade else ("", 0)

    def doubt(self, position: int) -> int:
        """How unsure the model was of the token that stands here: 0 (sure, or not known) to 3."""
        known = self.confidence[position]
        if known is None or self.states[position] not in _WRITTEN:
            return 0
        return sum(known < bound for bound in DOUBTS)


def changes(rows: Sequence[Sequence[list]]) -> list[list[list]]:
    """Delta coding: for each row of cells the [position, *cell] that differ from the row before.
    Of any number of steps it is about as long as the text."""
    out, before = [], []
    for row in rows:
        out.append(
            [[i, *cell] for i, cell in enumerate(row) if i >= len(before) or before[i] != cell]
        )
        before = row
    return out


def status_line(frame: Frame, separator: str = " · ") -> str:
    """Step, forward passes, measured seconds, masks and random tokens left, written tokens a second
    and a pass."""
    step = f"step {frame.index}" + (f"/{frame.total}" if frame.total is not None else "")
    left = [f"{frame.noise} random"] if frame.noise else []
    if frame.masks or not left:
        left.insert(0, f"{frame.masks} mask" + ("" if frame.masks == 1 else "s"))
    return separator.join((step, *_cost(frame), *left, *_speed(frame)))


def token_line(frame: Frame, separator: str = " · ") -> str:
    """The same for a model without masks, with the number of new tokens."""
    count = f"{frame.written} token" + ("" if frame.written == 1 else "s")
    return separator.join((count, *_cost(frame), *_speed(frame)))


def _cost(frame: Frame) -> list[str]:
    slots = f" ({frame.slots} slots)" if frame.slots else ""
    return [f"NFE {frame.nfe}{slots}", f"{frame.seconds:.2f} s"]


def _speed(frame: Frame) -> list[str]:
    if not (frame.written and frame.seconds > 0 and frame.nfe):
        return []
    rate, each = frame.written / frame.seconds, frame.written / frame.nfe
    return [f"{rate:.0f} tokens/s", f"{each:.1f} a pass"]


class Framer:
    """Makes the frames of one tokenizer. Each token id is looked up once and then remembered."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
        # <unk> and a literal <mask> in given text are part of what the user wrote.
        self.hidden = set(tokenizer.all_special_ids) - {
            tokenizer.unk_token_id,
            tokenizer.mask_token_id,
        }
        decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        if decoder is None:
            self.kind = "ByteLevel" if "Ġ" in tokenizer.get_vocab() else ""
        else:
            self.kind = next((k for k in ("ByteLevel", "WordPiece") if k in repr(decoder)), "")
        self._bytes: dict[int, bytes] = {}

    def frame(self, step: Step, row: int = 0) -> Frame:
        """The frame of one row of a batched step, without padding."""
        there = ~step.padding[row]
        masks = {State.GIVEN: step.frozen, State.REMASKED: step.remasked, State.MASKED: step.masked}
        if step.random is not None:
            masks[State.NOISE] = step.random
        if step.replaced is not None:
            masks[State.REPLACED] = step.replaced
        order = masks | {State.FRESH: step.revealed}
        flags = zip(*(mask[row][there].tolist() for mask in order.values()), strict=True)
        states = [
            next(
                (state for state, flag in zip(order, position, strict=True) if flag), State.SETTLED
            )
            for position in flags
        ]
        return self.build(
            step.ids[row][there].tolist(),
            states,
            index=step.index,
            total=step.total,
            nfe=int(step.nfe[row]),
            slots=int(step.slots[row]),
            seconds=float(step.seconds),
            confidence=[
                None if p != p else round(p, 4) for p in step.confidence[row][there].tolist()
            ],
            guesses=()
            if step.guesses is None
            else list(zip(*(part[row][there].tolist() for part in step.guesses), strict=True)),
        )

    def build(
        self,
        ids: Sequence[int],
        states: Sequence[State],
        *,
        index: int,
        total: int | None,
        nfe: int,
        seconds: float,
        slots: int = 0,
        confidence: Sequence[float | None] = (),
        guesses: Sequence[tuple[int, float]] = (),
    ) -> Frame:
        """A frame from token ids, their states and, where known, probabilities and guesses, all (L,).

        Given special tokens (``<s>``, the closing ``</s>``, padding) are left out. The text ends
        at the first written ``</s>`` that is settled (any, when no mask is left) unless given text
        follows: what is written after it is hidden, while the masks there stay visible, since they
        are still worked on and a sampler that re-masks may yet move the end.
        """
        kept = [
            (token, state, sure, guess)
            for token, state, sure, guess in zip_longest(ids, states, confidence, guesses)
            if not (state is State.GIVEN and token in self.hidden)
        ]
        states = [state for _, state, *_ in kept]
        confidence = [sure for *_, sure, _ in kept] if confidence else []
        told = [
            (self._guess(guess[0]), guess[1]) if state.open else None
            for _, state, _, guess in kept
            if guesses
        ]
        last_given = max((i for i, s in enumerate(states) if s is State.GIVEN), default=-1)
        final = (State.SETTLED,) if any(s.pending for s in states) else _WRITTEN
        ends = [
            i
            for i, (token, state, *_) in enumerate(kept)
            if token in self.ends and state in _WRITTEN
        ]
        cut = next((i for i in ends if states[i] in final and i > last_given), len(kept))
        chunks = [
            None
            if state.open
            else b""
            if i >= cut or token in self.hidden
            else self.bytes_of(token)
            for i, (token, state, *_) in enumerate(kept)
        ]
        ends = [i for i in ends if i <= cut]
        return Frame(
            _decode(chunks), states, index, total, nfe, seconds, ends, confidence, slots, told
        )

    def _guess(self, token: int) -> str:
        return END_MARK if token in self.ends else self.bytes_of(token).decode("utf-8", "replace")

    def bytes_of(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token adds to the text; they need not be whole characters."""
        if token_id not in self._bytes:
            self._bytes[token_id] = self._look_up(token_id)
        return self._bytes[token_id]

    def _look_up(self, token_id: int) -> bytes:
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        if token is None:  # an id of the model beyond the tokenizer's vocabulary
            return "\N{REPLACEMENT CHARACTER}".encode()
        if self.kind == "ByteLevel" and all(char in _BYTE_OF for char in token):
            return bytes(_BYTE_OF[char] for char in token)
        if self.kind == "WordPiece":
            return (token[2:] if token.startswith("##") else " " + token).encode()
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", token):  # SentencePiece's byte fallback
            return bytes.fromhex(byte[1])
        return token.replace("▁", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE: the printable Latin-1 characters stand for themselves,
    the other bytes, in order, for the characters from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_CONTINUATION = bytes(range(0x80, 0xC0))


def _decode(chunks: list[bytes | None]) -> list[str]:
    """The string of each position; None is a mask.

    A character appears where its last byte stands. Bytes that cannot become a character show as
    the replacement character; those beside a mask may still become one and show as nothing.
    """
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
