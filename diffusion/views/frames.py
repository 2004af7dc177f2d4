"""Steps -> Frames: what a view shows of one row at one moment, as plain strings.

A `Frame` holds no tensor and no tokenizer, so the terminal, the animation and a replayed file all
show the same thing. Entry i of ``pieces`` and ``states`` is the same canvas position in every frame
of a generation; an autoregressive model gives frames that grow by a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import TYPE_CHECKING

from diffusion.errors import printable
from diffusion.text import NOTHING, Slot, Speller

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from diffusion.canvas import Step


END_MARK = "∎"  # drawn where a written </s> ends the text
DOUBTS = (0.3, 0.1, 0.02)  # the tint of a written token counts the bounds it falls below


class State(StrEnum):
    """What happened to a position."""

    GIVEN = "given"
    MASKED = "masked"
    FRESH = "fresh"  # written in this step
    SETTLED = "settled"
    REMASKED = "remasked"  # masked again in this step
    REPLACED = "replaced"  # written in this step, replacing another token
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

# How every view draws a position: by its state, or by the tint of a settled token (1 to 3: lower and
# lower confidence).
KINDS = (*State, "doubt1", "doubt2", "doubt3")
LEGEND = {
    State.GIVEN: "prompt",
    State.SETTLED: "written before",
    State.FRESH: "written now",
    State.REPLACED: "replaced now",
    State.MASKED: "mask",
    State.REMASKED: "re-masked",
    State.NOISE: "random token",
    "doubt2": "low confidence",
    "end": f"{END_MARK} end",
}


@dataclass(frozen=True)
class Frame:
    """One row of one step.

    Attributes:
        pieces: the text at each position, "" where it is masked or has nothing to show: the first
            bytes of a character whose last byte stands further on, or text after the end.
        states: the state of each position.
        nfe: forward passes so far; ``slots`` counts the positions they computed.
        seconds: time spent in model and sampler so far.
        ends: positions of written ``</s>``.
        confidence: the probability of each token when it was written, or None; empty: unknown.
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

    @property
    def text(self) -> str:
        """The text as far as it is written."""
        return "".join(self.pieces)

    def added(self, most: int | None = None) -> str:
        """What is written of it, at the first ``most`` positions that are not given."""
        new = [i for i, state in enumerate(self.states) if state is not State.GIVEN]
        return "".join(self.pieces[i] for i in new[:most])

    @property
    def written(self) -> int:
        """Positions that were written, and are not open again."""
        return sum(state in _WRITTEN for state in self.states)

    def shown(self, position: int) -> str:
        """The string to draw at a position, "" for a mask, with control characters escaped."""
        return END_MARK if position in self.ends else printable(self.pieces[position])

    def kind(self, position: int) -> str:
        """How a position is drawn, one of `KINDS`."""
        state = self.states[position]
        known = self.confidence[position] if self.confidence and state is State.SETTLED else None
        doubt = 0 if known is None else sum(known < bound for bound in DOUBTS)
        return f"doubt{doubt}" if doubt else state

    def kinds(self) -> set[str]:
        """The entries of `LEGEND` that explain this frame."""
        kinds = {self.kind(i) for i in range(len(self.pieces))}
        entries = {kind[:-1] + "2" if kind[-1].isdigit() else kind for kind in kinds}
        return entries | ({"end"} if self.ends else set())


def legend(kinds: set[str]) -> Iterator[tuple[str, str]]:
    """(kind, label) of those that occur, in the order of `LEGEND`."""
    return ((kind, label) for kind, label in LEGEND.items() if kind in kinds)


def changes(rows: Sequence[Sequence[list]]) -> list[list[list]]:
    """Delta coding: for each row of cells the [position, *cell] that differ from the row before."""
    pairs = zip(rows, [[], *rows[:-1]], strict=True)
    return [
        [[i, *cell] for i, cell in enumerate(row) if i >= len(before) or before[i] != cell]
        for row, before in pairs
    ]


def status_line(frame: Frame) -> str:
    """Step, forward passes, measured seconds, masks and random tokens left, written tokens per second
    and per forward pass."""
    parts = [f"step {frame.index}" + (f"/{frame.total}" if frame.total is not None else "")]
    parts.append(f"NFE {frame.nfe}" + (f" ({frame.slots} slots)" if frame.slots else ""))
    parts.append(f"{frame.seconds:.2f} s")
    masks, noise = sum(state.open for state in frame.states), frame.states.count(State.NOISE)
    if masks or not noise:
        parts.append(_counted(masks, "mask"))
    if noise:
        parts.append(f"{noise} random")
    if frame.written and frame.seconds > 0 and frame.nfe:
        parts.append(f"{frame.written / frame.seconds:.0f} tokens/s")
        parts.append(f"{frame.written / frame.nfe:.1f} tokens/pass")
    return " · ".join(parts)


def token_line(frame: Frame, unit: str = "token") -> str:
    """The same for a model without masks, or to compare two models: seconds, what is written by then
    and how fast, forward passes, and tokens for each of them. With ``unit`` "character" texts of
    models with different tokenizers can be compared."""
    count = frame.written if unit == "token" else len(frame.added())
    parts = [f"{frame.seconds:.2f} s", _counted(count, unit)]
    if frame.seconds > 0:
        parts.append(f"{count / frame.seconds:.0f}/s")
    parts.append(_counted(frame.nfe, "pass"))
    if frame.nfe:
        parts.append(f"{frame.written / frame.nfe:.1f} tokens/pass")
    return " · ".join(parts)


def _counted(count: int, unit: str) -> str:
    plural = "es" if unit.endswith("s") else "s"
    return f"{count} {unit}" + ("" if count == 1 else plural)


def status_of(writer) -> Callable[[Frame], str]:
    """The line below the texts of a `Writer` or a `CausalWriter`."""
    return token_line if writer.autoregressive else status_line


class Framer:
    """Makes the frames of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.speller = Speller(tokenizer)
        self.ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
        # <unk> and a literal <mask> in given text are part of what the user wrote.
        typed = {tokenizer.unk_token_id, tokenizer.mask_token_id}
        self.hidden = set(tokenizer.all_special_ids) - typed

    def frame(self, step: Step, row: int = 0) -> Frame:
        """The frame of one row of a batched step, without padding.

        Given special tokens (``<s>``, the closing ``</s>``) are left out. The text ends at the first
        written ``</s>`` that is settled (any, when no mask is left) unless given text follows: what
        is written after it is hidden, while the masks there stay visible, since a sampler that
        re-masks may yet move the end.
        """
        typed = step.typed[row] if step.typed else NOTHING
        masks = {State.GIVEN: step.frozen, State.REMASKED: step.remasked, State.MASKED: step.masked,
                 State.NOISE: step.random, State.REPLACED: step.replaced,
                 State.FRESH: step.revealed}  # fmt: skip
        flags = {state: mask[row].tolist() for state, mask in masks.items() if mask is not None}
        ids = step.ids[row].tolist()
        places, states = [], []
        for place in (~step.padding[row]).nonzero()[:, 0].tolist():
            state = next((s for s, flag in flags.items() if flag[place]), State.SETTLED)
            hidden = ids[place] in self.hidden and place not in typed.pieces
            if not (state is State.GIVEN and hidden):
                places.append(place)
                states.append(state)

        last_given = max((i for i, s in enumerate(states) if s is State.GIVEN), default=-1)
        final = (State.SETTLED,) if any(s.pending for s in states) else _WRITTEN
        written = [i for i, state in enumerate(states) if state in _WRITTEN]
        ends = [i for i in written if ids[places[i]] in self.ends]
        cut = next((i for i in ends if states[i] in final and i > last_given), len(states))

        def slot(i: int, place: int) -> Slot:
            if states[i].open:
                return Slot()
            given = typed.pieces.get(place) if states[i] is State.GIVEN else None
            if i >= cut or ids[place] in self.hidden:
                return Slot(typed=given or "")
            return Slot(ids[place], given, typed.after.get(place, ""), place in typed.tight)

        known = step.confidence[row].tolist()
        pieces = self.speller.pieces([slot(i, place) for i, place in enumerate(places)])
        known = [None if known[p] != known[p] else round(known[p], 4) for p in places]
        ends = [i for i in ends if i <= cut]
        return Frame(pieces, states, step.index, step.total, int(step.nfe[row]),
                     float(step.seconds), ends, known, int(step.slots[row]))  # fmt: skip

    def spans(self, step: Step, row: int, columns: Sequence[tuple]) -> list[tuple[int, int]]:
        """Where in the text of a row that hides nothing but its first token the positions from a to b
        of each (a, b) stand, in characters."""
        typed = step.typed[row] if step.typed else NOTHING
        ends = list(accumulate(map(len, self.frame(step, row).pieces), initial=0))
        hidden = 0 not in typed.pieces
        return [
            (ends[a - hidden], ends[b - hidden] - len(typed.after.get(b - 1, "")))
            for a, b in columns
        ]


def written_text(tokenizer: PreTrainedTokenizerBase, step: Step, row: int) -> str:
    """The text of one row of a `Step`, as all views show it: the prompt as it was typed, and what is
    written up to the end."""
    return Framer(tokenizer).frame(step, row).text
