"""The baseline: a causal language model that writes one token after the other, with its key-value
cache, as the same stream of Steps that diffusion gives."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from diffusion import hardware, rng
from diffusion.canvas import Step, prompt_ids
from diffusion.cli.options import Access
from diffusion.errors import UserError
from diffusion.models import decoder, loading, tokenizers
from diffusion.models.families import max_length
from diffusion.options import SamplingOptions
from diffusion.proposal import Sampling
from diffusion.text import Speller, typed_from


@dataclass(frozen=True)
class CausalWriter:
    """A causal model that is ready to write; the counterpart of `generate.Writer`."""

    model: torch.nn.Module
    tokenizer: object
    name: str
    device: torch.device
    dtype: torch.dtype
    positions: int  # tokens the model can see at once
    own: dict  # options by name that they name as defaults
    soft: ClassVar = None
    autoregressive: ClassVar = True
    example = property(lambda self: loading.example(self.model.config))

    def check(self, options: SamplingOptions) -> None:
        options.check()
        options.check_room(self.positions, self.name)

    def resolve(self, options: SamplingOptions, left_to_right: bool = True) -> SamplingOptions:
        """The options with all that this model takes for granted filled in."""
        return options.fitted(self.positions).drawn(self.own)

    def method(self, options: SamplingOptions) -> str:
        """How it writes, for people."""
        return "token by token, cached"

    def notes(self, options: SamplingOptions) -> Iterator[str]:
        """Nothing to know before the first text."""
        return iter(())

    def far_prompt(self, prompts: Sequence[str]) -> str | None:
        """See `tokenizers.far_prompt`."""
        return tokenizers.far_prompt(self.tokenizer, self.model.config, self.name, prompts)

    def generate(
        self, prompts: Sequence[str], options: SamplingOptions, samples: Sequence[int]
    ) -> Iterator[Step]:
        """Write one text for each prompt, see `generate.Writer.generate`. The rows of a Step grow
        by one token a step; shorter prompts are padded on the left. The seconds are those of
        forward passes and sampling, without the reader's time."""
        options = self.resolve(options)
        self.check(options)
        tokenizer = self.tokenizer
        given = prompt_ids(tokenizer, prompts, options.max_len, options.length)
        width = max(map(len, given))
        speller = Speller(tokenizer)
        typed = [
            typed_from(speller, prompt, 1 + width - len(row))
            for prompt, row in zip(prompts, given, strict=True)
        ]
        keys = rng.row_keys(options.seed, samples, self.device)
        return self._steps(given, typed, options, self._drawing(options, keys))

    def _drawing(self, options: SamplingOptions, keys: Tensor) -> Callable:
        """``draw(step, ids (B, n), logits (B, V))`` gives the next tokens (B,)."""
        process = LogitsProcessorList()
        if options.repetition_penalty != 1:
            process.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        if options.no_repeat_ngram_size:
            process.append(NoRepeatNGramLogitsProcessor(options.no_repeat_ngram_size))
        forbidden = tokenizers.forbidden_ids(self.tokenizer, self.model.config.vocab_size)
        if options.length is not None:  # exactly so many tokens: the text may not end before
            forbidden.append(self.tokenizer.eos_token_id)
        forbidden = torch.tensor(forbidden, dtype=torch.int64, device=self.device)
        sampling = Sampling(options.temperature, options.top_k, options.top_p)

        def draw(step: int, ids: Tensor, logits: Tensor) -> Tensor:
            u = rng.uniform(rng.fold_in(rng.fold_in(keys, step), rng.TOKENS), 1)[:, 0]
            scores = process(ids, logits.float()).index_fill(1, forbidden, -torch.inf)
            return sampling.draw(scores, u)[0]

        return draw

    @torch.no_grad()
    def _steps(self, given, typed, options: SamplingOptions, draw: Callable) -> Iterator[Step]:
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        pad = end if pad is None else pad
        device, width = self.device, max(map(len, given))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in given], device=device)
        prompt = torch.tensor([len(row) for row in given], device=device)  # (B,)
        padding = torch.arange(width, device=device) < (width - prompt)[:, None]
        room = options.max_len - prompt  # (B,) for new tokens
        if options.length is not None:
            room = torch.full_like(room, options.length)
        total, frozen = int(room.max()), torch.ones_like(padding)
        going = torch.ones_like(room, dtype=torch.bool)  # rows still being written
        nfe, seconds = torch.zeros_like(room), 0.0

        def step(index: int, new: Tensor) -> Step:
            """``new`` (B, n): which of the last n columns were written in this step."""
            revealed = torch.zeros_like(frozen)
            revealed[:, frozen.shape[1] - new.shape[1] :] = new
            nothing = torch.zeros_like(frozen)
            # Not computed: it would take a pass over the vocabulary that sampling does not need.
            confidence = torch.full(ids.shape, torch.nan, device=device)
            return Step(
                index, total, nfe, ids, frozen, padding, nothing, revealed, nothing, confidence,
                seconds, torch.where(nfe > 0, prompt + nfe - 1, 0), typed=typed,
            )  # fmt: skip

        yield step(0, going.new_zeros(len(ids), 0))
        # All slots of rows that have ended or wait for shorter prompts are computed, and not read.
        real, read = ~padding, decoder.reader(self.model, len(ids), width + total)
        for index in range(1, total + 1):
            started = hardware.now(device)
            # Rows that are full would count beyond the last position.
            place = (real.cumsum(1) - 1).clamp(0, self.positions - 1)
            new = slice(None) if index == 1 else slice(-1, None)
            tokens = draw(index, ids, read(ids[:, new], place[:, new], real))
            seconds += hardware.now(device) - started
            # What is drawn after the end of a row does not exist.
            ids = torch.cat([ids, torch.where(going, tokens, pad)[:, None]], 1)
            padding = torch.cat([padding, ~going[:, None]], 1)
            frozen = torch.cat([frozen, ~going[:, None]], 1)
            real = torch.cat([real, torch.ones_like(real[:, :1])], 1)
            nfe = nfe + going
            yield step(index, going[:, None])
            going = going & (ids[:, -1] != end) & (nfe < room)
            if not going.any():
                break


def load_causal_writer(
    model_name: str,
    tokenizer_name: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    access: Access = loading.PLAIN,
) -> CausalWriter:
    """Load an autoregressive model for generation; `UserError` as `loading.load_causal_lm`."""
    how = tokenizer_name, device, dtype, access
    model, tokenizer = tokenizers.load_with_model(model_name, *how, causal=True)
    if decoder.cache_name(model) is None:
        kind = model.config.model_type
        raise UserError(f"{model_name}: models of type {kind} keep no keys and values; use another")
    own = SamplingOptions.own_defaults(loading.diffusion_settings(model.config), model_name)
    size = max_length(model.config)
    return CausalWriter(model, tokenizer, model_name, model.device, model.dtype, size, own)
