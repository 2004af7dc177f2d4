"""Damaged checkpoints, full disks."""

import contextlib
import pickle
import resource

import pytest
import torch
from helpers.training import RUN, SIZE
from safetensors.torch import load_file, save_file


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("trainer_state.json", "half", ["trainer_state.json"]),
        ("model.safetensors", "half", ["it is damaged"]),
        ("optimizer.pt", "half", ["optimizer.pt", "damaged"]),
        ("scheduler.pt", "gone", ["scheduler.pt", "missing"]),
        ("model.safetensors", "other", ["--config"]),
    ],
)
def test_a_damaged_checkpoint_is_refused(refused, trained, name, damage, words):
    checkpoint = trained / "checkpoint-4"
    path = checkpoint / name
    if damage == "gone":
        path.unlink()
    elif damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        tensors = load_file(path)
        save_file({k: v[..., :8].contiguous() for k, v in tensors.items()}, path, {"format": "pt"})
    refused(["--max_steps", 6, "--resume_from_checkpoint", "last"], str(checkpoint), *words)


@contextlib.contextmanager
def full_disk(size: int):
    """No file can grow beyond ``size`` bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
@pytest.mark.parametrize("size", [30_000, 60_000], ids=["weights", "optimiser"])
def test_a_full_disk_while_training_keeps_the_last_checkpoint(run, refused, size):
    flags = ["--save_strategy", "steps", "--save_steps", 2]
    run(*flags, "--max_steps", 2)
    flags += ["--max_steps", 4, "--resume_from_checkpoint", "last"]
    with full_disk(size):
        refused(flags, "cannot write", "checkpoint-4", "free some space")
    run(*flags)


def test_a_full_disk_at_the_end_leaves_no_half_model(refused):
    with full_disk(30_000):
        refused(["--max_steps", 2], "cannot write", "space")


class Runs:
    """A pickle that, when it is read without care, leaves a file behind."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [False, True], ids=["pickle", "torch"])
def test_no_pickle_is_run_wherever_one_is_read(train, text, trained, tmp_path, zipped):
    """In a checkpoint, whose optimiser, schedule and random numbers torch reads, and beside weights."""
    checkpoint, marker = trained / "checkpoint-2", tmp_path / "marker"
    flags = [*RUN, *SIZE, "--dataset", text, "--output_dir", trained]
    on = [*flags, "--max_steps", 3, "--resume_from_checkpoint", checkpoint]

    def spoil(path):
        if zipped:
            torch.save(Runs(marker), path)
        else:
            path.write_bytes(pickle.dumps(Runs(marker)))

    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):  # which are read
        kept = (checkpoint / name).read_bytes()
        spoil(checkpoint / name)
        code, err = train(*on)
        assert code == 2 and name in err.splitlines()[-1] and "Traceback" not in err
        (checkpoint / name).write_bytes(kept)
    for name in ("training_args.bin", "scaler.pt", "pytorch_model.bin", "ema.bin"):
        spoil(checkpoint / name)
    assert train(*on)[0] == 0 and not marker.exists()
