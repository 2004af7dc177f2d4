"""What goes with which noise, and the sentences that refuse the rest. Imports no torch.

The table of docs/noise.md is made from `FEATURES` and the `catalog`; a test tries every line of it.
"""

from diffusion.errors import UserError
from diffusion.samplers.catalog import RANDOM, SAMPLERS

_NO_BLOCKS = "is trained on the full canvas only"
_FIRST = "starts from random tokens"
# Flags -> noise that they do not go with -> what that does or lacks.
FEATURES: dict[str, dict[str, str]] = {
    "--attention block": dict.fromkeys(RANDOM, _NO_BLOCKS),
    "--block_length": {"uniform": f"{_FIRST}, and later blocks must be masks"},
    "--early_commit": {"uniform": f"{_FIRST}, so no masks are left to write at once"},
    "--guidance": {"uniform": "has no masks to hide the prompt with"},
    "--infill with a range of lengths": {"uniform": "has no masks, by which lengths are compared"},
    "--infill with one length, --rewrite, --interpolate": {},
    "--score, --best_of": {},
    "--window_stride, --repetition_penalty, --no_repeat_ngram_size, --temperature, --top_k, --top_p": {},
    "finetune.py with --loss mean, --mask_schedule batch, --layouts, --soft_masking or "
    "--objective causal": dict.fromkeys(RANDOM, "contains random tokens"),
    "finetune.py with --loss clipped": {"absorbing": "has no clipped weights"},
}


def sampler_lacks(sampler: str, noise: str) -> str | None:
    """Why a sampler does not go with a noise; None where it does."""
    if noise in SAMPLERS[sampler].noises:
        return None
    if noise == "absorbing":
        return "never changes visible tokens, so that the model copies them"
    return "has no masks to write" if noise == "uniform" else _NO_BLOCKS


def check_noise(options, noise: str, model: str) -> None:
    """Refuse resolved `GenerationOptions` that do not go with the noise a model was trained for.

    Raises:
        UserError: the first of them.
    """
    if lack := sampler_lacks(options.sampler_name, noise):
        fitting = ", ".join(name for name, entry in SAMPLERS.items() if noise in entry.noises)
        _refuse(f"--sampler {options.sampler}", model, noise, lack, f"use one of {fitting}")
    if options.attention == "block":
        check_feature("--attention block", noise, model)
    for name in ("block_length", "early_commit", "guidance"):
        if value := getattr(options, name):
            check_feature(f"--{name}", noise, model, f" {value}")


def check_feature(flag: str, noise: str, model: str, value: str = "") -> None:
    """Refuse one of `FEATURES` that does not go with the noise, by a `UserError`."""
    if lack := FEATURES[flag].get(noise):
        _refuse(flag + value, model, noise, lack, "leave it out")


def _refuse(what: str, model: str, noise: str, lack: str, advice: str) -> None:
    raise UserError(f"{what}: {model} was trained for {noise} noise, which {lack}; {advice}")
