"""What the loop works on: the canvas, the queries to a denoiser, and the outcome of each step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.noise import Absorbing
from diffusion.text import Speller, Typed, encode, typed_from


@dataclass(frozen=True)
class Allowed:
    """Which tokens a position may hold, where the text around it decides that.

    Attributes:
        kinds: (B, L) int64, a row of ``tokens`` for each position; 0 stands for any token.
        tokens: (K, V) bool, the tokens that each kind allows; row 0 is not read.
        in_order: whether these rules also apply to text that is written from left to right.
    """

    kinds: Tensor
    tokens: Tensor
    in_order: bool = False

    def __call__(self, logits: Tensor, query_mask: Tensor) -> Tensor:
        """The logits (N, V), -inf where not allowed, of the N positions ``query_mask``: (B, L) bool,
        or another index of rows and positions."""
        kinds = self.kinds[query_mask].flatten()
        some = kinds > 0
        tokens = self.tokens[kinds[some]]
        known = logits[some]
        known[:, : tokens.shape[1]].masked_fill_(~tokens, -torch.inf)
        logits[some] = known
        return logits

    def __getitem__(self, index) -> "Allowed":
        return replace(self, kinds=self.kinds[index])

    def to(self, device: torch.device) -> "Allowed":
        return replace(self, kinds=self.kinds.to(device), tokens=self.tokens.to(device))


@dataclass(frozen=True)
class Canvas:
    """A batch of texts to be completed.

    Attributes:
        ids: (B, L) int64; positions to be written hold the mask id.
        frozen: (B, L) bool; fixed text, specials and padding, which never change.
        padding: (B, L) bool; positions that do not exist for the row.
        allowed: what may be written where, None when that is the model's choice alone.
        typed: B records of what the user gave as it was typed; (): the tokens spell it.
    """

    ids: Tensor
    frozen: Tensor
    padding: Tensor
    allowed: Allowed | None = None
    typed: Sequence[Typed] = ()

    @property
    def left_to_right(self) -> bool:
        """Whether all there is to write comes after all fixed text, and rules allow for that."""
        there = ~self.padding
        editable = there & ~self.frozen
        after = (editable.cumsum(1) > 0) & there & ~editable
        return (self.allowed is None or self.allowed.in_order) and not after.any()

    def take(self, rows: slice | list[int]) -> "Canvas":
        numbers = range(len(self.typed))[rows] if isinstance(rows, slice) else rows
        typed = [self.typed[i] for i in numbers] if self.typed else ()
        allowed = self.allowed and self.allowed[rows]
        return Canvas(self.ids[rows], self.frozen[rows], self.padding[rows], allowed, typed)

    def to(self, device: torch.device) -> "Canvas":
        ids, frozen, padding = (t.to(device) for t in (self.ids, self.frozen, self.padding))
        return Canvas(ids, frozen, padding, self.allowed and self.allowed.to(device), self.typed)


@dataclass
class Feedback:
    """What masks remember of earlier predictions, see `models.soft`.

    Attributes:
        ids: (B, L, k) tokens, or (N, k) of some positions.
        weights: (..., k + 1), of the mask itself and of the tokens.
        spherical: how they are mixed.
    """

    ids: Tensor
    weights: Tensor
    spherical: bool = False

    @classmethod
    def plain(
        cls, rows: int, length: int, k: int, device: torch.device, spherical: bool = False
    ) -> "Feedback":
        """Masks without memory."""
        weights = torch.eye(1, k + 1, device=device).repeat(rows, length, 1)
        ids = torch.zeros(rows, length, k, dtype=torch.int64, device=device)
        return cls(ids, weights, spherical)

    def take(self, index) -> "Feedback":
        return Feedback(self.ids[index], self.weights[index], self.spherical)

    def replaced(self, where: Tensor, by: "Feedback") -> "Feedback":
        """With others (N,) at the N positions ``where`` (B, L)."""
        where = where[..., None]
        ids = self.ids.masked_scatter(where, by.ids)
        return Feedback(ids, self.weights.masked_scatter(where, by.weights), by.spherical)

    def gathered(self, place: Tensor, fresh: Tensor) -> "Feedback":
        """That of slots (B, S) which show the positions ``place``; ``fresh`` (B, S): without any."""
        ids = self.ids.gather(1, place[..., None].expand(*place.shape, self.ids.shape[-1]))
        weights = self.weights.gather(1, place[..., None].expand(*place.shape, ids.shape[-1] + 1))
        plain = torch.eye(1, weights.shape[-1], dtype=weights.dtype, device=weights.device)
        return Feedback(ids, torch.where(fresh[..., None], plain, weights), self.spherical)

    def put(self, rows, by: "Feedback") -> None:
        self.ids[rows], self.weights[rows] = by.ids, by.weights


@dataclass(frozen=True)
class Query:
    """What a denoiser predicts in one step, of the B rows of a canvas with queried positions."""

    ids: Tensor  # (B, L) int64 as far as they are written
    query_mask: Tensor  # (B, L) bool, the N positions that are predicted
    rows: Tensor | None = None  # (B,) int64, their numbers in the canvas; None: all, in order
    padding: Tensor | None = None  # (B, L) bool, positions that do not exist
    # (B, L) bool, visible queried positions, predicted without the token there (`Backbone.shadowed`).
    shadows: Tensor | None = None
    feedback: Feedback | None = None  # (B, L) what the masks remember
    # Of Gaussian noise: (B, L, d) the vectors at the queried positions, and (B, 1 or L) their times.
    vectors: Tensor | None = None
    time: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """The canvas after one step; the tensors are copies."""

    index: int  # 0 is the canvas before the first forward pass
    total: int | None  # planned steps, None when the sampler decides as it goes
    nfe: Tensor  # (B,) forward passes spent so far on each row
    ids: Tensor  # (B, L) token ids; masked positions hold the mask id
    frozen: Tensor  # (B, L) bool: fixed text, specials, padding; never written
    padding: Tensor  # (B, L) bool: positions that do not exist, or not any more: the text has ended
    masked: Tensor  # (B, L) bool: still to be written
    revealed: Tensor  # (B, L) bool: written in this step
    remasked: Tensor  # (B, L) bool: masked again in this step
    confidence: Tensor  # (B, L) float: probability of the token when it was written, nan elsewhere
    seconds: float  # measured time in model and sampler so far; what readers do is not in it
    slots: Tensor  # (B,) slots of the model computed so far for each row, see `models.denoiser`
    random: Tensor | None = None  # (B, L) bool: visible tokens that are noise; None: there are none
    replaced: Tensor | None = None  # (B, L) bool: written in this step over another token
    typed: Sequence[Typed] = ()  # see `Canvas`


def prompt_ids(
    tokenizer, prompts: list[str], max_len: int, length: int | None = None
) -> list[list[int]]:
    """``<s>`` (GPT-2: ``<|endoftext|>``) and the ids of each prompt, whole and unchanged.

    Raises:
        UserError: a prompt leaves no room for ``length`` (default: one) new tokens in ``max_len``.
    """
    given = [[tokenizer.bos_token_id, *encode(tokenizer, prompt)] for prompt in prompts]
    for prompt, ids in zip(prompts, given, strict=True):
        needed = len(ids) + (length or 1)
        if needed > max_len:
            short = prompt if len(prompt) <= 40 else prompt[:37] + "..."
            raise UserError(
                f"the prompt {short!r} has {len(ids) - 1} tokens, and with {length or 1} more needs "
                f"{needed} of {max_len} positions; shorten it, or change --max_len or --length"
            )
    return given


def prompt_canvas(tokenizer, prompts: list[str], max_len: int, length: int | None = None) -> Canvas:
    """``<s>``, each prompt whole and unchanged, then masks.

    Args:
        max_len: positions of each row, or with ``length`` the most there may be.
        length: exactly so many masks after each prompt; shorter rows are padded on the right.

    Raises:
        UserError: a prompt leaves no room.
    """
    given = prompt_ids(tokenizer, prompts, max_len, length)
    total = max_len if length is None else max(map(len, given)) + length
    ids = torch.zeros(len(given), total, dtype=torch.int64)
    frozen, padding = torch.zeros(2, *ids.shape, dtype=torch.bool)
    kinds, speller = torch.zeros_like(ids), Speller(tokenizer)
    for row, (prompt, prefix) in enumerate(zip(prompts, given, strict=True)):
        ids[row, : len(prefix)] = torch.tensor(prefix)
        frozen[row, : len(prefix)] = True
        kinds[row, len(prefix)] = speller.awaits_word(prompt, prefix[1:])
        if length is not None:
            padding[row, len(prefix) + length :] = True
    ids[padding] = padding_id(tokenizer)
    ids = Absorbing.of(tokenizer).corrupt(ids, ~frozen & ~padding)
    allowed = None
    if kinds.any():
        words = torch.tensor(speller.beginnings())
        words[tokenizer.eos_token_id] = True
        allowed = Allowed(kinds, words.expand(2, -1), in_order=True)
    typed = [typed_from(speller, prompt) for prompt in prompts]
    return Canvas(ids, frozen | padding, padding, allowed, typed)


def padding_id(tokenizer) -> int:
    """What stands at positions that do not exist; any id will do."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0


def written_ids(step: Step, row: int) -> list[int]:
    """The ids of one row of a `Step`, without padding."""
    return step.ids[row][~step.padding[row]].tolist()
