"""Find, load and save models and tokenizers: local folders first, safetensors only."""

import functools
import re
import sys
from pathlib import Path

import huggingface_hub
import torch
import transformers

from diffusion import hardware
from diffusion.cli.files import given_path
from diffusion.errors import UserError, first_line
from diffusion.samplers.catalog import NOISES

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"

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


def unreachable(name: str, what: str) -> UserError:
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


def load_config(name: str):
    """The configuration of a model, local or on the hub."""
    where, local = locate(name)
    if local:
        _check_folder(Path(where))
    try:
        config = transformers.AutoConfig.from_pretrained(
            where, local_files_only=local, trust_remote_code=False
        )
        if not all(isinstance(name, str) for name in config.architectures or []):
            raise ValueError("its architectures are no list of names")
        if local:
            _check_size(config, Path(where))
        return config
    except Exception as error:  # the library raises many kinds; the user needs one sentence
        if not local:
            raise unreachable(name, "model") from None
        raise UserError(
            f"cannot read the config of {where}: {first_line(error)}; it may be damaged"
        ) from None


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
    """Whether models of this configuration can fill masks; a GPT-2 cannot."""
    return type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING


def load_masked_lm(name: str, tokenizer=None):
    """A masked language model in float32 and evaluation mode.

    Raises:
        UserError: missing, not a masked LM, pickled, truncated, incomplete, with NaN weights, or
            of another vocabulary size than ``tokenizer``.
    """
    config = load_config(name)
    if not is_masked_lm(config):
        raise UserError(
            f"{name} is a {config.model_type!r} model, which has no masked-language-model head; "
            "diffusion needs a masked LM such as RoBERTa"
        )
    model = _load_model(transformers.AutoModelForMaskedLM, name, tokenizer)
    decoders = [a for a in config.architectures or [] if a.endswith("ForCausalLM")]
    if decoders or getattr(config, "is_decoder", False):
        raise UserError(
            f"{name} is a causal model ({(decoders or ['is_decoder'])[0]}); diffusion needs a "
            "masked LM, which sees both sides"
        )
    return model


def load_causal_lm(name: str, tokenizer=None):
    """An autoregressive language model in float32 and evaluation mode; errors as those of
    `load_masked_lm`."""
    config = load_config(name)
    # A masked LM would load as a causal one, and write nonsense.
    if is_masked_lm(config) or type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"{name} is a {config.model_type!r} model, which does not write from left to right; "
            "the baseline needs a causal LM such as gpt2"
        )
    return _load_model(transformers.AutoModelForCausalLM, name, tokenizer)


def _load_model(auto_class, name: str, tokenizer):
    """The model ``name`` as ``auto_class`` reads it, checked."""
    config = load_config(name)
    where, local = locate(name)
    try:
        model, info = auto_class.from_pretrained(
            where,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=local,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # the library raises many kinds; the user needs one sentence
        if not local:
            raise unreachable(name, "model") from None
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
    return model.eval()


def check_vocabulary(config, tokenizer, name: str) -> None:
    """Refuse a tokenizer that was not made for the model."""
    if len(tokenizer) > config.vocab_size or config.vocab_size - len(tokenizer) >= 128:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and model {name} {config.vocab_size}; use "
            "the tokenizer the model was trained with"
        )


def companion(name: str, file: str) -> Path:
    """Where a file beside the weights of a model lies, local or on the hub; it may be missing."""
    where, local = locate(name)
    if local:
        return Path(where, file)
    try:
        return Path(huggingface_hub.hf_hub_download(where, file))
    except Exception:  # the library raises many kinds
        raise unreachable(name, f"{file} of model") from None


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
    if kind not in NOISES or not 0 <= p_u < 1 or (kind == "hybrid") != ("p_u" in settings):
        raise UserError(
            f"{name} was trained for noise {kind!r} with p_u {settings.get('p_u')}, which there is "
            f"not; there are {', '.join(NOISES)}, and hybrid has a p_u from 0 to below 1"
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
    """(the model there, its number format); ``exact`` keeps small models in float32."""
    if exact and model.num_parameters() < _SMALL:
        dtype = torch.float32
    return model.to(device, dtype), dtype
