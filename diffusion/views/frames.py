"""Steps -> Frames: what a view shows of one row at one moment, as plain strings.

A `Frame` knows no tensor and no tokenizer, so the terminal, the animation and a file that is
replayed later all show the same thing. Entry i of ``pieces`` and ``states`` is the same canvas
position in every frame of a generation; an autoregressive model gives frames that grow by a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING

from diffusion.errors import printable
from diffusion.text.reading import NOTHING, Typed
from diffusion.text.spelling import Slot, Speller

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diffusion.canvas import Step


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

    def added(self, most: int | None = None) -> str:
        """What is written of it, at the first ``most`` positions that are not given."""
        both = zip(self.pieces, self.states, strict=True)
        return "".join([piece for piece, state in both if state is not State.GIVEN][:most])

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


def status_of(writer) -> Callable[..., str]:
    """The line below the texts of a `Writer` or a `CausalWriter`."""
    return token_line if writer.autoregressive else status_line


def _cost(frame: Frame) -> list[str]:
    slots = f" ({frame.slots} slots)" if frame.slots else ""
    return [f"NFE {frame.nfe}{slots}", f"{frame.seconds:.2f} s"]


def _speed(frame: Frame) -> list[str]:
    if not (frame.written and frame.seconds > 0 and frame.nfe):
        return []
    rate, each = frame.written / frame.seconds, frame.written / frame.nfe
    return [f"{rate:.0f} tokens/s", f"{each:.1f} a pass"]


class Framer:
    """Makes the frames of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.speller = Speller(tokenizer)
        self.ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
        # <unk> and a literal <mask> in given text are part of what the user wrote.
        self.hidden = set(tokenizer.all_special_ids) - {
            tokenizer.unk_token_id,
            tokenizer.mask_token_id,
        }

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
            typed=step.typed[row] if step.typed else NOTHING,
            places=there.nonzero()[:, 0].tolist(),
        )

    def spans(
        self, step: Step, row: int, columns: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """Where in the text of a row that has nothing to hide but its first token the positions
        from a to b of each (a, b) stand, in characters."""
        typed = step.typed[row] if step.typed else NOTHING
        ends = list(accumulate(map(len, self.frame(step, row).pieces), initial=0))
        hidden = 0 not in typed.pieces
        return [
            (ends[a - hidden], ends[b - hidden] - len(typed.after.get(b - 1, "")))
            for a, b in columns
        ]

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
        typed: Typed = NOTHING,
        places: Sequence[int] | None = None,
    ) -> Frame:
        """A frame from token ids, their states and, where known, probabilities and guesses, all (L,).

        Given special tokens (``<s>``, the closing ``</s>``, padding) are left out. The text ends
        at the first written ``</s>`` that is settled (any, when no mask is left) unless given text
        follows: what is written after it is hidden, while the masks there stay visible, since they
        are still worked on and a sampler that re-masks may yet move the end.

        Args:
            typed: what the user gave, by the position on the canvas.
            places: (L,) positions on the canvas; None: the first ones.
        """
        places = range(len(ids)) if places is None else places
        kept = [
            (token, state, place, sure, guess)
            for token, state, place, sure, guess in zip_longest(
                ids, states, places, confidence, guesses
            )
            if not (state is State.GIVEN and token in self.hidden and place not in typed.pieces)
        ]
        states = [state for _, state, *_ in kept]
        confidence = [sure for *_, sure, _ in kept] if confidence else []
        told = [
            (self._guess(guess[0]), guess[1]) if state.open else None
            for _, state, *_, guess in kept
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

        def slot(i: int, token: int, state: State, place: int) -> Slot:
            if state.open:
                return Slot()
            given = typed.pieces.get(place) if state is State.GIVEN else None
            if i >= cut or token in self.hidden:
                return Slot(typed=given or "")
            return Slot(token, given, typed.after.get(place, ""), place in typed.tight)

        pieces = self.speller.pieces([slot(i, *part[:3]) for i, part in enumerate(kept)])
        ends = [i for i in ends if i <= cut]
        return Frame(pieces, states, index, total, nfe, seconds, ends, confidence, slots, told)

    def _guess(self, token: int) -> str:
        if token in self.ends:
            return END_MARK
        return self.speller.bytes_of(token).decode("utf-8", "replace")


def written_text(tokenizer: PreTrainedTokenizerBase, step: Step, row: int) -> str:
    """The text of one row of a `Step`, as all views show it: what was given as it was typed, and
    what is written up to the end."""
    return Framer(tokenizer).frame(step, row).text
