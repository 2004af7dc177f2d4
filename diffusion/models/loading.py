"""Load models, safetensors only, and refuse in one sentence what cannot be used."""

from pathlib import Path

import torch
import transformers

from diffusion.cli.console import say
from diffusion.cli.options import Access
from diffusion.errors import UserError
from diffusion.models import heads, linear
from diffusion.models.families import UNKNOWN, family
from diffusion.models.hub import PLAIN, how_to_get, locate, resolve, unreadable
from diffusion.noise import KINDS

_MASKED, _CAUSAL = "AutoModelForMaskedLM", "AutoModelForCausalLM"
_HEADLESS = (
    " is an encoder without a language-model head, which cannot fill masks; train one: python "
    "finetune.py --model FOLDER --output_dir NEW_FOLDER"
)


# ---------------------------------------------------------------- configurations


def load_config(name: str, access: Access = PLAIN):
    """The configuration of a model, local or on the hub."""
    where, local = locate(name)
    if local and not Path(where, "config.json").is_file():
        raise UserError(f"{where} has no config.json; give a folder that finetune.py wrote")
    try:
        config = transformers.AutoConfig.from_pretrained(where, **how_to_get(local, access))
        if huge := [n for n, value in vars(config).items() if type(value) is int and value > 10**8]:
            raise ValueError(f"its {huge[0]} is larger than any model's")
        return config
    except Exception as error:  # the library raises many kinds; the user needs one sentence
        raise unreadable("config", name, local, error) from None


def is_masked_lm(config) -> bool:
    """Whether models of this configuration fill masks: masked language models, decoders that were
    trained to, and models with code of their own that name a mask."""
    if family(config).decoder:
        return diffusion_settings(config).get("objective") == "diffusion"
    if _has_code(config):
        return _MASKED in config.auto_map or getattr(config, "mask_token_id", None) is not None
    return type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING


def _has_code(config) -> bool:
    """Whether its class is code that came with a model, and was allowed to run."""
    return type(config).__module__.startswith("transformers_modules")


def _check_kind(config, name: str, architectures, base: bool = False) -> None:
    """Refuse what is no masked language model and cannot be one, see `load_masked_lm`."""
    fault, decoder, masked = None, family(config).decoder, is_masked_lm(config)
    causal = getattr(config, "is_decoder", False) or "ForCausalLM" in str(architectures)
    causal = causal and not _has_code(config)
    if decoder and not masked and not base:
        fault = f"which was not trained to fill masks; train it: python finetune.py --model {name}"
    elif not decoder and (not masked or causal or getattr(config, "is_encoder_decoder", False)):
        fault = "which is causal, has a decoder, or no head for masks"
    if fault:
        raise UserError(
            f"{name} is a {config.model_type!r} model, {fault}; diffusion needs a masked LM such as "
            "RoBERTa, or a decoder such as GPT-2 to train"
        )


def load_masked_lm(name: str, tokenizer=None, access: Access = PLAIN, base: bool = False):
    """A masked language model, or a decoder that was trained as a denoiser, in evaluation mode and
    in float32.

    Args:
        base: take what can be trained as a denoiser: any decoder, and an encoder without a head, which
            gets one (`heads`); its ``new_head`` is then true.

    Raises:
        UserError: missing, not a masked LM, pickled, truncated, incomplete, with NaN weights, of
            another vocabulary size than ``tokenizer``, or of a type that does not work here.
    """
    config = load_config(name, access)
    _check_kind(config, name, config.architectures, base)
    decoder = family(config).decoder
    auto = _CAUSAL if decoder else _MASKED
    if _has_code(config):
        offered = (kind for kind in (_MASKED, _CAUSAL, "AutoModel") if kind in config.auto_map)
        auto = next(offered, _MASKED)
    model = _load_model(getattr(transformers, auto), config, name, tokenizer, access, base)
    if decoder:
        model.config.is_causal = False  # what transformers builds attention masks by
    return model


def masked_lm(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """A masked language model that is in memory already, in evaluation mode; `UserError` for a causal
    model, or one with adapters of peft."""
    if hasattr(model, "get_base_model") or getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(f"{name} has adapters that are not merged; call merge_and_unload() first")
    _check_kind(model.config, name, type(model).__name__)
    if model.base_model is model and family(model.config) is not UNKNOWN:
        raise UserError(f"{name}{_HEADLESS}")
    if family(model.config).decoder:
        model.config.is_causal = False
    return model.eval()


def load_causal_lm(name: str, tokenizer=None, access: Access = PLAIN):
    """An autoregressive language model in float32 and evaluation mode; errors as those of
    `load_masked_lm`."""
    config = load_config(name, access)
    # A masked LM would load as a causal one, and write nonsense.
    if is_masked_lm(config) or type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"{name} is a {config.model_type!r} model, which does not write from left to right; "
            "the baseline needs a causal LM such as gpt2"
        )
    return _load_model(transformers.AutoModelForCausalLM, config, name, tokenizer, access)


def _load_model(auto_class, config, name: str, tokenizer, access: Access, base: bool | None = None):
    """The model ``name`` as ``auto_class`` reads it, checked; ``base``: see `load_masked_lm`, None for
    another model."""
    where, local = resolve(name)
    try:
        model, info = auto_class.from_pretrained(
            where,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
            **how_to_get(local, access),
        )
    except Exception as error:
        raise unreadable("weights", name, local, error) from None
    missing = {key for key in info["missing_keys"] if "position_ids" not in key}
    if missing and base is not None and heads.is_headless(model, missing):
        if not base:
            raise UserError(f"{name}{_HEADLESS.replace('FOLDER', name, 1)}")
        heads.make_head(model)
        model.new_head = True
        left = ", ".join(sorted(k for k in info["unexpected_keys"] if "position_ids" not in k))
        say(
            f"{name} has no language-model head and gets one, near the identity, with the embeddings as "
            "output and the frequencies of the training text as bias"
            + (f"; left out: {left}" if left else "")
        )
    elif missing:
        raise UserError(
            f"the weights of {name} lack {len(missing)} tensors of its {config.model_type} "
            f"architecture ({min(missing)}, ...); use weights saved with their language-model head"
        )
    broken = next((n for n, p in model.named_parameters() if not p.isfinite().all()), None)
    if broken:
        raise UserError(f"the weights of {name} hold NaN or infinity ({broken}); use others")
    if tokenizer is not None:
        check_vocabulary(model.config, tokenizer, name)
    return model.eval()


def check_vocabulary(config, tokenizer, name: str) -> None:
    """Refuse a tokenizer that was not made for the model."""
    # Some have rows to spare, up to a few hundred of a large vocabulary; those are never written.
    spare = max(128, config.vocab_size // 100)
    if len(tokenizer) > config.vocab_size or config.vocab_size - len(tokenizer) >= spare:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and model {name} {config.vocab_size}; use "
            "the tokenizer the model was trained with"
        )


# What finetune.py records, and the type of each value.
_SETTINGS = {"objective": str, "shift": bool, "prefix_len": int, "layouts": dict,
             "tokens_seen": int, "noise": str, "p_u": float, "generation": dict, "tokens_per_word": float, "example": str}  # fmt: skip


def diffusion_settings(config) -> dict:
    """What finetune.py recorded in the config (empty for a model it never trained); `UserError` for a
    value of another type."""
    settings = getattr(config, "diffusion", None) or {}
    if not isinstance(settings, dict) or any(
        type(settings[name]) is not kind for name, kind in _SETTINGS.items() if name in settings
    ):
        raise UserError(
            f"the config has invalid settings of diffusion: {str(settings)[:200]}; copy the folder anew"
        )
    return dict(settings)


def example(config) -> str | None:
    """A beginning that a model can continue, as its config names one."""
    return diffusion_settings(config).get("example")


def noise_settings(config, name: str) -> dict:
    """The noise that a model was trained to remove, its ``name`` and, of hybrid noise, its ``p_u``;
    `UserError` where it is unknown."""
    settings = diffusion_settings(config)
    kind, p_u = settings.get("noise", "absorbing"), settings.get("p_u")
    if kind not in KINDS or (kind == "hybrid") != (p_u is not None) or not 0 <= (p_u or 0) < 1:
        raise UserError(
            f"{name} was trained for noise {kind!r} with p_u {p_u}, which is unknown; use one of "
            f"{', '.join(KINDS)}, where hybrid has a p_u from 0 to below 1"
        )
    return {"name": kind} if p_u is None else {"name": kind, "p_u": p_u}


# ---------------------------------------------------------------- a place to compute


# Below so many parameters `auto` means float32: the model is fast anyway, and rounding to bfloat16
# depends on the shape of a batch, so that a text would depend on what else is written.
_SMALL = 50e6


def place(model, device: torch.device, dtype: torch.dtype, exact: bool):
    """The model there, ready to write; ``exact`` keeps small models in float32. Nobody trains or moves
    it any more."""
    if exact and model.num_parameters() < _SMALL:
        dtype = torch.float32
    model = model.to(device, dtype)
    return linear.pack(model) if linear.packs(device, dtype) else model
