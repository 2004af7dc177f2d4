"""Find, load and save models and tokenizers: local folders first, safetensors only."""

import copy
import functools
import importlib.util
import json
import re
import sys
from pathlib import Path

import huggingface_hub
import torch
import transformers

from diffusion import hardware
from diffusion.cli.access import Access
from diffusion.cli.files import given_path
from diffusion.cli.values import check_values
from diffusion.errors import UserError, first_line
from diffusion.models import linear
from diffusion.models.families import family
from diffusion.models.native import NATIVE
from diffusion.noise import KINDS

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"

PLAIN = Access()
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_CONVERT = (
    "convert it once, where you trust the file: AutoModelForMaskedLM.from_pretrained(FOLDER)"
    ".save_pretrained(NEW_FOLDER)"
)


def resolve(name: str) -> tuple[str, bool]:
    """(name or path, is it a local folder) of ``--model`` or ``--tokenizer``.

    A folder is used as it is; the name of a folder in ``weights/`` works too; anything that looks
    like a path must exist; the rest are names on the hub.
    """
    path = given_path(name)
    if path.is_dir():
        return str(path), True
    if not name.startswith((".", "/", "~")) and (WEIGHTS / name).is_dir():
        return str(WEIGHTS / name), True
    if path.exists():
        raise UserError(f"model {name} is a file; give the folder that holds it")
    if not name.strip() or name.startswith((".", "/", "~", "weights/")) or name.count("/") > 1:
        raise UserError(
            f"model folder {name!r} does not exist; give a folder that finetune.py wrote, or a "
            "name on the hub such as roberta-base"
        )
    return name, False


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot hold a safe, complete model, before the library tries."""
    if not any(folder.iterdir()):
        raise UserError(f"model folder {folder} is empty; give a folder that finetune.py wrote")
    if not (folder / "config.json").is_file():
        raise UserError(f"model folder {folder} has no config.json; it is not a model folder")
    if not any(folder.glob("*.safetensors")):
        if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
            raise UserError(
                f"{folder} has only pickled weights, which can run any code when read, so they "
                f"are refused; {_CONVERT}"
            )
        raise UserError(f"model folder {folder} has no *.safetensors file; it has no weights")


def quiet_libraries() -> None:
    """No progress bars for reading or writing a file, and no warnings about what is checked here
    and told in one sentence. Downloads and training keep their progress bars."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # that of downloads, too
    huggingface_hub.utils.enable_progress_bars()


@functools.cache
def ask_hub_once() -> None:
    """Without a hub the libraries retry every file for half a minute. So ask for it once, and if
    it does not answer let them use what is in their cache: what HF_HUB_OFFLINE=1 does."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)
    except Exception:  # each version's HTTP library has its own
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:  # else it will read the line above when it is imported
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True


def unreachable(name: str, what: str, error: Exception | None = None) -> UserError:
    """Why something did not come from the hub, as far as the library's error tells."""
    told = f"{type(error).__name__}: {error}"
    if "trust_remote_code" in told or "custom code" in told:
        return UserError(
            f"{what} {name!r} comes with Python code of its own, which is not run unless you say so; "
            "where you trust it, add --trust_remote_code"
        )
    if any(package in told.lower() for package in ("sentencepiece", "tiktoken", "protobuf")):
        return UserError(  # the library tries one after the other, and tells of the last
            f"{what} {name!r} needs packages that are not installed: pip install sentencepiece "
            "tiktoken protobuf"
        )
    if "safetensors" in told and "does not appear to have a file" in told:
        return UserError(
            f"{what} {name!r} has no safetensors on the hub, and pickled weights can run any code "
            f"when read, so they are refused; {_CONVERT}"
        )
    return UserError(
        f"cannot get {what} {name!r} from the hub (unreachable, or no such name); give a local "
        "folder, or check the connection and the name"
    )


def locate(name: str) -> tuple[str, bool]:
    """As `resolve`, with the libraries made ready to load it."""
    where, local = resolve(name)
    quiet_libraries()
    if not local:
        ask_hub_once()
    return where, local


def how_to_get(local: bool, access: Access) -> dict:
    """How a library is to read something that is local, or on the hub."""
    revision = {} if local or access.revision is None else {"revision": access.revision}
    return {
        "local_files_only": local, "trust_remote_code": access.trust_remote_code, **revision
    }  # fmt: skip


def adapted(name: str) -> str | None:
    """The model that a local folder of adapters (peft) belongs to; None: it is another folder."""
    where, local = resolve(name)
    path = Path(where, "adapter_config.json")
    if not local or not path.is_file() or Path(where, "config.json").is_file():
        return None
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
        if not isinstance(base, str):
            raise ValueError("it names no base model")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"cannot read adapter_config.json of {where}: {first_line(error)}; copy the folder that "
            "peft wrote"
        ) from None
    return base


def _with_adapters(model, name: str):
    """``model`` with the adapters of the folder ``name`` merged into its weights."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"{name} is a folder of adapters, which need a package: pip install peft")
    from peft import PeftModel  # only for those who have it

    try:
        return PeftModel.from_pretrained(model, resolve(name)[0]).merge_and_unload().eval()
    except Exception as error:  # the library raises many kinds
        raise UserError(
            f"cannot put the adapters of {name} on their model: {first_line(error)}"
        ) from None


def load_config(name: str, access: Access = PLAIN):
    """The configuration of a model, local or on the hub; of adapters, that of their model."""
    check_values(access)
    if base := adapted(name):
        return load_config(base, access)
    where, local = locate(name)
    if local:
        _check_folder(Path(where))
    try:
        config = _read_config(where, local, access)
        if not all(isinstance(name, str) for name in config.architectures or []):
            raise ValueError("its architectures are no list of names")
        if local:
            _check_size(config, Path(where))
        return config
    except Exception as error:  # the library raises many kinds; the user needs one sentence
        if not local or "trust_remote_code" in str(error):
            raise unreachable(name, "model", error) from None
        raise UserError(
            f"cannot read the config of {where}: {first_line(error)}; it may be damaged"
        ) from None


def _read_config(where: str, local: bool, access: Access):
    how = how_to_get(local, access)
    code = how.pop("trust_remote_code")
    raw, _ = transformers.PretrainedConfig.get_config_dict(where, **how)
    if raw.get("model_type") in NATIVE and not code:
        convert, _ = NATIVE[raw["model_type"]]
        return convert(raw)
    return transformers.AutoConfig.from_pretrained(where, trust_remote_code=code, **how)


def parameters(layers: int, width: int, inner: int, vocab: int, positions: int) -> int:
    """About how many parameters a transformer has, whose feed-forward layers are ``inner`` wide."""
    return layers * width * (4 * width + 2 * inner) + (vocab + positions) * width


def _check_size(config, folder: Path) -> None:
    """Refuse a configuration of far more parameters than the weights beside it hold, before a
    library allocates them."""

    def number(*names: str) -> int:
        found = (getattr(config, name, None) for name in names)
        return next((value for value in found if type(value) is int), 0)

    layers, width = number("num_hidden_layers"), number("hidden_size")
    inner = number("intermediate_size", "n_inner") or 4 * width
    tables = number("max_position_embeddings") + number("type_vocab_size")
    described = parameters(layers, width, inner, number("vocab_size"), tables)
    if layers > 10_000:
        raise ValueError(f"it has {layers} layers")
    held = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if described > 32 * held + 10**8:  # layers may share theirs
        raise ValueError(
            f"it describes some {described / 1e9:.1f} billion parameters ({4e-9 * described:.0f} "
            f"GB), and the weights beside it have {held / 1e6:.1f} MB"
        )


def is_masked_lm(config) -> bool:
    """Whether models of this configuration fill masks: masked language models, decoders that were
    trained to, and what comes with code of its own and knows of a mask."""
    if family(config).decoder:
        return diffusion_settings(config).get("objective") == "diffusion"
    if _has_code(config):
        return _MASKED in config.auto_map or getattr(config, "mask_token_id", None) is not None
    return type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING


_MASKED, _CAUSAL = "AutoModelForMaskedLM", "AutoModelForCausalLM"


def _has_code(config) -> bool:
    """Whether it is one of code that came with a model, and was allowed to run."""
    return type(config).__module__.startswith("transformers_modules")


def load_masked_lm(name: str, tokenizer=None, access: Access = PLAIN, base: bool = False):
    """A masked language model, or a decoder that was trained as a denoiser, in evaluation mode and
    in float32 (see `Access` for large ones).

    Args:
        base: take any decoder, to train it as a denoiser.

    Raises:
        UserError: missing, not a masked LM, pickled, truncated, incomplete, with NaN weights, of
            another vocabulary size than ``tokenizer``, or of a type that does not work here.
    """
    if below := adapted(name):
        return _with_adapters(load_masked_lm(below, tokenizer, access, base), name)
    config = load_config(name, access)
    _check_kind(config, name, base)
    decoder = family(config).decoder
    causal = [a for a in config.architectures or [] if a.endswith("ForCausalLM")]
    if not (decoder or _has_code(config)) and (causal or getattr(config, "is_decoder", False)):
        raise UserError(
            f"{name} is a causal model ({(causal or ['is_decoder'])[0]}); diffusion needs a "
            "masked LM, which sees both sides"
        )
    model = _load_model(_auto_class(config), name, tokenizer, access)
    if decoder:
        model.config.is_causal = False  # what transformers builds attention masks by
    return model


def _check_kind(config, name: str, base: bool = False) -> None:
    """Refuse what is no masked language model and cannot be one, see `load_masked_lm`."""
    kind, decoder = config.model_type, family(config).decoder
    if family(config).refused:
        raise UserError(
            f"{name} is a {kind!r} model, and those {family(config).refused}; use another model"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{name} is a {kind!r} model, an encoder with a decoder behind it; diffusion needs a "
            "masked LM such as RoBERTa, or a decoder such as GPT-2 to train"
        )
    if decoder and not base and not is_masked_lm(config):
        raise UserError(
            f"{name} is a causal {kind!r} model that was not trained to fill masks; train it: python "
            f"finetune.py --model {name}"
        )
    if not decoder and not is_masked_lm(config):
        raise UserError(
            f"{name} is a {kind!r} model, which has no masked-language-model head; "
            "diffusion needs a masked LM such as RoBERTa"
        )


def _auto_class(config):
    if _has_code(config):
        offered = (name for name in (_MASKED, _CAUSAL, "AutoModel") if name in config.auto_map)
        return getattr(transformers, next(offered, _MASKED))
    return getattr(transformers, _CAUSAL if family(config).decoder else _MASKED)


def masked_lm(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """A masked language model that is in memory already, in evaluation mode. Of one with adapters of
    peft it is a copy with the adapters merged into the weights: writing in blocks reads those alone.

    Raises:
        UserError: a causal model, or adapters that cannot be merged, such as learned prompts.
    """
    if hasattr(model, "get_base_model") or getattr(model, "_hf_peft_config_loaded", False):
        if not hasattr(model, "merge_and_unload"):
            raise UserError(
                f"the adapters of {name} cannot be merged into its weights; give a PeftModel with "
                "adapters in its layers, such as LoRA"
            )
        model = copy.deepcopy(model).merge_and_unload()
    config = model.config
    _check_kind(config, name)
    decoder = family(config).decoder
    if type(model).__name__.endswith("ForCausalLM") and not decoder:
        raise UserError(
            f"{name} is a causal model ({type(model).__name__}); diffusion needs a masked LM, which "
            "sees both sides"
        )
    if decoder:
        config.is_causal = False
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
    return _load_model(transformers.AutoModelForCausalLM, name, tokenizer, access)


def _load_model(auto_class, name: str, tokenizer, access: Access):
    """The model ``name`` as ``auto_class`` reads it, checked."""
    config = load_config(name, access)
    where, local = locate(name)
    try:
        model, info = auto_class.from_pretrained(
            where,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            key_mapping=_renamed(where, local, access),
            **how_to_get(local, access),
            **_held(access),
        )
    except UserError:
        raise
    except Exception as error:  # the library raises many kinds; the user needs one sentence
        if not local:
            raise unreachable(name, "model", error) from None
        raise UserError(
            f"cannot read the weights of {where}: {first_line(error)}; the file may be truncated "
            "or not fit config.json"
        ) from None
    # RoBERTa's layers are called layer.N, ModernBERT's layers.N, GPT-2's h.N.
    layer = re.compile(r"\b(?:layers?|h)\.(\d+)\.")
    beyond = (
        key
        for key in info["unexpected_keys"]
        if (found := layer.search(key)) and int(found[1]) >= config.num_hidden_layers
    )
    if extra := next(beyond, None):
        raise UserError(f"the weights of {name} have more layers than its config says ({extra})")
    missing = [key for key in info["missing_keys"] if "position_ids" not in key]
    if missing:
        raise UserError(
            f"the weights of {name} lack {len(missing)} tensors of its {config.model_type} "
            f"architecture ({missing[0]}, ...); use weights saved with their language-model head"
        )
    broken = next((n for n, p in model.named_parameters() if not p.isfinite().all()), None)
    if broken:
        raise UserError(f"the weights of {name} hold NaN or infinity ({broken}); use others")
    if tokenizer is not None:
        check_vocabulary(model.config, tokenizer, name)
    return linear.quantize(model.eval()) if _in_eight_bits(access) else model.eval()


def check_vocabulary(config, tokenizer, name: str) -> None:
    """Refuse a tokenizer that was not made for the model."""
    # Some have rows to spare, up to a few hundred of a large vocabulary; nobody writes those.
    spare = max(128, config.vocab_size // 100)
    if len(tokenizer) > config.vocab_size or config.vocab_size - len(tokenizer) >= spare:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and model {name} {config.vocab_size}; use "
            "the tokenizer the model was trained with"
        )


def _renamed(where: str, local: bool, access: Access) -> dict | None:
    """The names of weights that a native model has otherwise."""
    how = how_to_get(local, access)
    code = how.pop("trust_remote_code")
    raw, _ = transformers.PretrainedConfig.get_config_dict(where, **how)
    return None if code else NATIVE.get(raw.get("model_type"), (None, None))[1]


def _held(access: Access) -> dict:
    """In which number format, and where, a model is to be read."""
    if access.device_map is None and access.quantize is None:
        return {"dtype": torch.float32}
    if _in_eight_bits(access):
        return {"dtype": torch.float32}
    held = {"dtype": torch.bfloat16, "device_map": access.device_map or "cuda"}
    if access.quantize is not None:
        if not torch.cuda.is_available():
            raise UserError(
                f"--quantize {access.quantize} needs a CUDA device, and there is none; a CPU has "
                "--quantize 8bit alone"
            )
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError(
                f"--quantize {access.quantize} needs the package bitsandbytes, which is not "
                "installed: pip install bitsandbytes"
            )
        bits = {f"load_in_{access.quantize}": True}
        held["quantization_config"] = transformers.BitsAndBytesConfig(**bits)
    return held


def _in_eight_bits(access: Access) -> bool:
    """Whether the CPU is to round what bitsandbytes would on a GPU."""
    here = not torch.cuda.is_available() and access.device_map is None
    return access.quantize == "8bit" and here


def companion(name: str, file: str) -> Path:
    """Where a file beside the weights of a model lies, local or on the hub; it may be missing."""
    where, local = locate(name)
    if local:
        return Path(where, file)
    try:
        return Path(huggingface_hub.hf_hub_download(where, file))
    except Exception as error:  # the library raises many kinds
        raise unreachable(name, f"{file} of model", error) from None


def diffusion_settings(config) -> dict:
    """What finetune.py recorded in the config (empty for a model it never trained).

    Raises:
        UserError: something that it would not have.
    """
    settings = getattr(config, "diffusion", None)
    if settings is None:
        return {}
    kinds = {
        "objective": str,
        "shift": bool,
        "prefix_len": int,
        "layouts": dict,
        "tokens_seen": int,
        "noise": str,
        "p_u": float,
    }
    wrong = not isinstance(settings, dict) or any(
        type(settings[name]) is not kind for name, kind in kinds.items() if name in settings
    )
    if wrong:
        raise UserError(
            f"the config has no settings of diffusion that can be: {str(settings)[:200]}; copy the "
            "folder that finetune.py wrote, or take 'diffusion' out of its config.json"
        )
    return dict(settings)


def noise_settings(config, name: str) -> dict:
    """The noise that a model was trained to remove, its ``name`` and, of hybrid noise, its ``p_u``.

    Raises:
        UserError: one that there is not.
    """
    settings = diffusion_settings(config)
    kind, p_u = settings.get("noise", "absorbing"), settings.get("p_u", 0.0)
    if kind not in KINDS or not 0 <= p_u < 1 or (kind == "hybrid") != ("p_u" in settings):
        raise UserError(
            f"{name} was trained for noise {kind!r} with p_u {settings.get('p_u')}, which there is "
            f"not; there are {', '.join(KINDS)}, and hybrid has a p_u from 0 to below 1"
        )
    return {"name": kind} | ({"p_u": p_u} if kind == "hybrid" else {})


# ---------------------------------------------------------------- a place to compute


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
    """(the model there, ready to write, its number format); ``exact`` keeps small models in float32.
    Nobody trains or moves it any more."""
    if getattr(model, "hf_device_map", None) is not None:  # it has its place
        return model, model.dtype
    if exact and model.num_parameters() < _SMALL:
        dtype = torch.float32
    model = model.to(device, dtype)
    return linear.pack(model) if linear.packs(device, dtype) else model, dtype
