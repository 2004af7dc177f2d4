"""What goes with which noise, and the sentences that refuse the rest. Imports no torch.

The table of docs/noise.md is made from `FEATURES` and the `catalog`; a test tries every line of it.
"""

from typing import NamedTuple

from diffusion.errors import UserError
from diffusion.samplers.catalog import METHODS, NOISES


class Feature(NamedTuple):
    """Something that can be asked for, and why some noise does not go with it."""

    flag: str  # as it is asked for
    refused: dict[str, str]  # noise -> what it lacks


_RANDOM = "which begins with random tokens"
_BLOCKS = "which no model is trained for in blocks"
FEATURES = {
    "block_length": Feature(
        "--block_length", {"uniform": f"{_RANDOM}: blocks that are not begun yet have to be masks"}
    ),
    "early_commit": Feature(
        "--early_commit", {"uniform": f"{_RANDOM}: there are no masks left to be written at once"}
    ),
    "guidance": Feature(
        "--guidance", {"uniform": "which has no masks to hide what is given behind"}
    ),
    "attention": Feature("--attention block", {"uniform": _BLOCKS, "hybrid": _BLOCKS}),
    "infill": Feature(
        "--infill with a range of lengths",
        {"uniform": "which has no masks to hide a token behind, by which lengths are compared"},
    ),
}


def sampler_lacks(sampler: str, noise: str) -> str | None:
    """Why a sampler does not go with a noise; None where it does."""
    if noise in METHODS[sampler].noises:
        return None
    if noise == "absorbing":
        return "which only copies what it sees, and doubts no token"
    if noise == "uniform":
        return "which has no masks to open"
    return _BLOCKS


def check_noise(options, noise: str, model: str) -> None:
    """Refuse resolved `GenerationOptions` that do not go with the noise a model was trained for.

    Raises:
        UserError: the first of them.
    """
    if lack := sampler_lacks(options.sampler, noise):
        fitting = ", ".join(name for name, entry in METHODS.items() if noise in entry.noises)
        raise UserError(
            f"--sampler {options.sampler}: {model} was trained for {noise} noise, {lack}; use one of "
            f"{fitting}"
        )
    for name in ("block_length", "early_commit", "guidance"):
        if getattr(options, name):
            check_feature(name, noise, model, f" {getattr(options, name)}")
    if options.attention == "block":
        check_feature("attention", noise, model)


def check_feature(name: str, noise: str, model: str, value: str = "") -> None:
    """Refuse one of `FEATURES`.

    Raises:
        UserError: the noise does not go with it.
    """
    feature = FEATURES[name]
    if noise in feature.refused:
        raise UserError(
            f"{feature.flag}{value}: {model} was trained for {noise} noise, "
            f"{feature.refused[noise]}; leave it out"
        )


def table() -> str:
    """What works with which noise, for the docs."""
    rows = [
        (f"`--sampler {name}`", [sampler_lacks(name, noise) for noise in NOISES])
        for name in METHODS
    ]
    rows += [(f"`{f.flag}`", [f.refused.get(noise) for noise in NOISES]) for f in FEATURES.values()]
    lines = ["| | " + " | ".join(NOISES) + " |", "|---" * (len(NOISES) + 1) + "|"]
    for name, lacks in rows:
        cells = [f"refused: {lack}" if lack else "works" for lack in lacks]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
