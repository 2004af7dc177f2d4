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
from transformers.generation.streamers import BaseStreamer

from . import checkpoints, hardware, rng
from .canvas import prompt_ids
from .denoise import TOKENS, Step
from .denoiser import Sampling
from .frames import token_line
from .generation import check_positions, place, prepare, row_keys
from .options import GenerationOptions
from .row_logits import max_length


class _Draw(LogitsProcessor):
    """Leaves `generate` one token to take: the one that `Sampling` draws. What temperature, top-k
    and top-p mean is so decided in one place for both kinds of models, and a text depends on its
    own random key (B,) alone."""

    def __init__(self, sampling: Sampling, keys: Tensor, forbidden: Tensor):
        self.sampling, self.keys, self.forbidden = sampling, keys, forbidden
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.step += 1
        u = rng.uniform(rng.fold_in(rng.fold_in(self.keys, self.step), TOKENS), 1)[:, 0]
        allowed = scores.index_fill(1, self.forbidden, -torch.inf)
        token, _ = self.sampling.draw(allowed, u)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)


class _RowsFull(StoppingCriteria):
    """Ends each row when it has as many tokens as it may, whatever the padding in front of it."""

    def __init__(self, longest: Tensor):
        self.longest = longest  # (B,) columns, padding included

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
        return input_ids.shape[1] >= self.longest


class _Closed(Exception):
    """Nobody reads any more."""


class _Meter(BaseStreamer):
    """Hands each step's tokens to a reader in another thread, and stops the clock until the
    reader wants the next ones."""

    def __init__(self, device: torch.device):
        self.device = device
        self.out: queue.Queue = queue.Queue()
        self.wanted = threading.Semaphore(0)
        self.closed = False
        self.seconds = 0.0
        self._started: float | None = None

    def put(self, value: Tensor) -> None:
        if self._started is not None:  # the first value is the prompt
            self.seconds += hardware.now(self.device) - self._started
            self.out.put((value, self.seconds))
            self.wanted.acquire()
            if self.closed:
                raise _Closed
        self._started = hardware.now(self.device)

    def end(self) -> None:
        pass


def metered(generate: Callable[[BaseStreamer], None], device: torch.device) -> Iterator[tuple]:
    """(tokens (B,), seconds so far) for each step of ``generate(streamer)``, which runs in a thread
    and waits while its tokens are read. The seconds are those of model and sampling: neither the
    reader's time nor the preparation before the first forward pass is in them."""
    meter = _Meter(device)

    def work() -> None:
        try:
            generate(meter)
            meter.out.put(None)
        except _Closed:
            pass
        except BaseException as error:
            meter.out.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := meter.out.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            meter.wanted.release()
    finally:
        meter.closed = True
        meter.wanted.release()
        thread.join()


@dataclass(frozen=True)
class CausalWriter:
    """A causal model that is ready to write; the counterpart of `generation.Writer`."""

    model: torch.nn.Module
    tokenizer: object
    name: str
    device: torch.device
    dtype: torch.dtype
    positions: int  # tokens the model can see at once
    trained: ClassVar = True
    status: ClassVar = staticmethod(token_line)  # the line that views show below a text

    def check(self, options: GenerationOptions) -> None:
        options.check_autoregressive()
        check_positions(options, self)

    def method(self, options: GenerationOptions) -> str:
        """How it writes, for people."""
        return "one token a forward pass, key-value cache"

    def generate(
        self, prompts: Sequence[str], options: GenerationOptions, samples: Sequence[int]
    ) -> Iterator[Step]:
        """Write one text for each prompt, see `generation.Writer.generate`. The rows of a Step grow
        by one token a step; shorter prompts are padded on the left."""
        self.check(options)
        tokenizer, device = self.tokenizer, self.device
        given = prompt_ids(tokenizer, prompts, options.max_len, options.length)
        width = max(map(len, given))
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in given], device=device)
        left = torch.tensor([width - len(row) for row in given], device=device)
        padding = torch.arange(width, device=device) < left[:, None]
        # (B,) new tokens that each row may have
        room = options.max_len - (width - left)
        room = room if options.length is None else torch.full_like(room, options.length)
        forbidden = checkpoints.forbidden_ids(tokenizer, self.model.config.vocab_size)
        if options.length is not None:  # exactly so many tokens: the text may not end before
            forbidden.append(tokenizer.eos_token_id)
        forbidden = torch.tensor(forbidden, dtype=torch.int64, device=device)
        sampling = Sampling(options.temperature, options.top_k, options.top_p)
        keys = row_keys(options, samples, device)

        def generate(streamer: BaseStreamer) -> None:
            self.model.generate(
                ids,
                attention_mask=(~padding).long(),
                generation_config=GenerationConfig(
                    max_new_tokens=int(room.max()),
                    do_sample=False,  # `_Draw` has drawn
                    use_cache=True,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=pad,
                ),
                logits_processor=[_Draw(sampling, keys, forbidden)],
                stopping_criteria=[_RowsFull(width + room)],
                streamer=streamer,
            )

        return self._steps(ids, padding, room, metered(generate, device))

    def _steps(self, ids, padding, room, stream) -> Iterator[Step]:
        batch, total = len(ids), int(room.max())
        frozen, end = torch.ones_like(padding), self.tokenizer.eos_token_id
        going = torch.ones(batch, dtype=torch.bool, device=ids.device)  # rows still being written
        nfe = torch.zeros(batch, dtype=torch.int64, device=ids.device)

        def step(index: int, new: Tensor, seconds: float) -> Step:
            """``new`` (B, n): which of the last n columns were written in this step."""
            revealed = torch.zeros_like(frozen)
            revealed[:, frozen.shape[1] - new.shape[1] :] = new
            nothing = torch.zeros_like(frozen)
            # Not computed: it would take a pass over the vocabulary that sampling does not need.
            confidence = torch.full(ids.shape, torch.nan, device=ids.device)
            return Step(
                index, total, nfe, ids, frozen, padding, nothing, revealed, nothing, confidence,
                seconds,
            )  # fmt: skip

        yield step(0, going.new_zeros(batch, 0), 0.0)
        for index, (tokens, seconds) in enumerate(stream, start=1):
            ids = torch.cat([ids, tokens.to(ids.device)[:, None]], 1)
            # What `generate` puts behind the end of a row does not exist.
            padding = torch.cat([padding, ~going[:, None]], 1)
            frozen = torch.cat([frozen, ~going[:, None]], 1)
            nfe = nfe + going
            yield step(index, going[:, None], seconds)
            going = going & (ids[:, -1] != end) & (nfe < room)


def load_causal_writer(
    model_name: str, tokenizer_name: str | None = None, device: str = "auto", dtype: str = "auto"
) -> CausalWriter:
    """Load an autoregressive model for generation; `UserError` as `checkpoints.load_causal_lm`."""
    torch_device, torch_dtype = prepare(device, dtype)
    tokenizer = checkpoints.load_tokenizer(tokenizer_name or model_name, needs_mask=False)
    model = checkpoints.load_causal_lm(model_name, tokenizer)
    model.generation_config = GenerationConfig()  # a folder's own may ask for anything
    model, torch_dtype = place(model, torch_device, torch_dtype, exact=dtype == "auto")
    return CausalWriter(
        model=model,
        tokenizer=tokenizer,
        name=model_name,
        device=torch_device,
        dtype=torch_dtype,
        positions=max_length(model.config),
    )
