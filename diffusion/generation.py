"""From options to a running generation: what all scripts that write with a masked LM share."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import transformers

from . import checkpoints, hardware, rng
from .canvas import Canvas, prompt_canvas
from .denoise import Step
from .denoiser import Denoiser, Sampling
from .errors import UserError
from .guidance import Guided, Processed
from .options import GenerationOptions
from .row_logits import max_length
from .samplers import make_sampler
from .windows import denoise_windows

# Below so many parameters `auto` means float32: the model is fast anyway, and rounding to bfloat16
# depends on the shape of a batch, so that a text would depend on what else is written.
_SMALL = 50e6


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

    def check(self, options: GenerationOptions) -> None:
        options.check()
        stride = options.window_stride
        if options.max_len > self.positions and stride is None:
            raise UserError(
                f"--max_len {options.max_len} exceeds the {self.positions} positions of "
                f"{self.name}; use --max_len {self.positions} or less, or --window_stride"
            )
        if stride is not None and not 1 <= stride < self.positions:
            raise UserError(
                f"--window_stride {stride} must be a number from 1 to {self.positions - 1}: "
                f"{self.name} sees {self.positions} positions"
            )

    def generate(
        self, prompts: list[str], options: GenerationOptions, samples: list[int]
    ) -> tuple[Canvas, Iterator[Step]]:
        """Write one text for each prompt.

        Args:
            prompts: B prompts, "" to write from nothing.
            samples: B sample numbers. A text depends on its prompt, the options with their seed,
                and this number; not on the rest of the batch.
        """
        self.check(options)
        canvas = prompt_canvas(self.tokenizer, prompts, options.max_len, options.length)
        canvas = canvas.to(self.device)
        keys = rng.fold_in(
            rng.seed_key(options.seed, self.device), torch.tensor(samples, device=self.device)
        )
        denoiser = self.denoiser
        if options.length is not None:  # exactly so many tokens: the text may not end before
            denoiser = denoiser.forbidding(self.tokenizer.eos_token_id)
        if options.guidance:
            denoiser = Guided(denoiser, options.guidance, self.tokenizer.all_special_ids)
        if options.repetition_penalty != 1 or options.no_repeat_ngram_size:
            denoiser = Processed(denoiser, options.repetition_penalty, options.no_repeat_ngram_size)
        steps = denoise_windows(
            canvas,
            denoiser,
            lambda: make_sampler(options.sampler, **options.sampler_options()),
            Sampling(options.temperature, options.top_k, options.top_p),
            keys,
            window=self.positions,
            stride=options.window_stride or self.positions - 1,
        )
        return canvas, steps


def load_writer(
    model_name: str, tokenizer_name: str | None = None, device: str = "auto", dtype: str = "auto"
) -> Writer:
    """Load a masked LM for generation.

    Raises:
        UserError: see `checkpoints.load_masked_lm`; also a model trained causally.
    """
    hardware.use_all_cores()
    transformers.logging.disable_progress_bar()
    torch_device = hardware.choose_device(device)
    torch_dtype = hardware.choose_dtype(dtype, torch_device)
    config = checkpoints.load_config(model_name)
    settings = checkpoints.diffusion_settings(config)
    if settings.get("objective") == "causal":
        raise UserError(
            f"{model_name} was trained with --objective causal, as a start for a denoiser; train "
            f"it further with finetune.py --model {model_name}"
        )
    tokenizer = checkpoints.load_tokenizer(tokenizer_name or model_name)
    model = checkpoints.load_masked_lm(model_name, tokenizer)
    if dtype == "auto" and model.num_parameters() < _SMALL:
        torch_dtype = torch.float32
    model = model.to(torch_device, torch_dtype)
    return Writer(
        denoiser=Denoiser(
            model,
            tokenizer.mask_token_id,
            checkpoints.forbidden_ids(tokenizer, model.config.vocab_size),
        ),
        tokenizer=tokenizer,
        name=model_name,
        device=torch_device,
        dtype=torch_dtype,
        positions=max_length(model.config),
        trained=bool(settings),
    )
