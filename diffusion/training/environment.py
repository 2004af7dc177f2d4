"""What a launcher says by variables, held against the flags of a run: a flag is never overruled, and what is
left over from another launch is refused."""

import os

from diffusion.errors import UserError

_TRUE = ("1", "true", "t", "yes", "y", "on")  # as accelerate reads them
_PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def on_cpu(flag: bool) -> bool:
    """Whether ``--use_cpu``, or `accelerate launch --cpu`, says so."""
    device = os.environ.get("ACCELERATE_TORCH_DEVICE", "")
    if flag and device and not device.startswith("cpu"):
        raise UserError(
            f"--use_cpu contradicts the variable ACCELERATE_TORCH_DEVICE {device}; leave one out"
        )
    launched = os.environ.get("ACCELERATE_USE_CPU", "").lower() in _TRUE
    return flag or launched or device.startswith("cpu")


def number_format(flag: str) -> str:
    """``--dtype``, or where that is ``auto`` the format of `accelerate launch --mixed_precision`.

    Raises:
        UserError: they contradict each other, or the second is not supported.
    """
    said = os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower()
    if said in ("", "no"):  # "no" is also what the launcher sets where nobody asked
        return flag
    what = f"accelerate's mixed precision {said} (the variable ACCELERATE_MIXED_PRECISION)"
    if said != "bf16":
        raise UserError(f"{what} is not supported; use bf16, or no and --dtype")
    if flag == "float32":
        raise UserError(f"--dtype float32 contradicts {what}; leave one of them out")
    return "bfloat16"


def check_processes() -> None:
    """Refuse variables of several processes that no launcher can have set: the Trainer would wait for the
    others, or fail without a word about it."""
    compiler = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if compiler.lower() not in ("", "no"):
        raise UserError(
            f"the variable ACCELERATE_DYNAMO_BACKEND {compiler} would compile the wrong part of the "
            "model; unset it, and use --torch_compile"
        )
    numbers = {name: os.environ[name] for name in _PLACE[:3] if name in os.environ}
    for name, value in numbers.items():
        if not value.removeprefix("-").isdigit():
            raise UserError(f"the variable {name} {value!r} is no number; unset it")
    world, rank = (
        int(numbers.get(name, least)) for name, least in (("WORLD_SIZE", 1), ("RANK", 0))
    )
    claims = world > 1 or rank > 0 or int(numbers.get("LOCAL_RANK", -1)) >= 0
    missing = [name for name in _PLACE if name not in os.environ]
    if claims and (missing or rank >= world):
        said = ", ".join(f"{name} {value}" for name, value in numbers.items())
        fault = f"{', '.join(missing)} not set" if missing else "they contradict each other"
        raise UserError(
            f"these variables speak of several processes, and no launcher set them: {said} ({fault}); "
            "unset them, or start with accelerate launch"
        )
