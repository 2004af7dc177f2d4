"""What machine is this: device, number format, threads, and a clock that waits for the device."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch

from diffusion.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` takes CUDA, then Apple's MPS, then the CPU."""
    if name == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        name = next((kind for kind, available in there.items() if available), "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps", "xpu"):
            raise RuntimeError("not a device to compute on")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"--device {name} cannot be used here ({str(error).splitlines()[0]}); "
            "use auto, cpu, or a device this machine has"
        ) from None
    return device


def _cpuinfo(*names: str) -> str:
    """The first field of one of these names in the kernel's description of the processor, or ""."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` takes bfloat16 where the device computes it natively, else float32."""
    if name != "auto":
        if name not in DTYPES:
            raise UserError(f"--dtype {name!r} is unknown; use auto, {', '.join(DTYPES)}")
        return DTYPES[name]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # A system that does not list the features of its CPU counts as no.
        features = _cpuinfo("flags", "Features").split() if device.type == "cpu" else ()
        native = not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(features)
    return torch.bfloat16 if native else torch.float32


def describe(device: torch.device, dtype: torch.dtype) -> str:
    """One line for the user: which device, which number format."""
    name = device.type.upper()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}"
    return f"{name}, {str(dtype).removeprefix('torch.')}"


def processor() -> str:
    """The name of the processor, as far as the system knows it."""
    return _cpuinfo("model name") or platform.processor()


def record(device: torch.device, dtype: torch.dtype, *packages: str) -> dict:
    """What measured numbers depend on, for a JSON file: hardware, and the versions of Python,
    torch, transformers and other installed ``packages``."""
    versions = {name: importlib.metadata.version(name) for name in ("transformers", *packages)}
    versions = {"python": platform.python_version(), "torch": torch.__version__, **versions}
    return {"hardware": describe(device, dtype), "processor": processor(), "versions": versions}


def use_all_cores() -> None:
    """One thread for each core this process may run on (containers often allow fewer than exist), unless
    OMP_NUM_THREADS has a number, which torch has read by itself."""
    given = re.fullmatch(r"\s*[1-9][0-9]*\s*(,.*)?", os.environ.get("OMP_NUM_THREADS", ""))
    if hasattr(os, "sched_getaffinity") and not given:
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def keep_memory() -> None:
    """Keep freed memory in the process, where the C library is glibc: otherwise the kernel clears the
    same large pieces in each training step on a CPU, a tenth of the time of a small model."""
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another system's library
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def now(device: torch.device) -> float:
    """Seconds on a monotonic clock, read after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def memory_told(used: Callable[[], str]):
    """Running out of memory is a `UserError` that says with what."""
    try:
        yield
    except RuntimeError as error:  # on a CPU the allocator's is no class of its own
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise UserError(f"the device ran out of memory with {used()}") from None
