"""Damaged checkpoints, full disks."""

import contextlib
import pickle
import resource

import pytest
import torch
from helpers.training import RUN, SIZE, files, one_sentence
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
def test_a_damaged_checkpoint_is_refused(train, text, trained, name, damage, words):
    out = trained
    flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", 4, "--output_dir", out]
    checkpoint = out / "checkpoint-4"
    path = checkpoint / name
    if damage == "gone":
        path.unlink()
    elif damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        tensors = load_file(path)
        save_file({k: v[..., :8].contiguous() for k, v in tensors.items()}, path, {"format": "pt"})
    before = files(out)
    code, err = train(*flags, "--resume_from_checkpoint", "last")
    assert code == 2
    one_sentence(err.splitlines(keepends=True)[-1], str(checkpoint), *words)
    assert files(out) == before


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
def test_a_full_disk_while_training_keeps_the_last_checkpoint(train, text, tmp_path, size):
    out = tmp_path / "out"
    flags = [*RUN, *SIZE, "--dataset", text, "--output_dir", out, "--save_strategy", "steps",
             "--save_steps", 2]  # fmt: skip
    assert train(*flags, "--max_steps", 2)[0] == 0
    before = files(out)
    with full_disk(size):
        code, err = train(*flags, "--max_steps", 4, "--resume_from_checkpoint", "last")
    assert code == 2
    one_sentence(
        err.splitlines(keepends=True)[-1], "cannot write", "checkpoint-4", "free some space"
    )
    assert "Traceback" not in err
    assert files(out) == before
    assert train(*flags, "--max_steps", 4, "--resume_from_checkpoint", "last")[0] == 0


def test_a_full_disk_at_the_end_leaves_no_half_model(train, text, tmp_path):
    with full_disk(30_000):
        code, err = train(*RUN, *SIZE, "--dataset", text, "--max_steps", 2,
                          "--output_dir", tmp_path / "out")  # fmt: skip
    assert code == 2
    one_sentence(err.splitlines(keepends=True)[-1], "cannot write", "space")
    assert files(tmp_path) == []


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
