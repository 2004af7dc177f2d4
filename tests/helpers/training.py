"""finetune.py as tests run it: at a size that trains in a second."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import finetune
from diffusion.errors import run

ROOT = Path(finetune.__file__).resolve().parent
SIZE = ["--config", "layers=1,width=16,heads=2,vocab=300"]
RUN = [
    *("--block_size", "32", "--per_device_train_batch_size", "4", "--use_cpu", "--dtype"),
    *("float32", "--learning_rate", "2e-3", "--logging_steps", "1", "--disable_tqdm", "true"),
    *("--eval_strategy", "no", "--save_strategy", "no", "--prefix_len", "1"),
]


# `accelerate launch --cpu` alone starts one process; --multi_gpu is its way to say several.


def train_here(*flags) -> int:
    return anew(finetune, flags)


def anew(script, flags) -> int:
    """`exit_code`, without what accelerate remembers of an earlier run."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return exit_code(script, flags)


def exit_code(script, flags) -> int:
    """Of a script's module that is run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, flags)])
        try:
            run(script.main)
        except SystemExit as end:
            return end.code
    return 0


def start(
    flags, folder: Path, launcher=(), script: Path | None = None, **process
) -> subprocess.Popen:
    """finetune.py, or another ``script``, in a process of its own, whose home, current and temporary
    folders are empty; ``process``: other settings of it, ``env`` in addition to what all have."""
    more = process.pop("preexec_fn", None)

    def begin():
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # ignored where the tests run in the background
        if more is not None:
            more()

    for name in ("home", "here", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # a hub that does not answer
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if sys.pycache_prefix:
        environment["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    environment |= process.pop("env", {})
    return subprocess.Popen(
        [sys.executable, *launcher, str(script or ROOT / "finetune.py"), *map(str, flags)],
        cwd=folder / "here",
        env=environment,
        preexec_fn=begin,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **process},
    )


class Fork(multiprocessing.get_context("fork").Process):
    """A run of finetune.py, or another ``script``, in a copy of this process, which has all libraries already; it is killed
    where it is not awaited.

    Args:
        output: a file, or a terminal, that has what it writes.
        before: what it does first.
    """

    def __init__(
        self,
        flags,
        output: Path,
        before: Callable = lambda: None,
        script=finetune,
        **environment: str,
    ):
        super().__init__(daemon=True)
        self.flags, self.output, self.before, self.script = flags, output, before, script
        self.environment = environment
        self.start()

    def run(self):
        os.environ.update(self.environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.before()
        there = os.open(self.output, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOCTTY)
        for name, number in (("stdout", 1), ("stderr", 2)):
            os.dup2(there, number)
            stream = open(number, "w", buffering=1, closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        sys.exit(anew(self.script, self.flags))

    @property
    def said(self) -> str:
        return Path(self.output).read_text() if Path(self.output).exists() else ""

    def until(self, fine: Callable[[], object]) -> None:
        """Wait while it runs for something to be true."""
        end = time.monotonic() + 60
        while not fine():
            assert self.is_alive() and time.monotonic() < end
            time.sleep(0.01)

    def ends(self) -> int:
        """Its exit code."""
        self.join(timeout=60)
        return self.exitcode


def fork_two(flags, folder: Path, before: Callable = lambda: None, script=finetune) -> list[Fork]:
    """Two processes of one run, as `accelerate launch` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "1", "ACCELERATE_MIXED_PRECISION": "no"}  # fmt: skip
    return [
        Fork(flags, folder / f"said-{rank}", before, script, **told, RANK=rank, LOCAL_RANK=rank)
        for rank in ("0", "1")
    ]


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def state(folder: Path) -> dict:
    return json.loads((folder / "trainer_state.json").read_text())


def losses(folder: Path) -> dict[int, float]:
    return {
        entry["step"]: entry["loss"] for entry in state(folder)["log_history"] if "loss" in entry
    }


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = load_file(a), load_file(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def split(rows: int, accumulation: int) -> list:
    return ["--per_device_train_batch_size", rows, "--gradient_accumulation_steps", accumulation]


def one_sentence(err: str, *words: str) -> None:
    assert err.startswith("finetune.py: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in err
