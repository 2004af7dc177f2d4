"""A masked language model ready to write: canvas in, Steps out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from diffusion import rng
from diffusion.canvas import Canvas, Step, prompt_canvas
from diffusion.cli.access import Access
from diffusion.cli.conflicts import Conflict, check_conflicts
from diffusion.errors import UserError
from diffusion.models import loading, tokenizers
from diffusion.models.cached import Approximate, InBlocks
from diffusion.models.denoiser import Denoiser
from diffusion.models.families import max_length
from diffusion.models.guidance import Guided, Processed
from diffusion.models.soft import SoftMask, SoftMasked, load_soft_mask
from diffusion.noise import Noise
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.catalog import CAUSAL
from diffusion.samplers.make import make_sampler
from diffusion.samplers.noises import check_noise
from diffusion.speculative import Drafting
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
    blocks: bool = False  # whether it was trained to write from left to right, block by block
    autoregressive: ClassVar = False

    @property
    def noise(self) -> Noise:
        """What it was trained to take away."""
        return self.denoiser.noise

    @property
    def soft(self) -> SoftMask | None:
        """What its masks remember, where it was trained so."""
        return self.denoiser.soft

    @classmethod
    def from_model(
        cls,
        model: torch.nn.Module,
        tokenizer,
        name: str = "model in memory",
        soft: SoftMask | None = None,
    ) -> "Writer":
        """A model that is in memory already, where it is and in its number format.

        Args:
            model: any ``AutoModelForMaskedLM``, which is put into evaluation mode, or a PeftModel of
                one, of which a copy with the adapters merged is taken.
            tokenizer: its tokenizer; one that names no beginning or end, as BERT's, is given
                them.
            name: what messages and records call it.
            soft: what its masks remember, where it was trained so.

        Raises:
            UserError: a causal model, adapters that cannot be merged, a tokenizer without a mask or of
                another vocabulary.
        """
        model = loading.masked_lm(model, name)
        tokenizers.name_ends(tokenizer, name)
        loading.check_vocabulary(model.config, tokenizer, name)
        settings = loading.diffusion_settings(model.config)
        first = next(model.parameters())
        denoiser = Denoiser(
            model,
            tokenizers.noise_of(tokenizer, model.config, name),
            tokenizers.forbidden_ids(tokenizer, model.config.vocab_size),
            soft,
        )
        denoiser.backbone.try_out(name)
        return cls(
            denoiser=denoiser,
            tokenizer=tokenizer,
            name=name,
            device=first.device,
            dtype=first.dtype,
            positions=max_length(model.config),
            trained=bool(settings),
            blocks=any(name.startswith("block") for name in settings.get("layouts", ())),
        )

    def without_soft_masking(self) -> "Writer":
        """The same model whose masks remember nothing."""
        return replace(self, denoiser=self.denoiser.without_memory())

    def check(self, options: GenerationOptions) -> None:
        """Refuse options that mean nothing, or that this model has no room for."""
        options.check()
        check_noise(self.resolve(options), self.noise.name, self.name)
        check_conflicts(MODEL_CONFLICTS, options, writer=self)

    def resolve(self, options: GenerationOptions, left_to_right: bool = True) -> GenerationOptions:
        """The options with all that this model takes for granted filled in, for a canvas that is
        to be written ``left_to_right``, after the prompt, or for one with spans to be filled."""
        fitted = options.fitted(self.positions)
        return fitted.resolved(self.blocks and left_to_right, self.noise.name)

    def method(self, options: GenerationOptions) -> str:
        """How it writes, for people."""
        return self.resolve(options).describe()

    def notes(self, options: GenerationOptions) -> Iterator[str]:
        """What a user should know before the first text: flags without effect, models not trained
        for what they are about to do."""
        soft = self.soft is not None and options.soft_masking
        if self.soft is None and not options.soft_masking:
            yield f"{self.name} has no soft-masking; --no_soft_masking changes nothing"
        if soft and options.sampler_name in CAUSAL:
            yield f"--sampler {options.sampler_name} keeps no masks, and so has no soft-masking"
        for flag in ("forget_remasked", "skip_soft_masking"):
            if not soft and getattr(options, flag):
                yield f"without soft-masking --{flag} changes nothing"
        # A model with a chat template was tuned elsewhere.
        if not (self.trained or self.tokenizer.chat_template):
            yield (
                f"{self.name} was never trained as a denoiser; expect repeated, broken text until "
                f"you train it: python finetune.py --model {self.name}"
            )
        elif options.attention == "block" and not self.blocks:
            yield (
                f"{self.name} was never trained to write block by block; expect broken text, or train "
                f"it: python finetune.py --model {self.name} --layouts causal=1,block4=1,full=1"
            )

    def denoise(
        self, canvas: Canvas, options: GenerationOptions, samples: Sequence[int], may_end: bool
    ) -> Iterator[Step]:
        """Write the masks of a canvas of B rows.

        Args:
            samples: B sample numbers. A text depends on its canvas, the options with their seed,
                and this number; not on the rest of the batch.
            may_end: whether ``</s>`` may be written. A text of a fixed length does not end before.
        """
        left_to_right = canvas.left_to_right
        options = self.resolve(options, left_to_right)
        if not left_to_right:
            check_conflicts(SPAN_CONFLICTS, options)
        denoiser, ends = self.denoiser, None  # the id that ends a text that is read in order
        if not may_end:
            denoiser = denoiser.forbidding(self.tokenizer.eos_token_id)
        elif options.attention == "block" or options.block_length:
            ends = self.tokenizer.eos_token_id
        canvas, keys = canvas.to(self.device), rng.row_keys(options.seed, samples, self.device)
        sampling = Sampling(options.temperature, options.top_k, options.top_p)
        name, own = options.sampler_name, {"noise": self.noise}
        if name == "speculative":
            drafts = make_sampler(options.sampler).draft_length
            denoiser = Drafting(denoiser, drafts, options.cache)
        elif options.attention == "block":
            clean = name == "causal"
            denoiser = InBlocks(denoiser, options.block_length or 0, options.cache, clean)
            own["apart"] = True
        if options.approximate_cache is not None:
            dual = options.approximate_cache == "dual"
            denoiser = Approximate(denoiser, options.block_length, dual, options.cache_refresh)
        soft = self.denoiser.soft if options.soft_masking else None
        if soft is not None and name not in CAUSAL:  # where nothing stays a mask
            denoiser = SoftMasked(
                denoiser, soft, options.forget_remasked, options.skip_soft_masking
            )
        if options.guidance:
            denoiser = Guided(denoiser, options.guidance, self.tokenizer.all_special_ids)
        if options.repetition_penalty != 1 or options.no_repeat_ngram_size:
            denoiser = Processed(denoiser, options.repetition_penalty, options.no_repeat_ngram_size)
        return denoise_windows(
            canvas,
            denoiser,
            lambda: make_sampler(
                options.sampler,
                options.n_steps,
                options.schedule,
                options.block_length,
                options.early_commit,
                ends,
                **own,
            ),
            sampling,
            keys,
            window=self.positions,
            stride=options.window_stride or self.positions - 1,
            end_id=ends,
        )

    def generate(
        self, prompts: Sequence[str], options: GenerationOptions, samples: Sequence[int]
    ) -> Iterator[Step]:
        """Write one text for each prompt, "" to write from nothing; see `denoise`."""
        options = options.fitted(self.positions)
        self.check(options)
        canvas = prompt_canvas(self.tokenizer, prompts, options.max_len, options.length)
        return self.denoise(canvas, options, samples, may_end=options.length is None)

    def record(
        self, prompts: Sequence[str], options: GenerationOptions, samples: Sequence[int]
    ) -> Iterator[Step]:
        """The Steps of `generate`, for who only measures or wants the last."""
        return self.generate(prompts, options, samples)


_CACHE = "{writer.name}: --approximate_cache {approximate_cache}"


def _cached(flags: str, applies: Callable, sentence: str) -> Conflict:
    return Conflict(flags, lambda o: o.approximate_cache is not None and applies(o), sentence)


# What a model has no room for, or was not trained for; ``writer`` is the `Writer`.
MODEL_CONFLICTS = [
    _cached(
        "--approximate_cache with a type of model that keeps no keys and values",
        lambda o: not o.writer.denoiser.backbone.keeps,
        _CACHE + ": models of type {writer.denoiser.backbone.config.model_type} keep no keys and "
        "values; leave it out",
    ),
    _cached(
        "--approximate_cache with a model trained for random tokens",
        lambda o: o.writer.noise.has_random_tokens,
        _CACHE + " is for models trained for masks, not for {writer.noise.name}; leave it out",
    ),
    _cached(
        "--approximate_cache with soft-masking",
        lambda o: o.writer.soft is not None and o.soft_masking,
        _CACHE + " does not go with soft-masking; add --no_soft_masking",
    ),
    Conflict(
        "--max_len beyond the positions of the model",
        lambda o: o.window_stride is None and o.max_len > o.writer.positions,
        "--max_len {max_len} exceeds the {writer.positions} positions of {writer.name}; use --max_len "
        "{writer.positions} or less, or --window_stride",
    ),
    Conflict(
        "--window_stride of a whole window",
        lambda o: o.window_stride is not None and o.window_stride >= o.writer.positions,
        "--window_stride {window_stride} must be below the {writer.positions} positions that "
        "{writer.name} sees",
    ),
]
# What does not go with a canvas on which fixed text follows what is to be written.
SPAN_CONFLICTS = [
    Conflict(
        "--attention block with spans to be filled",
        lambda o: o.attention == "block",
        "--attention block and --sampler {sampler} write from left to right, after the given text; "
        "leave them out where spans are filled",
    ),
    Conflict(
        "--approximate_cache with spans to be filled",
        lambda o: o.approximate_cache is not None,
        "--approximate_cache {approximate_cache} writes from left to right, after the given text; "
        "leave it out where spans are filled",
    ),
]


def load_writer(
    model_name: str,
    tokenizer_name: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    access: Access = loading.PLAIN,
) -> Writer:
    """Load a masked LM for generation.

    Raises:
        UserError: see `loading.load_masked_lm`; also a model trained causally.
    """
    torch_device, torch_dtype = loading.prepare(device, dtype)
    config = loading.load_config(model_name, access)
    settings = loading.diffusion_settings(config)
    if settings.get("objective") == "causal" and loading.is_masked_lm(config):
        raise UserError(
            f"{model_name} was trained with --objective causal, as a start for a denoiser; train "
            f"it further with finetune.py --model {model_name}"
        )
    tokenizer = tokenizers.load_tokenizer(
        tokenizer_name or model_name, access=access, config=config
    )
    model = loading.load_masked_lm(model_name, tokenizer, access)
    model, _ = loading.place(model, torch_device, torch_dtype, exact=dtype == "auto")
    return Writer.from_model(model, tokenizer, model_name, load_soft_mask(model, model_name))
