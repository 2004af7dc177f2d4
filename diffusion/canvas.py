"""What goes round in the loop: the canvas, what a denoiser is asked of it, and each step's outcome."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.noise import Absorbing


@dataclass(frozen=True)
class Allowed:
    """Which tokens a position may hold, where the text round it decides that.

    Attributes:
        kinds: (B, L) int64, a row of ``tokens`` for each position; 0 stands for any token.
        tokens: (K, V) bool, the tokens that each kind allows; row 0 is not read.
    """

    kinds: Tensor
    tokens: Tensor

    def __call__(self, logits: Tensor, asked: Tensor) -> Tensor:
        """The logits (N, V) of the N positions ``asked`` (B, L), -inf where not allowed."""
        kinds = self.kinds[asked]
        some = kinds > 0
        logits[some] = logits[some].masked_fill(~self.tokens[kinds[some]], -torch.inf)
        return logits

    def take(self, rows) -> "Allowed":
        return Allowed(self.kinds[rows], self.tokens)

    def at(self, columns: slice) -> "Allowed":
        return Allowed(self.kinds[:, columns], self.tokens)

    def to(self, device: torch.device) -> "Allowed":
        return Allowed(self.kinds.to(device), self.tokens.to(device))


@dataclass(frozen=True)
class Canvas:
    """A batch of texts to be completed.

    Attributes:
        ids: (B, L) int64; positions to be written hold the mask id.
        frozen: (B, L) bool; given text, specials and padding, which never change.
        padding: (B, L) bool; positions that do not exist for the row.
        allowed: what may be written where, None when that is the model's choice alone.
    """

    ids: Tensor
    frozen: Tensor
    padding: Tensor
    allowed: Allowed | None = None

    @property
    def left_to_right(self) -> bool:
        """Whether all there is to write stands behind all that is given, in every row, and is the
        model's choice alone."""
        there = ~self.padding
        editable = there & ~self.frozen
        behind = (editable.cumsum(1) > 0) & there & ~editable
        return self.allowed is None and not behind.any()

    def take(self, rows) -> "Canvas":
        """Some rows, as a slice or a list of numbers."""
        allowed = None if self.allowed is None else self.allowed.take(rows)
        return Canvas(self.ids[rows], self.frozen[rows], self.padding[rows], allowed)

    def to(self, device: torch.device) -> "Canvas":
        allowed = None if self.allowed is None else self.allowed.to(device)
        return Canvas(self.ids.to(device), self.frozen.to(device), self.padding.to(device), allowed)


@dataclass
class Feedback:
    """What masks remember of earlier predictions, see `models.soft`. The first dimensions are (B, L)
    or, for some positions alone, (N,).

    Attributes:
        ids: (..., k) tokens.
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
        """No memory: masks that are masks."""
        weights = torch.zeros(rows, length, k + 1, device=device)
        weights[..., 0] = 1
        ids = torch.zeros(rows, length, k, dtype=torch.int64, device=device)
        return cls(ids, weights, spherical)

    def take(self, index) -> "Feedback":
        return Feedback(self.ids[index], self.weights[index], self.spherical)

    def replaced(self, where: Tensor, by: "Feedback") -> "Feedback":
        """The same with others (N,) at the N positions ``where`` (B, L)."""
        where = where[..., None]
        ids = self.ids.masked_scatter(where, by.ids)
        return Feedback(ids, self.weights.masked_scatter(where, by.weights), by.spherical)

    def gathered(self, place: Tensor, fresh: Tensor) -> "Feedback":
        """That of slots (B, S) which show the positions ``place``; ``fresh`` (B, S): without any."""
        ids = self.ids.gather(1, place[..., None].expand(*place.shape, self.ids.shape[-1]))
        weights = self.weights.gather(1, place[..., None].expand(*place.shape, ids.shape[-1] + 1))
        plain = torch.zeros_like(weights)
        plain[..., 0] = 1
        return Feedback(ids, torch.where(fresh[..., None], plain, weights), self.spherical)

    def put(self, rows, by: "Feedback") -> None:
        """Set some rows."""
        self.ids[rows], self.weights[rows] = by.ids, by.weights


@dataclass(frozen=True)
class Question:
    """What a denoiser is asked in one step. Rows of the canvas of which nothing is wanted are left
    out: they cost nothing.

    Attributes:
        ids: (B, L) int64 as far as they are written.
        asked: (B, L) bool, the N positions whose prediction is wanted.
        rows: (B,) int64, which rows these are of the canvas that the denoiser was started with, so
            that it can keep state for each; None: all, in order.
        padding: (B, L) bool, positions that do not exist; None: there are none.
        shadows: (B, L) bool, visible positions among ``asked`` that are predicted by a copy which
            does not see the token there, see `Backbone.shadowed`; None: there are none.
        feedback: (B, L) what the masks remember; None: nothing.
        touched: (B, L) bool, positions that were written or masked again since the last question about
            their row; None: none.
    """

    ids: Tensor
    asked: Tensor
    rows: Tensor | None = None
    padding: Tensor | None = None
    shadows: Tensor | None = None
    feedback: Feedback | None = None
    touched: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """The canvas after one step. All tensors belong to the reader."""

    index: int  # 0 is the canvas before the first forward pass
    total: int | None  # planned steps, None when the sampler decides as it goes
    nfe: Tensor  # (B,) forward passes spent so far on each row
    ids: Tensor  # (B, L) token ids; masked positions hold the mask id
    frozen: Tensor  # (B, L) bool: given text, specials, padding; never written
    padding: Tensor  # (B, L) bool: positions that do not exist, or not any more: the text has ended
    masked: Tensor  # (B, L) bool: still to be written
    revealed: Tensor  # (B, L) bool: written in this step
    remasked: Tensor  # (B, L) bool: opened again in this step
    confidence: Tensor  # (B, L) float: probability of the token when it was written, nan elsewhere
    seconds: float  # measured time in model and sampler so far; what readers do is not in it
    slots: Tensor  # (B,) slots of the model computed so far for each row, see `models.denoiser`
    # (B, L) each: the token that a mask remembers first, and how strongly, from 0 to 1.
    guesses: tuple[Tensor, Tensor] | None = None
    random: Tensor | None = None  # (B, L) bool: visible tokens that are noise; None: there are none
    replaced: Tensor | None = None  # (B, L) bool: written in this step, in place of another token


def encode(tokenizer, text: str) -> list[int]:
    """Token ids of a text, nothing added; ``<mask>`` or ``</s>`` typed by a user stays text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


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
            wish = f"{length} new tokens" if length else "one new token"
            short = prompt if len(prompt) <= 40 else prompt[:37] + "..."
            raise UserError(
                f"the prompt {short!r} has {len(ids) - 1} tokens, and with {wish} needs {needed} "
                f"of {max_len} positions; shorten it, or change --max_len or --length"
            )
    return given


def prompt_canvas(tokenizer, prompts: list[str], max_len: int, length: int | None = None) -> Canvas:
    """``<s>``, each prompt whole and unchanged, then masks.

    Args:
        prompts: an empty prompt writes from nothing.
        max_len: positions of each row, or with ``length`` the most there may be.
        length: exactly so many masks after each prompt; shorter rows are padded on the right.

    Raises:
        UserError: a prompt leaves no room.
    """
    given = prompt_ids(tokenizer, prompts, max_len, length)
    total = max_len if length is None else max(map(len, given)) + length
    ids = torch.zeros(len(given), total, dtype=torch.int64)
    frozen = torch.zeros(ids.shape, dtype=torch.bool)
    padding = torch.zeros(ids.shape, dtype=torch.bool)
    for row, prefix in enumerate(given):
        ids[row, : len(prefix)] = torch.tensor(prefix)
        frozen[row, : len(prefix)] = True
        if length is not None:
            padding[row, len(prefix) + length :] = True
    ids[padding] = padding_id(tokenizer)
    ids = Absorbing.of(tokenizer).corrupt(ids, ~frozen & ~padding)
    return Canvas(ids, frozen | padding, padding)


def padding_id(tokenizer) -> int:
    """What stands at positions that do not exist; any id will do."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0


def written_ids(step: Step, row: int) -> list[int]:
    """The ids of one row of a `Step`, without padding."""
    return step.ids[row][~step.padding[row]].tolist()


def written_text(tokenizer, step: Step, row: int, stop: bool = True) -> str:
    """The text of one row of a `Step` without specials, given part included.

    Args:
        stop: leave out what follows the first ``</s>`` that was written.
    """
    kept = written_ids(step, row)[1:]
    frozen = step.frozen[row][~step.padding[row]].tolist()[1:]
    if stop:
        for i, (token, given) in enumerate(zip(kept, frozen, strict=True)):
            if token == tokenizer.eos_token_id and not given:
                kept = kept[:i]
                break
    # Clean-up would change the spaces of the given text.
    return tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
