"""LoRA, by peft: low-rank adapters are trained instead of the matrices (arXiv:2106.09685)."""

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from diffusion.errors import UserError, first_line

FILE = "adapter_model.safetensors"
_SETTINGS = ("r", "lora_alpha", "lora_dropout", "target_modules")


def adapt(model: PreTrainedModel, settings: dict):
    """The model with adapters in its layers, as a PeftModel; from now on only they are trained.

    Args:
        settings: of `arguments.parse_lora`; `UserError` where a target matches no layer.
    """
    try:
        import peft
    except ImportError as error:
        raise UserError(f"--lora needs a package ({first_line(error)}): pip install peft") from None
    output = model.get_output_embeddings()  # many models share it with their embeddings
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not output
    ]
    for target in settings["target_modules"]:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = sorted({name.rpartition(".")[2] for name in names})
            raise UserError(
                f"--lora targets={target} matches no layer of {type(model).__name__}; it has "
                f"{', '.join(known[:12])}"
            )
    warnings.simplefilter("ignore", FutureWarning)  # peft calls names that its library renames
    settings = {**settings, "target_modules": settings["target_modules"] or names}
    return peft.get_peft_model(model, peft.LoraConfig(**settings))


def load(adapted, folder: Path) -> None:
    """Load the adapters of a checkpoint; ValueError where they are of other settings, or not all there."""
    import peft

    ours, theirs = adapted.active_peft_config, peft.PeftConfig.from_pretrained(folder)
    if any(getattr(ours, name) != getattr(theirs, name) for name in _SETTINGS):
        raise ValueError("it has other settings of --lora")
    found = peft.set_peft_model_state_dict(adapted, load_file(folder / FILE))
    missing = [name for name in found.missing_keys if "lora_" in name]
    if wrong := [*missing, *found.unexpected_keys]:
        raise ValueError(f"{wrong[0]} is missing, or not of the model")


@torch.no_grad()
def merged(adapted, weights: PreTrainedModel) -> PreTrainedModel:
    """The model with the adapters merged into its matrices, in place.

    Args:
        weights: a model of the same shape, whose values are copied first.
    """
    base = adapted.get_base_model()
    for ours, theirs in zip(base.parameters(), weights.parameters(), strict=True):
        ours.copy_(theirs)
    return adapted.merge_and_unload(safe_merge=True)
