"""The baseline: a causal language model that writes through transformers' `generate`, with its
key-value cache, as the same stream of Steps that diffusion gives."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from diffusion import hardware, rng
from diffusion.canvas import Step, prompt_ids
from diffusion.cli.access import Access
from diffusion.models import loading, tokenizers
from diffusion.models.families import max_length
from diffusion.options import SamplingOptions
from diffusion.proposal import Sampling
from diffusion.text.reading import typed_from
from diffusion.text.spelling import Speller


class _Clock:
    """Seconds that have passed while it ran."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, 0.0
        self._since: float | None = None

    def start(self) -> None:
        if self._since is None:
            self._since = hardware.now(self.device)

    def stop(self) -> None:
        self.seconds += hardware.now(self.device) - self._since
        self._since = None


class _Draw(LogitsProcessor):
    """Leaves `generate` one token to take: the one that `Sampling` draws. What temperature, top-k
    and top-p mean is so decided in one place for both kinds of models, and a text depends on its
    own random key (B,) alone.

    ``take`` gets the tokens (B,) and the seconds so far, with the clock stopped meanwhile.
    """

    def __init__(
        self, sampling: Sampling, keys: Tensor, forbidden: Tensor, clock: _Clock, take: Callable
    ):
        self.sampling, self.keys, self.forbidden = sampling, keys, forbidden
        self.clock, self.take = clock, take
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.step += 1
        u = rng.uniform(rng.fold_in(rng.fold_in(self.keys, self.step), rng.TOKENS), 1)[:, 0]
        allowed = scores.index_fill(1, self.forbidden, -torch.inf)
        token, _ = self.sampling.draw(allowed, u)
        chosen = torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)
        self.clock.stop()
        self.take(token, self.clock.seconds)
        self.clock.start()
        return chosen


class _RowsFull(StoppingCriteria):
    """Ends each row when it has as many tokens as it may, whatever the padding in front of it."""

    def __init__(self, longest: Tensor):
        self.longest = longest  # (B,) columns, padding included

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
        return input_ids.shape[1] >= self.longest


class _Closed(Exception):
    """Nobody reads any more."""


def handed_over(work: Callable[[Callable], None]) -> Iterator[tuple]:
    """What ``work(take)`` gives to ``take(*item)``, item by item. ``work`` runs in a thread and
    waits inside ``take`` until its reader wants the next item; closing the iterator ends it."""
    out: queue.Queue = queue.Queue()
    requested = threading.Semaphore(0)
    closed = threading.Event()

    def take(*item) -> None:
        out.put(item)
        requested.acquire()
        if closed.is_set():
            raise _Closed

    def run() -> None:
        try:
            work(take)
            out.put(None)
        except _Closed:
            pass
        except BaseException as error:
            out.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (item := out.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            requested.release()
    finally:
        closed.set()
        requested.release()
        thread.join()


@dataclass(frozen=True)
class CausalWriter:
    """A causal model that is ready to write; the counterpart of `generate.Writer`."""

    model: torch.nn.Module
    tokenizer: object
    name: str
    device: torch.device
    dtype: torch.dtype
    positions: int  # tokens the model can see at once
    soft: ClassVar = None
    autoregressive: ClassVar = True

    def check(self, options: SamplingOptions) -> None:
        options.check()
        options.check_room(self.positions, self.name)

    def resolve(self, options: SamplingOptions, left_to_right: bool = True) -> SamplingOptions:
        """The options for as many tokens as the model has room for."""
        return options.fitted(self.positions)

    def method(self, options: SamplingOptions) -> str:
        """How it writes, for people."""
        return "token by token, cached"

    def notes(self, options: SamplingOptions) -> Iterator[str]:
        """Nothing to know before the first text."""
        return iter(())

    def generate(
        self, prompts: Sequence[str], options: SamplingOptions, samples: Sequence[int]
    ) -> Iterator[Step]:
        """Write one text for each prompt, see `generate.Writer.generate`. The rows of a Step grow
        by one token a step; shorter prompts are padded on the left.

        The seconds are those of forward passes, sampling and the bookkeeping of `generate` between
        them; what it prepares before the first pass is not in them, and neither is the reader's
        time. The model works in a thread of its own, which a busy machine may leave waiting: for
        measuring there is `record`.
        """
        start, work = self._prepare(prompts, options, samples)
        return self._steps(*start, handed_over(work))

    def record(
        self, prompts: Sequence[str], options: SamplingOptions, samples: Sequence[int]
    ) -> list[Step]:
        """All the Steps of `generate`, measured without a reader in between."""
        taken = []
        start, work = self._prepare(prompts, options, samples)
        work(lambda *item: taken.append(item))
        return list(self._steps(*start, iter(taken)))

    def _prepare(self, prompts, options, samples) -> tuple[tuple, Callable]:
        """((ids (B, P), padding (B, P), room (B,) for new tokens, id of padding, what was typed),
        the work)."""
        options = self.resolve(options)
        self.check(options)
        tokenizer, device = self.tokenizer, self.device
        given = prompt_ids(tokenizer, prompts, options.max_len, options.length)
        width = max(map(len, given))
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in given], device=device)
        left = torch.tensor([width - len(row) for row in given], device=device)
        padding = torch.arange(width, device=device) < left[:, None]
        speller = Speller(tokenizer)
        typed = [
            typed_from(speller, prompt, 1 + width - len(row))
            for prompt, row in zip(prompts, given, strict=True)
        ]
        room = options.max_len - (width - left)
        room = room if options.length is None else torch.full_like(room, options.length)
        forbidden = tokenizers.forbidden_ids(tokenizer, self.model.config.vocab_size)
        if options.length is not None:  # exactly so many tokens: the text may not end before
            forbidden.append(tokenizer.eos_token_id)
        forbidden = torch.tensor(forbidden, dtype=torch.int64, device=device)
        sampling = Sampling(options.temperature, options.top_k, options.top_p)
        keys = rng.row_keys(options.seed, samples, device)
        clock = _Clock(device)

        def before_forward(model, args, kwargs) -> None:
            clock.start()  # does nothing but before the first one
            if kwargs.get("position_ids") is not None:
                # Rows that are full wait for shorter prompts, and would count beyond the last one.
                kwargs["position_ids"] = kwargs["position_ids"].clamp(max=self.positions - 1)
            return args, kwargs

        def work(take: Callable) -> None:
            hook = self.model.register_forward_pre_hook(before_forward, with_kwargs=True)
            try:
                self.model.generate(
                    ids,
                    attention_mask=(~padding).long(),
                    generation_config=GenerationConfig(
                        max_new_tokens=int(room.max()),
                        do_sample=False,  # `_Draw` has drawn
                        use_cache=True,
                        repetition_penalty=options.repetition_penalty,
                        no_repeat_ngram_size=options.no_repeat_ngram_size,
                        eos_token_id=tokenizer.eos_token_id,
                        pad_token_id=pad,
                    ),
                    logits_processor=[_Draw(sampling, keys, forbidden, clock, take)],
                    stopping_criteria=[_RowsFull(width + room)],
                )
            finally:
                hook.remove()

        return (ids, padding, room, pad, typed), work

    def _steps(self, ids, padding, room, pad, typed, taken: Iterator[tuple]) -> Iterator[Step]:
        batch, total = len(ids), int(room.max())
        frozen, end = torch.ones_like(padding), self.tokenizer.eos_token_id
        going = torch.ones(batch, dtype=torch.bool, device=ids.device)  # rows still being written
        nfe = torch.zeros(batch, dtype=torch.int64, device=ids.device)
        prompt = (~padding).sum(1)  # slots of the first pass; then one each

        def step(index: int, new: Tensor, seconds: float) -> Step:
            """``new`` (B, n): which of the last n columns were written in this step."""
            revealed = torch.zeros_like(frozen)
            revealed[:, frozen.shape[1] - new.shape[1] :] = new
            nothing = torch.zeros_like(frozen)
            # Not computed: it would take a pass over the vocabulary that sampling does not need.
            confidence = torch.full(ids.shape, torch.nan, device=ids.device)
            return Step(
                index, total, nfe, ids, frozen, padding, nothing, revealed, nothing, confidence,
                seconds, torch.where(nfe > 0, prompt + nfe - 1, 0), typed=typed,
            )  # fmt: skip

        yield step(0, going.new_zeros(batch, 0), 0.0)
        for index, (tokens, seconds) in enumerate(taken, start=1):
            # What is drawn after the end of a row does not exist.
            ids = torch.cat([ids, torch.where(going, tokens, pad)[:, None]], 1)
            padding = torch.cat([padding, ~going[:, None]], 1)
            frozen = torch.cat([frozen, ~going[:, None]], 1)
            nfe = nfe + going
            yield step(index, going[:, None], seconds)
            going = going & (ids[:, -1] != end) & (nfe < room)
            if not going.any():  # some devices learn a step late that they are done
                break


def load_causal_writer(
    model_name: str,
    tokenizer_name: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    access: Access = loading.PLAIN,
) -> CausalWriter:
    """Load an autoregressive model for generation; `UserError` as `loading.load_causal_lm`."""
    torch_device, torch_dtype = loading.prepare(device, dtype)
    tokenizer = tokenizers.load_tokenizer(
        tokenizer_name or model_name, needs_mask=False, access=access
    )
    model = loading.load_causal_lm(model_name, tokenizer, access)
    model.generation_config = GenerationConfig()  # a folder's own may ask for anything
    model, torch_dtype = loading.place(model, torch_device, torch_dtype, exact=dtype == "auto")
    return CausalWriter(
        model=model,
        tokenizer=tokenizer,
        name=model_name,
        device=torch_device,
        dtype=torch_dtype,
        positions=max_length(model.config),
    )
