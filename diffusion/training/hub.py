"""The hub: a token for it, a revision of a model, and a finished folder that is uploaded."""

import os
from pathlib import Path

import huggingface_hub

from diffusion.errors import UserError, first_line
from diffusion.models import loading

# What a model folder is read from; pickled weights are not among it.
_READ = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]
# What a run leaves beside its model is not uploaded with it.
_LEFT_OUT = ["checkpoint-*", "runs/*", ".*", "*/.*"]


def use_token(token: str | None) -> None:
    """Give it to all libraries of this process; None: the one that the machine has, if any."""
    if token is not None:
        os.environ["HF_TOKEN"] = token


def take_revision(model) -> None:
    """Take the model of the options at the revision they ask for: a folder becomes its ``place``.

    Raises:
        UserError: it cannot be had.
    """
    if model.revision is None:
        return
    name, _ = loading.locate(model.model)
    try:
        model.place = huggingface_hub.snapshot_download(
            name, revision=model.revision, allow_patterns=_READ
        )
    except Exception:  # the library raises many kinds
        raise loading.unreachable(f"{name} at {model.revision}", "model") from None


def check_publishing(args) -> None:
    """Refuse, before any work, a name or a want of a token with which no upload can succeed."""
    name = _repository(args)
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except huggingface_hub.errors.HFValidationError as error:
        raise UserError(f"--hub_model_id {name!r} is no name: {first_line(error)}") from None
    if huggingface_hub.get_token() is None:
        raise UserError(
            "--push_to_hub needs a token that may write: run 'hf auth login', or set the variable "
            "HF_TOKEN"
        )


def publish(folder: Path, args) -> str:
    """Upload a finished model folder with its card -> its address.

    Raises:
        UserError: it could not be; the folder is as it was.
    """
    name = _repository(args)
    try:
        api = huggingface_hub.HfApi()
        name = api.create_repo(name, private=args.hub_private_repo, exist_ok=True).repo_id
        api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=_LEFT_OUT)
    except Exception as error:  # the library raises many kinds
        raise UserError(
            f"{folder} is saved, and could not be uploaded ({first_line(error)}); try "
            f"'hf upload {name} {folder} --exclude checkpoint-*' later"
        ) from None
    return f"{huggingface_hub.constants.ENDPOINT}/{name}"


def _repository(args) -> str:
    return args.hub_model_id or Path(args.output_dir).absolute().name
