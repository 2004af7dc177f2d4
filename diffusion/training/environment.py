"""What a launcher says by variables, held against the flags of a run: a flag is never overruled, and what is
left over from another launch is refused, or ignored where it changes nothing."""

import os
import socket

from diffusion.cli.console import say
from diffusion.cli.launch import launched
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
    others, or fail without a word about it. Those of a single process are dropped, and that is said."""
    compiler = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if compiler.lower() not in ("", "no"):
        raise UserError(
            f"the variable ACCELERATE_DYNAMO_BACKEND {compiler} would compile the wrong part of the "
            "model; unset it, and use --torch_compile"
        )
    found = {name: os.environ[name] for name in _PLACE if name in os.environ}
    for name, value in found.items():
        if name != "MASTER_ADDR" and not value.removeprefix("-").isdigit():
            raise UserError(f"the variable {name} {value!r} is no number; unset it")
    world, rank, local = (
        int(found.get(name, default))
        for name, default in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", -1))
    )
    if world <= 1 and rank <= 0 and local < 0:
        return
    said = ", ".join(f"{name} {value}" for name, value in found.items())
    if world <= 1 and rank <= 0 and not launched():
        for name in found:
            del os.environ[name]
        say(f"note: trains in one process; variables that no launcher set are ignored: {said}")
    elif fault := _fault(found, world, rank):
        raise UserError(
            f"these variables speak of several processes, and {fault}: {said}; unset them, or start with "
            "accelerate launch or torchrun"
        )


def _fault(found: dict[str, str], world: int, rank: int) -> str:
    """What is wrong with the variables of several processes; else ""."""
    missing = [name for name in _PLACE if name not in found]
    if missing:
        return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"
    if rank >= world:
        return "they contradict each other"
    if not launched():
        return "no launcher set them"
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun itself listens there
        place = found["MASTER_ADDR"], int(found["MASTER_PORT"])
        try:
            socket.create_connection(place, timeout=10).close()
        except (OSError, OverflowError, UnicodeError):
            return "their launcher does not answer any more"
    return ""
