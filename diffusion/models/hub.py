"""Where a model or tokenizer is read from: local folders first, then the hub."""

import contextlib
import functools
import re
import sys
from pathlib import Path

import huggingface_hub
import transformers

from diffusion.cli.files import given_path
from diffusion.cli.options import Access
from diffusion.errors import UserError, cause

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
PLAIN = Access()
CONVERT = (
    "pickled weights can run any code when read, so they are refused; convert them once, where you "
    "trust the file: AutoModelForMaskedLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
)


def embedded(kind: str) -> list[str]:
    """The names of the models of a type that come with the project."""
    configs = sorted(WEIGHTS.glob("*/config.json"))
    return [path.parent.name for path in configs if f'"model_type": "{kind}"' in path.read_text()]


def resolve(name: str) -> tuple[str, bool]:
    """(name or path, is it a local folder) of ``--model`` or ``--tokenizer``: a folder, the name of a
    folder in ``weights/``, or a name on the hub."""
    as_path = name.startswith((".", "/", "~"))
    for path in (given_path(name), *([] if as_path else [WEIGHTS / name])):
        if path.is_dir():
            return str(path), True
        if path.exists():
            raise UserError(f"model {name} is a file; give the folder that holds it")
    if as_path or not name.strip() or name.startswith("weights/") or name.count("/") > 1:
        raise UserError(
            f"model folder {name!r} does not exist; give a folder that finetune.py wrote, or a "
            "name on the hub such as roberta-base"
        )
    return name, False


def quiet_libraries() -> None:
    """No progress bars for reading or writing a file, and no warnings about what is checked here.
    Downloads and training keep their progress bars."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # that of downloads, too
    huggingface_hub.utils.enable_progress_bars()


@functools.cache
def ask_hub_once() -> str:
    """Ask whether the hub answers; if not, use the cache as HF_HUB_OFFLINE=1 does, since the libraries
    would retry every file for half a minute.

    Returns:
        why it is not asked for what the cache does not have, and what to do; "" if it answers.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return (
            "the variable HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, and it was not downloaded before; "
            "unset that"
        )
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)
    except Exception:  # each version's HTTP library has its own
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:  # else it will read the line above when it is imported
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
        return (
            f"{huggingface_hub.constants.ENDPOINT} does not answer, and it was not downloaded before; check "
            "the connection"
        )
    return ""


# What a library's error contains, and what it means.
_CAUSES = {
    r"trust_remote_code|custom code": "comes with Python code of its own, which runs only with "
    "--trust_remote_code; add it where you trust the code",
    r"(?i)sentencepiece|tiktoken|protobuf": "needs packages that are not installed: pip install "
    "sentencepiece tiktoken protobuf",  # the library tries one after the other, and names the last
    r"(?s)no file named model.safetensors|safetensors.*does not appear to have a file|"
    r"does not appear to have a file.*safetensors": f"has no *.safetensors file; {CONVERT}",
}


def unreadable(what: str, name: str, local: bool, error: BaseException) -> UserError:
    """Why the config, weights, tokenizer or a file of a model could not be read, as far as the
    library's error says."""
    for pattern, meaning in _CAUSES.items():
        if re.search(pattern, f"{type(error).__name__}: {error}"):
            return UserError(f"{name!r} {meaning}")
    if local:
        return UserError(
            f"cannot read the {what} of {name}: {cause(error)}; the file may be damaged, or not "
            "belong to the others of its folder"
        )
    why = "" if _downloaded(name) else ask_hub_once()
    why = why or f"{cause(error)}; check the name"
    return UserError(
        f"cannot get the {what} of {name!r} from the hub: {why}, or give a local folder"
    )


def _downloaded(name: str) -> bool:
    """Whether the cache has something of a model."""
    with contextlib.suppress(ValueError):  # no name that the hub allows
        return isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str)
    return False


def locate(name: str) -> tuple[str, bool]:
    """As `resolve`, with the libraries made ready to load it."""
    where, local = resolve(name)
    quiet_libraries()
    if not local:
        ask_hub_once()
    return where, local


def how_to_get(local: bool, access: Access) -> dict:
    """The arguments of ``from_pretrained`` for a model that is local, or on the hub."""
    how = {"local_files_only": local, "trust_remote_code": access.trust_remote_code}
    return how if local or access.revision is None else how | {"revision": access.revision}
