"""A masked language model ready to write: canvas in, Steps out; also texts longer than it can see."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from diffusion import rng
from diffusion.canvas import Canvas, Step, prompt_canvas
from diffusion.cli.checks import within
from diffusion.cli.options import Access
from diffusion.denoise import denoise
from diffusion.errors import UserError
from diffusion.models import loading, tokenizers
from diffusion.models.cached import Approximate, InBlocks, Verifying
from diffusion.models.denoiser import Denoiser
from diffusion.models.families import max_length
from diffusion.models.guidance import Guided, Processed
from diffusion.models.soft import SoftMask, SoftMasked, load_soft_mask
from diffusion.options import SAMPLER_FLAGS, GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.base import Sampler
from diffusion.samplers.catalog import CAUSAL, VERIFYING, check_noise
from diffusion.samplers.make import make_sampler
from diffusion.speculative import Drafting


@dataclass(frozen=True)
class Writer:
    """A model that is ready to write."""

    denoiser: Denoiser
    tokenizer: object
    name: str
    trained: bool  # whether finetune.py made it a denoiser
    blocks: bool  # whether it was trained to write from left to right, block by block
    own: dict  # options by name that they name as defaults
    autoregressive: ClassVar = False

    noise = property(lambda self: self.denoiser.noise)  # what it was trained to remove
    soft = property(lambda self: self.denoiser.soft)  # what its masks remember, or None
    device = property(lambda self: self.denoiser.device)
    dtype = property(lambda self: self.denoiser.backbone.model.dtype)
    positions = property(lambda self: max_length(self.denoiser.backbone.config))  # seen at once
    example = property(lambda self: loading.example(self.denoiser.backbone.config))

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
            model: any ``AutoModelForMaskedLM``, which is put into evaluation mode.
            tokenizer: its own; one that names no beginning or end, as BERT's, is given them.
            name: what messages and records call it.
            soft: what its masks remember, where it was trained so.

        Raises:
            UserError: a causal model, adapters of peft that are not merged, a tokenizer without a mask
                or of another vocabulary.
        """
        model = loading.masked_lm(model, name)
        tokenizers.name_ends(tokenizer, name)
        loading.check_vocabulary(model.config, tokenizer, name)
        settings = loading.diffusion_settings(model.config)
        noise = tokenizers.noise_of(tokenizer, model.config, name)
        forbidden = tokenizers.forbidden_ids(tokenizer, model.config.vocab_size)
        denoiser = Denoiser(model, noise, forbidden, soft)
        denoiser.backbone.try_out(name)
        blocks = any(layout.startswith("block") for layout in settings.get("layouts", ()))
        own = GenerationOptions.own_defaults(settings, name)
        return cls(denoiser, tokenizer, name, bool(settings), blocks, own)

    def check(self, options: GenerationOptions) -> None:
        """Refuse options that mean nothing, or that this model has no room for."""
        options.check()
        resolved = self.resolve(options)
        resolved.check()  # with the defaults of the model
        check_noise(resolved, self.noise.name, self.name)
        if options.window_stride is not None:
            within("--window_stride", options.window_stride, 1, self.positions - 1)
        else:
            options.check_room(self.positions, self.name, " or less, or --window_stride")
        reason, kind = None, self.denoiser.backbone.config.model_type
        if not self.denoiser.backbone.keeps:
            reason = f"models of type {kind} keep no keys and values; leave it out"
        elif self.noise.has_random_tokens:
            reason = f"it is for models trained for masks, not for {self.noise.name}; leave it out"
        elif self.soft is not None and options.soft_masking:
            reason = "it does not go with soft-masking; add --no_soft_masking"
        if reason and (asked := options.approximate_cache):
            raise UserError(f"{self.name}: --approximate_cache {asked}: {reason}")

    def resolve(self, options: GenerationOptions, left_to_right: bool = True) -> GenerationOptions:
        """The options with all that this model takes for granted filled in, for a canvas that is
        to be written ``left_to_right``, after the prompt, or for one with spans to be filled."""
        fitted = options.fitted(self.positions)
        return fitted.resolved(self.blocks and left_to_right, self.noise.name, self.own)

    def method(self, options: GenerationOptions) -> str:
        """How it writes, for people."""
        return self.resolve(options).describe()

    def notes(self, options: GenerationOptions) -> Iterator[str]:
        """What a user should know before the first text: the model was not trained for it."""
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

    def far_prompt(self, prompts: Sequence[str]) -> str | None:
        """See `tokenizers.far_prompt`."""
        config = self.denoiser.backbone.config
        return tokenizers.far_prompt(self.tokenizer, config, self.name, prompts)

    def denoise(
        self, canvas: Canvas, options: GenerationOptions, samples: Sequence[int], may_end: bool
    ) -> Iterator[Step]:
        """Write the masks of a canvas of B rows.

        Args:
            samples: B sample numbers. A text depends on its canvas, the options with their seed,
                and this number; not on the rest of the batch.
            may_end: whether ``</s>`` may be written. A text of a fixed length does not end before.
        """
        o = self.resolve(options, canvas.left_to_right)
        if not canvas.left_to_right and (o.attention == "block" or o.approximate_cache):
            raise UserError(
                "--attention block, --sampler causal, speculative and arpc, and --approximate_cache write "
                "from left to right, after the given text; leave them out where spans are filled"
            )
        denoiser, ends = self.denoiser, None
        if not may_end:
            denoiser = denoiser.forbidding(self.tokenizer.eos_token_id)
        elif canvas.left_to_right:  # else text that is given follows
            ends = self.tokenizer.eos_token_id
        name = o.sampler_name
        if name == "speculative":
            denoiser = Drafting(denoiser, make_sampler(o.sampler).draft_length, o.cache)
        elif name == "arpc":
            denoiser = Verifying(denoiser, o.block_length or 0, o.cache)
        elif o.attention == "block":
            denoiser = InBlocks(denoiser, o.block_length or 0, o.cache, clean=name == "causal")
        if o.approximate_cache is not None:
            dual = o.approximate_cache == "dual"
            denoiser = Approximate(denoiser, o.block_length, dual, o.cache_refresh)
        # The others keep no mask for a second pass, or ask about tokens as well.
        if self.soft is not None and o.soft_masking and name not in (*CAUSAL, *VERIFYING):
            denoiser = SoftMasked(denoiser, self.soft)
        if o.guidance:
            denoiser = Guided(denoiser, o.guidance, self.tokenizer.all_special_ids)
        if o.repetition_penalty != 1 or o.no_repeat_ngram_size:
            denoiser = Processed(denoiser, o.repetition_penalty, o.no_repeat_ngram_size)
        shared = {flag: getattr(o, flag) for flag in SAMPLER_FLAGS}
        shared |= {"noise": self.noise, "apart": o.attention == "block"}
        return denoise_windows(
            canvas.to(self.device),
            denoiser,
            lambda: make_sampler(o.sampler, **shared),
            Sampling(o.temperature, o.top_k, o.top_p),
            rng.row_keys(o.seed, samples, self.device),
            window=self.positions,
            stride=o.window_stride or self.positions - 1,
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


def denoise_windows(
    canvas: Canvas,
    denoiser,
    make_sampler: Callable[[], Sampler],
    sampling: Sampling,
    keys: Tensor,
    window: int,
    stride: int,
    end_id: int | None = None,
) -> Iterator[Step]:
    """As `denoise`, with a model that sees ``window`` positions (MDLM's semi-autoregressive
    sampling, arXiv:2406.07524): write the first window, keep its last window - stride positions
    as the beginning of the next, write the next ``stride``.

    Each window begins with the canvas's own first token, ``<s>``, as in training. The Steps are one
    stream over the whole canvas. ``end_id`` ends a text, which is in no later window.
    """
    nothing = ended = torch.zeros_like(canvas.frozen)
    unknown = torch.full(canvas.ids.shape, torch.nan, device=canvas.ids.device)
    nfe = torch.zeros(len(canvas.ids), dtype=torch.int64, device=canvas.ids.device)
    last = Step(0, None, nfe, canvas.ids, *(nothing,) * 5, unknown, 0.0, nfe)
    starts = range(0, max(canvas.ids.shape[1] - window, 0) + stride, stride)
    for number, start in enumerate(starts):
        done, here = last, slice(start, start + window)
        seen, frozen = done.ids[:, here].clone(), (canvas.frozen | ended)[:, here].clone()
        if number:
            seen[:, 0] = canvas.ids[:, 0]
            frozen[:, : window - stride] = True
        allowed = None if canvas.allowed is None else canvas.allowed[:, here]
        part = Canvas(seen, frozen, (canvas.padding | ended)[:, here], allowed)
        part_keys = rng.fold_in(keys, number) if number else keys
        whole = partial(_whole, start=start, first=int(number > 0))  # not the slot of <s>
        for step in denoise(part, denoiser, make_sampler(), sampling, part_keys, end_id):
            if number and step.index == 0:
                continue
            ids, gone = whole(done.ids, step.ids), ended | whole(nothing, step.padding)
            if end_id is not None:
                over = ((ids == end_id) & ~canvas.frozen).any(1) & ~step.masked.any(1)
                gone[:, start + window :] |= over[:, None]
            # What was written in an earlier window is frozen in this one, and has no value.
            confidence = torch.where(frozen, done.confidence[:, here], step.confidence)
            flags = ("revealed", "remasked", "random", "replaced")
            flags = {name: getattr(step, name) for name in flags}
            last = Step(
                index=done.index + step.index,
                total=step.total if len(starts) == 1 else None,
                nfe=done.nfe + step.nfe,
                ids=ids,
                frozen=canvas.frozen | gone,
                padding=canvas.padding | gone,
                masked=denoiser.noise.noisy(ids) & ~canvas.frozen & ~gone,
                confidence=whole(done.confidence, confidence),
                seconds=done.seconds + step.seconds,
                slots=done.slots + step.slots,
                typed=canvas.typed,
                **{name: None if x is None else whole(nothing, x) for name, x in flags.items()},
            )
            yield last
        ended = last.padding & ~canvas.padding


def _whole(base: Tensor, values: Tensor, start: int, first: int) -> Tensor:
    """``base`` (B, L) with the ``values`` of a window, from its ``first`` on, in their place."""
    out = base.clone()
    out[:, start + first : start + values.shape[1]] = values[:, first:]
    return out


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
    how = tokenizer_name, device, dtype, access
    model, tokenizer = tokenizers.load_with_model(model_name, *how, causal=False)
    if loading.diffusion_settings(model.config).get("objective") == "causal":
        raise UserError(
            f"{model_name} was trained with --objective causal, as a start for a denoiser; train "
            f"it further with finetune.py --model {model_name}"
        )
    return Writer.from_model(model, tokenizer, model_name, load_soft_mask(model, model_name))
