"""A run that is stopped and goes on is the run that was never stopped."""

import fcntl
import os
import pickle
import pty
import random
import re
import signal
import termios
import time
from pathlib import Path

import pytest
import torch
from helpers.training import (
    RUN,
    SIZE,
    TWO,
    assert_same_weights,
    files,
    kill_a_rank,
    losses,
    split,
    start,
    state,
)
from safetensors.torch import load_file

from diffusion import hardware
from diffusion.cli.files import locked


@pytest.mark.slow
def test_a_run_interrupted_twice_equals_the_whole_one(train, text, tmp_path):
    """Ctrl-C at one step, SIGKILL at another, both in processes of their own; then the rest here
    must end with bit for bit the weights, average, optimiser and losses of a run never stopped."""
    flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", "90", "--ema", "0.95",
             "--dropout", "0.1", "--save_strategy", "steps", "--save_steps", "7",
             "--save_total_limit", "2", "--gradient_accumulation_steps", "2"]  # fmt: skip
    whole, out = tmp_path / "whole", tmp_path / "out"
    code, _ = train(*flags, "--output_dir", whole)
    assert code == 0

    flags += ["--output_dir", out]
    process = start(flags, tmp_path)
    for line in process.stdout:  # the log of each step
        if line.startswith("{'loss'"):
            break
    time.sleep(random.uniform(0, 0.2))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    stopped = int(re.search(r"stopped at step (\d+); resume with .*--resume_from", err)[1])
    assert 0 < stopped < 60
    assert (out / f"checkpoint-{stopped}").is_dir()
    assert state(out / f"checkpoint-{stopped}")["global_step"] == stopped
    # The run has written into its output folder, and nowhere else.
    assert [p for name in ("home", "here", "tmp") for p in files(tmp_path / name)] == []
    assert files(out) == [p for p in files(out) if p.startswith("checkpoint-")]

    flags += ["--resume_from_checkpoint", "last"]
    process = start(flags, tmp_path)
    for line in process.stdout:
        if line.startswith("{'loss'"):
            break
    until = stopped + 15
    while not any(int(p.name[11:]) >= until for p in out.glob("checkpoint-*")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed = max(int(p.name[11:]) for p in out.glob("checkpoint-*"))
    assert killed < 90

    code, err = train(*flags)
    assert code == 0
    assert "training a byte-level BPE" not in err  # the checkpoint has the tokenizer
    for name in ("model.safetensors", "checkpoint-90/model.safetensors"):
        assert_same_weights(whole / name, out / name)
    assert_same_weights(
        whole / "checkpoint-90/ema.safetensors", out / "checkpoint-90/ema.safetensors"
    )
    for name in ("optimizer.pt", "scheduler.pt"):
        first, second = (torch.load(f / "checkpoint-90" / name) for f in (whole, out))
        assert str(first) == str(second)
    assert losses(whole) == losses(out)
    whole_card, card = ((f / "README.md").read_text() for f in (whole, out))
    unequal = re.compile(r".*wall time.*|# .*")
    assert unequal.sub("", whole_card).replace(str(whole), str(out)) == unequal.sub("", card)
    assert [p.name for p in out.glob(".*")] == []


def test_overwriting_leaves_no_checkpoint_of_the_run_before(train, text, tmp_path):
    """`--resume_from_checkpoint last` would otherwise go on with the other run."""
    flags = [*RUN, *SIZE, "--dataset", text, "--save_strategy", "steps", "--save_steps", 2,
             "--save_total_limit", 3, "--output_dir", tmp_path / "out"]  # fmt: skip
    train(*flags, "--max_steps", 8)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    code, _ = train(*flags, "--max_steps", 4, "--overwrite_output_dir")
    assert code == 0
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert [n for n in names if n.startswith("checkpoint")] == ["checkpoint-2", "checkpoint-4"]
    assert "notes.txt" in names


@pytest.mark.slow
def test_going_back_to_an_earlier_checkpoint_drops_the_later_ones(train, text, tmp_path):
    out = tmp_path / "out"
    flags = [*RUN, *SIZE, "--dataset", text, "--save_strategy", "steps", "--save_steps", 2,
             "--save_total_limit", 9, "--output_dir", out]  # fmt: skip
    train(*flags, "--max_steps", 8)
    code, _ = train(*flags, "--max_steps", 6, "--resume_from_checkpoint", out / "checkpoint-2")
    assert code == 0
    assert sorted(p.name for p in out.glob("check*")) == [f"checkpoint-{n}" for n in (2, 4, 6)]


@pytest.mark.parametrize(
    "length",
    [("--max_steps", 3), pytest.param(("--num_train_epochs", 0.3), marks=pytest.mark.slow)],
    ids=str,
)
def test_the_end_of_a_run_is_not_trained_further(train, text, tmp_path, length):
    """Neither when all was written, nor when the process died before the final files were."""
    out = tmp_path / "out"
    flags = [*RUN, *SIZE, "--dataset", text, *length, "--save_strategy", "steps", "--save_steps", 1,
             "--dropout", 0.1, "--ema", 0.9, "--output_dir", out]  # fmt: skip
    train(*flags)
    before = (out / "model.safetensors").read_bytes()
    card = (out / "README.md").read_text()
    for left in ([], ["model.safetensors", "README.md"]):
        for name in left:
            (out / name).unlink()
        code, err = train(*flags, "--resume_from_checkpoint", "last")
        assert code == 0 and "nothing is left to train" in err
        assert (out / "model.safetensors").read_bytes() == before
        unequal = re.compile(r".*wall time.*")
        assert unequal.sub("", (out / "README.md").read_text()) == unequal.sub("", card)


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_run_that_breaks_down_ends_and_keeps_what_was_good(train, text, tmp_path, clip):
    """The first step has a learning rate of 0, the second one that is far too large."""
    out = tmp_path / "out"
    code, err = train(*RUN, *SIZE, "--dataset", text, "--save_strategy", "steps", "--save_steps", 1,
                      "--save_total_limit", 9, "--output_dir", out, "--max_steps", 20,
                      "--learning_rate", "1e30", "--max_grad_norm", clip,
                      "--lr_scheduler_type", "constant_with_warmup", "--warmup_steps", 2)  # fmt: skip
    assert code == 2 and "is not finite at step" in err and "Traceback" not in err
    kept = sorted(out.glob("checkpoint-*"))
    assert out / "checkpoint-1" in kept and len(kept) < 4
    for checkpoint in kept:
        weights = load_file(checkpoint / "model.safetensors").values()
        assert all(weight.isfinite().all() for weight in weights)
    assert not (out / "model.safetensors").exists()


def test_lost_or_damaged_random_numbers_are_told(train, text, trained):
    flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", 4, "--save_strategy", "steps",
             "--save_steps", 2, "--save_total_limit", 9, "--output_dir", trained]  # fmt: skip
    numbers = trained / "checkpoint-2" / "rng_state.pth"
    whole = numbers.read_bytes()
    for content in (whole[: len(whole) // 2], b"", pickle.dumps(["a", 1])):
        numbers.write_bytes(content)
        code, err = train(*flags, "--resume_from_checkpoint", numbers.parent)
        said = [line for line in err.splitlines() if line.startswith("finetune.py: ")]
        assert code == 2 and len(said) == 1 and "rng_state.pth" in said[0]
    numbers.unlink()
    code, err = train(*flags, "--resume_from_checkpoint", numbers.parent)
    assert code == 0 and "has no rng_state.pth" in err


def test_what_a_killed_first_checkpoint_leaves_is_no_obstacle(train, text, tmp_path):
    out = tmp_path / "out"
    for name in (".writing", ".writing-model"):
        (out / name / "checkpoint-2").mkdir(parents=True)
    (out / ".lock").write_text("1\n")
    code, _ = train(*RUN, *SIZE, "--dataset", text, "--max_steps", 2, "--output_dir", out)
    assert code == 0 and (out / "model.safetensors").is_file()
    assert [p.name for p in out.glob(".*")] == []


def test_two_runs_do_not_share_a_folder(train, text, tmp_path):
    out = tmp_path / "out"
    flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", 2, "--output_dir", out]
    with locked(out):
        code, err = train(*flags)
        assert code == 2 and "is being written by another process;" in err
        assert files(out) == [".lock"]
    assert train(*flags)[0] == 0


@pytest.mark.slow
def test_a_terminal_that_is_gone_takes_no_training_with_it(text, tmp_path):
    """Its messages have nowhere to go, and its end is a SIGHUP; the checkpoint is written."""
    out = tmp_path / "out"
    ours, theirs = pty.openpty()

    def take_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = start([*RUN, *SIZE, "--dataset", text, "--max_steps", 5000, "--output_dir", out],
                    tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
                    preexec_fn=take_terminal)  # fmt: skip
    os.close(theirs)
    seen = b""
    while b"{'loss'" not in seen:
        seen += os.read(ours, 4096)
    os.close(ours)
    assert process.wait(timeout=60) == 130
    (checkpoint,) = out.glob("checkpoint-*")
    assert (checkpoint / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_terminal_that_is_gone_before_anybody_says_so(text, tmp_path):
    """Messages meet it first, and nobody sends a SIGHUP: training goes on until one comes."""
    out = tmp_path / "out"
    ours, theirs = pty.openpty()
    process = start([*RUN, *SIZE, "--dataset", text, "--max_steps", 5000, "--output_dir", out,
                     "--save_strategy", "steps", "--save_steps", 50], tmp_path,
                    stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)  # fmt: skip
    os.close(theirs)
    seen = b""
    while b"{'loss'" not in seen:
        seen += os.read(ours, 4096)
    os.close(ours)
    known = set(out.glob("checkpoint-*"))
    while process.poll() is None and not set(out.glob("checkpoint-*")) - known:
        time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 130


@pytest.mark.slow
def test_a_wish_to_end_keeps_what_was_trained_and_an_ignored_hangup_is_none(text, tmp_path):
    """As nohup tells its command."""
    out = tmp_path / "out"
    process = start([*RUN, *SIZE, "--dataset", text, "--max_steps", 5000, "--output_dir", out],
                    tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # fmt: skip
    lines = (line for line in process.stdout if line.startswith("{'loss'"))
    next(lines)
    process.send_signal(signal.SIGHUP)
    for _ in range(20):
        next(lines)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert re.search(r"stopped at step \d+", err) and len(list(out.glob("checkpoint-*"))) == 1


def test_what_belongs_to_others_stays(train, text, four_steps, trained, tmp_path):
    """Resuming a checkpoint elsewhere, or taking a model out of the folder that is replaced."""
    one, two = four_steps, trained
    flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", 4, "--save_strategy", "steps",
             "--save_steps", 2, "--save_total_limit", 5]  # fmt: skip
    before = files(two)
    first = ["--resume_from_checkpoint", one / "checkpoint-2"]
    code, err = train(*flags, *first, "--output_dir", two)
    assert code == 2 and "exists and is not empty" in err and files(two) == before
    assert train(*flags, *first, "--output_dir", tmp_path / "new")[0] == 0
    for model in (two, two / "checkpoint-2"):
        code, err = train(*flags[: len(RUN)], "--dataset", text, "--model", model, "--output_dir", two,
                          "--overwrite_output_dir")  # fmt: skip
        assert code == 2 and "lies in --output_dir" in err and files(two) == before


def test_an_average_that_is_missing_is_not_begun_anew(train, text, trained):
    flags = [*RUN, *SIZE, "--dataset", text, "--save_strategy", "steps", "--save_steps", 2,
             "--output_dir", trained]  # fmt: skip
    before = (trained / "model.safetensors").read_bytes()
    for steps in (4, 6):
        code, err = train(*flags, "--max_steps", steps, "--ema", "0.9",
                          "--resume_from_checkpoint", "last")  # fmt: skip
        assert code == 2 and "--ema" in err.splitlines()[-1]
    assert (trained / "model.safetensors").read_bytes() == before


def _reads_torch(process) -> bool:
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_ctrl_c_while_the_libraries_are_read_is_no_traceback(text, tmp_path):
    for wait in (0, 0.5):
        process = start([*RUN, *SIZE, "--dataset", text, "--max_steps", 5000,
                         "--output_dir", tmp_path / "out"], tmp_path)  # fmt: skip
        while not _reads_torch(process):
            time.sleep(0.01)
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and "Traceback" not in err, err


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_one_goes_on_alone(train, text, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    flags = [*RUN, *SIZE, "--dataset", text, "--save_strategy", "steps", "--save_steps", 4,
             "--lr_scheduler_type", "constant"]  # fmt: skip
    process = start([*flags, "--max_steps", 5000, *split(2, 1), "--output_dir", two], tmp_path, TWO)
    for line in process.stdout:
        if line.startswith("{'loss'") and list(two.glob("checkpoint-*")):
            break
    kill_a_rank(process)
    process.communicate(timeout=30)
    assert process.returncode not in (0, None)
    step = max(int(p.name.split("-")[1]) for p in two.glob("checkpoint-*"))
    rest = ["--max_steps", step + 4, *split(4, 1)]
    code, err = train(*flags, *rest, "--output_dir", two, "--resume_from_checkpoint", "last")
    assert code == 0 and "note" in err and "rng_state.pth" in err
    code, _ = train(*flags, *rest, "--output_dir", one)
    assert code == 0
    assert {i: v for i, v in losses(two).items() if i > step} == pytest.approx(
        {i: v for i, v in losses(one).items() if i > step}, rel=2e-5
    )


def test_accelerate_that_starts_one_process_is_told(train, text, tmp_path, monkeypatch):
    """`accelerate launch --cpu --num_processes 2` does, by these variables."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", 1, "--output_dir", tmp_path / "out"]
    code, err = train(*flags)
    assert code == 0 and "accelerate launch has started one process" in err
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert hardware.launch_note("finetune.py") is None
