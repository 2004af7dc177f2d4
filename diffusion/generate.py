"""From options to a running generation: what all scripts that write with a masked LM share."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import transformers

from diffusion import hardware, rng
from diffusion.canvas import Canvas, prompt_canvas
from diffusion.denoise import Step
from diffusion.errors import UserError
from diffusion.models import loading, tokenizers
from diffusion.models.denoiser import Denoiser
from diffusion.models.families import max_length
from diffusion.models.guidance import Guided, Processed
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler
from diffusion.views.frames import status_line
from diffusion.windows import denoise_windows


@dataclass(frozen=True)
class Writer:
    """A model that is ready to write."""

    denoiser: Denoiser
    tokenizer: object
    name: str
    device: torch.device
    dtype: torch.dtype
    positions: int  # tokens the model can see at once
    trained: bool  # whether finetune.py made it a denoiser
    status: ClassVar = staticmethod(status_line)  # the line that views show below a text

    def check(self, options: GenerationOptions) -> None:
        options.check()
        stride = options.window_stride
        if stride is None:
            check_positions(options, self, " or less, or --window_stride")
        elif not 1 <= stride < self.positions:
            raise UserError(
                f"--window_stride {stride} must be a number from 1 to {self.positions - 1}: "
                f"{self.name} sees {self.positions} positions"
            )

    def method(self, options: GenerationOptions) -> str:
        """How it writes, for people."""
        return options.describe()

    def generate(
        self, prompts: Sequence[str], options: GenerationOptions, samples: Sequence[int]
    ) -> Iterator[Step]:
        """Write one text for each prompt.

        Args:
            prompts: B prompts, "" to write from nothing.
            samples: B sample numbers. A text depends on its prompt, the options with their seed,
                and this number; not on the rest of the batch.
        """
        self.check(options)
        canvas = prompt_canvas(self.tokenizer, prompts, options.max_len, options.length)
        return self.write(canvas, options, samples, may_end=options.length is None)

    def write(
        self, canvas: Canvas, options: GenerationOptions, samples: Sequence[int], may_end: bool
    ) -> Iterator[Step]:
        """Write the masks of any canvas of B rows; see `generate`.

        Args:
            may_end: whether ``</s>`` may be written. A text of a fixed length does not end before.
        """
        canvas = canvas.to(self.device)
        keys = row_keys(options, samples, self.device)
        denoiser = self.denoiser
        if not may_end:
            denoiser = denoiser.forbidding(self.tokenizer.eos_token_id)
        if options.guidance:
            denoiser = Guided(denoiser, options.guidance, self.tokenizer.all_special_ids)
        if options.repetition_penalty != 1 or options.no_repeat_ngram_size:
            denoiser = Processed(denoiser, options.repetition_penalty, options.no_repeat_ngram_size)
        return denoise_windows(
            canvas,
            denoiser,
            lambda: make_sampler(options.sampler, **options.sampler_options()),
            Sampling(options.temperature, options.top_k, options.top_p),
            keys,
            window=self.positions,
            stride=options.window_stride or self.positions - 1,
        )

    def record(
        self, prompts: Sequence[str], options: GenerationOptions, samples: Sequence[int]
    ) -> Iterable[Step]:
        """The Steps of `generate`, for who only measures or wants the last."""
        return self.generate(prompts, options, samples)


def check_positions(options: GenerationOptions, writer, advice: str = " or less") -> None:
    """Refuse a canvas that is longer than what the model of ``writer`` can see."""
    if options.max_len > writer.positions:
        raise UserError(
            f"--max_len {options.max_len} exceeds the {writer.positions} positions of "
            f"{writer.name}; use --max_len {writer.positions}{advice}"
        )


def row_keys(
    options: GenerationOptions, samples: Sequence[int], device: torch.device
) -> torch.Tensor:
    """The random keys (B,) of sample numbers (B,): of nothing else but them and the seed."""
    return rng.fold_in(rng.seed_key(options.seed, device), torch.tensor(samples, device=device))


def load_writer(
    model_name: str, tokenizer_name: str | None = None, device: str = "auto", dtype: str = "auto"
) -> Writer:
    """Load a masked LM for generation.

    Raises:
        UserError: see `loading.load_masked_lm`; also a model trained causally.
    """
    torch_device, torch_dtype = prepare(device, dtype)
    config = loading.load_config(model_name)
    settings = loading.diffusion_settings(config)
    if settings.get("objective") == "causal" and loading.is_masked_lm(config):
        raise UserError(
            f"{model_name} was trained with --objective causal, as a start for a denoiser; train "
            f"it further with finetune.py --model {model_name}"
        )
    tokenizer = tokenizers.load_tokenizer(tokenizer_name or model_name)
    model = loading.load_masked_lm(model_name, tokenizer)
    model, torch_dtype = place(model, torch_device, torch_dtype, exact=dtype == "auto")
    return Writer(
        denoiser=Denoiser(
            model,
            tokenizer.mask_token_id,
            tokenizers.forbidden_ids(tokenizer, model.config.vocab_size),
        ),
        tokenizer=tokenizer,
        name=model_name,
        device=torch_device,
        dtype=torch_dtype,
        positions=max_length(model.config),
        trained=bool(settings),
    )


def prepare(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """The device and number format to write with, and a process that is ready to load a model."""
    hardware.use_all_cores()
    transformers.logging.disable_progress_bar()
    torch_device = hardware.choose_device(device)
    return torch_device, hardware.choose_dtype(dtype, torch_device)


# Below so many parameters `auto` means float32: the model is fast anyway, and rounding to bfloat16
# depends on the shape of a batch, so that a text would depend on what else is written.
_SMALL = 50e6


def place(model, device: torch.device, dtype: torch.dtype, exact: bool):
    """(the model there, its number format); ``exact`` keeps small models in float32."""
    if exact and model.num_parameters() < _SMALL:
        dtype = torch.float32
    return model.to(device, dtype), dtype
