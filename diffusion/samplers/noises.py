"""What goes with which noise, and the sentences that refuse the rest. Imports no torch.

The table of docs/noise.md is made from `FEATURES` and the `catalog`; a test tries every line of it.
"""

from typing import NamedTuple

from diffusion.errors import UserError
from diffusion.samplers.catalog import NOISES, RANDOM, SAMPLERS


class Feature(NamedTuple):
    """A feature, and why it does not work with some noise."""

    flag: str  # its flags
    refused: dict[str, str]  # noise -> what it does or lacks


_NO_BLOCKS = "is trained on the full canvas only"
_FIRST = "starts from random tokens"
_MASKS_ALONE = dict.fromkeys(RANDOM, "contains random tokens")  # in training
FEATURES = {
    "attention": Feature("--attention block", dict.fromkeys(RANDOM, _NO_BLOCKS)),
    "block_length": Feature(
        "--block_length", {"uniform": f"{_FIRST}, and later blocks must be masks"}
    ),
    "early_commit": Feature(
        "--early_commit", {"uniform": f"{_FIRST}, so no masks are left to write at once"}
    ),
    "guidance": Feature("--guidance", {"uniform": "has no masks to hide the prompt with"}),
    "infill": Feature(
        "--infill with a range of lengths",
        {"uniform": "has no masks, by which lengths are compared"},
    ),
    "editing": Feature("--infill with one length, --rewrite, --interpolate", {}),
    "likelihood": Feature("--score, --best_of", {}),
    "others": Feature(
        "--window_stride, --repetition_penalty, --no_repeat_ngram_size, --temperature, --top_k, --top_p",
        {},
    ),
    "training": Feature(
        "finetune.py with --loss mean, --mask_schedule batch, --layouts, --soft_masking or "
        "--objective causal",
        _MASKS_ALONE,
    ),
    "clipped": Feature("finetune.py with --loss clipped", {"absorbing": "has no clipped weights"}),
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
        check_feature("attention", noise, model)
    for name in ("block_length", "early_commit", "guidance"):
        if getattr(options, name):
            check_feature(name, noise, model, f" {getattr(options, name)}")


def check_feature(name: str, noise: str, model: str, value: str = "") -> None:
    """Refuse one of `FEATURES`.

    Raises:
        UserError: the noise does not go with it.
    """
    feature = FEATURES[name]
    if lack := feature.refused.get(noise):
        _refuse(feature.flag + value, model, noise, lack, "leave it out")


def _refuse(what: str, model: str, noise: str, lack: str, advice: str) -> None:
    raise UserError(f"{what}: {model} was trained for {noise} noise, which {lack}; {advice}")


def table() -> str:
    """What works with which noise, for the docs; rows with equal cells are one."""
    rows = [(f"`{name}`", [sampler_lacks(name, n) for n in NOISES]) for name in SAMPLERS]
    rows += [(f.flag, [f.refused.get(noise) for noise in NOISES]) for f in FEATURES.values()]
    alike: dict[tuple, list[str]] = {}
    for name, lacks in rows:
        cells = tuple(f"refused: it {lack}" if lack else "works" for lack in lacks)
        alike.setdefault((name[0] == "`", *cells), []).append(name)
    lines = ["| | " + " | ".join(NOISES) + " |", "|---" * (len(NOISES) + 1) + "|"]
    for (_, *cells), names in alike.items():
        lines.append(f"| {', '.join(names)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
