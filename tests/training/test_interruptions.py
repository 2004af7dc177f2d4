"""A run that is stopped and goes on is the run that was never stopped."""

import os
import pickle
import pty
import random
import re
import select
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.training import (
    RUN,
    SIZE,
    Fork,
    assert_same_weights,
    files,
    fork_two,
    losses,
    split,
    start,
    state,
)
from safetensors.torch import load_file

from diffusion.cli import console
from diffusion.cli.files import locked


def logged(run: Fork) -> bool:
    """Whether it trains."""
    return "{'loss'" in run.said


def steps(folder: Path) -> list[int]:
    """Of the checkpoints of a run."""
    return sorted(int(path.name[11:]) for path in folder.glob("checkpoint-*"))


@pytest.fixture
def flags(text, tmp_path):
    return [*RUN, *SIZE, "--dataset", text, "--save_strategy", "steps", "--save_total_limit", 9,
            "--save_steps", 2, "--output_dir", tmp_path / "out"]  # fmt: skip


@pytest.mark.slow
def test_a_run_interrupted_twice_equals_the_whole_one(train, text, tmp_path):
    """Ctrl-C at one step, SIGKILL at another, both in processes of their own; then the rest here
    must end with bit for bit the weights, average, optimiser and losses of a run never stopped."""
    flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", "40", "--ema", "0.95",
             "--dropout", "0.1", "--save_strategy", "steps", "--save_steps", "5",
             "--save_total_limit", "2", "--gradient_accumulation_steps", "2"]  # fmt: skip
    whole, out = tmp_path / "whole", tmp_path / "out"
    code, _ = train(*flags, "--output_dir", whole)
    assert code == 0

    flags += ["--output_dir", out]
    run = Fork(flags, tmp_path / "first")
    run.until(lambda: logged(run))
    time.sleep(random.uniform(0, 0.1))
    os.kill(run.pid, signal.SIGINT)
    assert run.ends() == 130 and "Traceback" not in run.said
    stopped = int(re.search(r"stopped at step (\d+); resume with .*--resume_from", run.said)[1])
    assert 0 < stopped < 30 and stopped in steps(out)
    assert state(out / f"checkpoint-{stopped}")["global_step"] == stopped
    # The run has written checkpoints into its output folder, and nothing else.
    assert files(out) == [p for p in files(out) if p.startswith("checkpoint-")]

    flags += ["--resume_from_checkpoint", "last"]
    run = Fork(flags, tmp_path / "second")
    run.until(lambda: max(steps(out)) > stopped)
    time.sleep(random.uniform(0, 0.05))
    run.kill()
    assert run.ends() == -signal.SIGKILL and max(steps(out)) < 40

    code, err = train(*flags)
    assert code == 0
    assert "training a byte-level BPE" not in err  # the checkpoint has the tokenizer
    for name in ("model.safetensors", "checkpoint-40/model.safetensors",
                 "checkpoint-40/ema.safetensors"):  # fmt: skip
        assert_same_weights(whole / name, out / name)
    for name in ("optimizer.pt", "scheduler.pt"):
        first, second = (torch.load(f / "checkpoint-40" / name) for f in (whole, out))
        assert str(first) == str(second)
    assert losses(whole) == losses(out)
    whole_card, card = ((f / "README.md").read_text() for f in (whole, out))
    unequal = re.compile(r".*wall time.*|# .*")
    assert unequal.sub("", whole_card).replace(str(whole), str(out)) == unequal.sub("", card)
    assert [p.name for p in out.glob(".*")] == []


def test_overwriting_leaves_no_checkpoint_of_the_run_before(train, flags, trained):
    """`--resume_from_checkpoint last` would otherwise go on with the other run."""
    (trained / "notes.txt").write_text("mine")
    assert train(*flags, "--max_steps", 3, "--overwrite_output_dir")[0] == 0
    assert steps(trained) == [2, 3] and (trained / "notes.txt").exists()


def test_going_back_to_an_earlier_checkpoint_drops_the_later_ones(train, flags, trained):
    on = ["--max_steps", 3, "--resume_from_checkpoint", trained / "checkpoint-2"]
    assert train(*flags, *on)[0] == 0
    assert steps(trained) == [2, 3]


@pytest.mark.parametrize("length", [("--max_steps", 3), ("--num_train_epochs", 0.1)], ids=str)
def test_the_end_of_a_run_is_not_trained_further(train, flags, tmp_path, length):
    """Neither when all was written, nor when the process died before the final files were."""
    out, flags = tmp_path / "out", [*flags, *length, "--dropout", 0.1, "--ema", 0.9]
    train(*flags)
    before = (out / "model.safetensors").read_bytes()
    for left in ([], ["model.safetensors", "README.md"]):
        for name in left:
            (out / name).unlink()
        code, err = train(*flags, "--resume_from_checkpoint", "last")
        assert code == 0 and "nothing is left to train" in err
        assert (out / "model.safetensors").read_bytes() == before and (out / "README.md").exists()


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_run_that_breaks_down_ends_and_keeps_what_was_good(train, flags, tmp_path, clip):
    """The first step has a learning rate of 0, the second one that is far too large."""
    out = tmp_path / "out"
    code, err = train(*flags, "--save_steps", 1, "--max_steps", 20, "--learning_rate", "1e30",
                      "--max_grad_norm", clip, "--warmup_steps", 2,
                      "--lr_scheduler_type", "constant_with_warmup")  # fmt: skip
    assert code == 2 and "is not finite at step" in err and "Traceback" not in err
    assert 1 in steps(out) and len(steps(out)) < 4
    for step in steps(out):
        weights = load_file(out / f"checkpoint-{step}/model.safetensors").values()
        assert all(weight.isfinite().all() for weight in weights)
    assert not (out / "model.safetensors").exists()


def test_lost_or_damaged_random_numbers_are_told(run, refused, trained):
    numbers = trained / "checkpoint-2" / "rng_state.pth"
    flags = ["--max_steps", 4, "--resume_from_checkpoint", numbers.parent]
    for content in (numbers.read_bytes()[:500], pickle.dumps(["a", 1])):
        numbers.write_bytes(content)
        refused(flags, "rng_state.pth")
    numbers.unlink()
    assert "has no rng_state.pth" in run(*flags)[1]


def test_what_a_killed_first_checkpoint_leaves_is_no_obstacle(train, refused, flags, tmp_path):
    out = tmp_path / "out"
    for name in (".writing", ".writing-model"):
        (out / name / "checkpoint-2").mkdir(parents=True)
    (out / ".lock").write_text("1\n")
    with locked(out):  # two runs do not share a folder
        refused(["--max_steps", 2], "is being written by another process;")
    assert train(*flags, "--max_steps", 2)[0] == 0 and (out / "model.safetensors").is_file()
    assert [p.name for p in out.glob(".*")] == []


@pytest.mark.slow
@pytest.mark.parametrize("controls", [True, False], ids=["hangup", "no word"])
def test_a_terminal_that_is_gone_takes_no_training_with_it(flags, tmp_path, controls):
    """Its messages have nowhere to go; its end is a SIGHUP where it controls the process. Otherwise
    training goes on until one comes. The last checkpoint is written."""
    out, (ours, theirs) = tmp_path / "out", pty.openpty()

    def begin():
        os.close(ours)
        os.close(theirs)
        os.setsid()
        if controls:
            os.open(terminal, os.O_RDWR)  # the first one that is opened does

    terminal = os.ttyname(theirs)
    run = Fork([*flags, "--save_steps", 50, "--max_steps", 5000], terminal, begin)
    seen = b""
    while b"{'loss'" not in seen:
        assert select.select([ours], [], [], 60)[0]
        seen += os.read(ours, 4096)
    os.close(theirs)
    os.close(ours)
    if not controls:
        known = steps(out)
        run.until(lambda: steps(out) > known)
        os.kill(run.pid, signal.SIGHUP)
    assert run.ends() == 130
    assert (out / f"checkpoint-{steps(out)[-1]}" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_wish_to_end_keeps_what_was_trained_and_an_ignored_hangup_is_none(flags, tmp_path):
    """As nohup tells its command."""
    flags = [*flags, "--max_steps", 5000, "--save_strategy", "no"]
    ignore = partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    run = Fork(flags, tmp_path / "said", ignore)
    run.until(lambda: logged(run))
    os.kill(run.pid, signal.SIGHUP)
    known = run.said.count("{'loss'")
    run.until(lambda: run.said.count("{'loss'") > known + 9)
    os.kill(run.pid, signal.SIGTERM)
    assert run.ends() == 130 and "Traceback" not in run.said
    assert re.search(r"stopped at step \d+", run.said) and len(steps(tmp_path / "out")) == 1


def test_a_reader_that_goes_away_ends_the_run_after_its_step(train, flags, tmp_path, monkeypatch):
    monkeypatch.setattr(
        console, "_unread", True
    )  # as ``| head`` does, see tests/cli/test_console.py
    code, said = train(*flags, "--max_steps", 9)
    assert code == 130 and "stopped at step 1; resume" in said
    assert steps(tmp_path / "out") == [1]


def test_what_belongs_to_others_stays(run, refused, four_steps, trained):
    """Resuming a checkpoint elsewhere, or taking a model out of the folder that is replaced."""
    first = ["--max_steps", 4, "--resume_from_checkpoint", four_steps / "checkpoint-2"]
    refused(first, "exists and is not empty")
    run(*first, name="new")
    for model in (trained, trained / "checkpoint-2"):
        refused(["--overwrite_output_dir"], "lies in --output_dir", start=["--model", model])


@pytest.mark.parametrize("more", [4, 6])
def test_an_average_that_is_missing_is_not_begun_anew(refused, trained, more):
    flags = ["--max_steps", more, "--ema", "0.9", "--resume_from_checkpoint", "last"]
    refused(flags, "ema.safetensors", "--ema")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_ctrl_c_while_the_libraries_are_read_is_no_traceback(flags, tmp_path):
    process = start([*flags, "--max_steps", 5000], tmp_path)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.5))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_one_goes_on_alone(train, flags, tmp_path):
    two = tmp_path / "out"
    flags += ["--save_steps", 4, "--lr_scheduler_type", "constant"]
    first, second = fork_two([*flags, "--max_steps", 5000, *split(2, 1)], tmp_path)
    first.until(lambda: steps(two))
    second.kill()
    first.join(timeout=30)
    assert first.exitcode not in (0, None)
    step = steps(two)[-1]
    rest = ["--max_steps", step + 4, *split(4, 1)]
    code, err = train(*flags, *rest, "--resume_from_checkpoint", "last")
    assert code == 0 and "note" in err and "rng_state.pth" in err
    assert train(*flags, *rest, "--output_dir", tmp_path / "one")[0] == 0
    found, expected = (
        {i: v for i, v in losses(folder).items() if i > step} for folder in (two, tmp_path / "one")
    )
    assert found == pytest.approx(expected, rel=2e-5)
