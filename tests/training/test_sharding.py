"""`--fsdp`: a model that is spread over processes is trained, measured, written and gone on with as one
that is not."""

import shutil
import sys

import pytest
import torch
from helpers.training import (
    RUN,
    SHARDED,
    SIZE,
    assert_same_weights,
    finish,
    losses,
    one_sentence,
    split,
    start_two,
    state,
)
from safetensors.torch import load_file

from diffusion.errors import UserError
from diffusion.training.checks import RunArguments, _check_fsdp, parse


@pytest.mark.slow
def test_a_model_in_two_halves_is_the_whole_one(train, warm, text, tmp_path):
    one, two, again = tmp_path / "one", tmp_path / "two", tmp_path / "again"
    flags = [*RUN, "--model", warm, "--dataset", text, "--max_steps", 4, "--save_strategy", "steps",
             "--save_steps", 2, "--save_total_limit", 9, "--eval_strategy", "steps", "--eval_steps", 2,
             "--layouts", "block4=1,full=1", "--save_dtype", "float16"]  # fmt: skip
    fsdp = [*flags, *split(2, 1), "--fsdp", "full_shard", "--gradient_checkpointing"]
    processes = start_two([*fsdp, "--output_dir", two], tmp_path, SHARDED)
    assert train(*flags, *split(4, 1), "--output_dir", one)[0] == 0
    finish(processes)
    assert losses(two) == pytest.approx(losses(one), rel=2e-5)
    bounds = [[e["eval_nats_per_token"] for e in state(f)["log_history"] if "eval_loss" in e]
              for f in (one, two)]  # fmt: skip
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-5) and len(bounds[0]) == 2
    for name in ("model.safetensors", "checkpoint-4/model.safetensors"):
        a, b = load_file(one / name), load_file(two / name)
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-5)
    assert not list(two.rglob("pytorch_model*"))

    again.mkdir()
    shutil.copytree(two / "checkpoint-2", again / "checkpoint-2")
    on = [*fsdp, "--output_dir", again, "--resume_from_checkpoint", "last"]
    finish(start_two(on, tmp_path, SHARDED))
    for name in ("model.safetensors", "checkpoint-4/model.safetensors"):
        assert_same_weights(two / name, again / name)


@pytest.mark.parametrize(
    ("typed", "config"),
    [
        (["--fsdp"], {}),
        (["--fsdp", "full_shard"], {"reshard_after_forward": True}),
        (["--fsdp", "shard_grad_op"], {"reshard_after_forward": False}),
        (["--fsdp", "full_shard offload"], {"reshard_after_forward": True, "cpu_offload": True}),
    ],
)
def test_the_flag_reaches_the_trainer(monkeypatch, typed, config):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "")  # restored, whatever a run sets
    monkeypatch.setattr(sys, "argv", ["finetune.py", "--use_cpu", *typed])
    args = parse("", {})[3]
    assert args.fsdp is True and config.items() <= args.fsdp_config.items()


@pytest.mark.parametrize(
    "flags", [["--ema", "0.9"], ["--soft_masking"], ["--optim", "muon"], ["--lora", "r=2"]]
)
def test_what_was_not_made_to_be_spread_is_refused(monkeypatch, flags):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "")
    monkeypatch.setattr(RunArguments, "world_size", 2)
    monkeypatch.setattr(sys, "argv", ["finetune.py", "--use_cpu", "--fsdp", *flags])
    model, _, diffusion, args = parse("", {})
    with pytest.raises(UserError, match=f"--fsdp was not made to go with {flags[0]}"):
        _check_fsdp(model, diffusion, args)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--fsdp spreads a model over several GPUs", "accelerate launch"]),
        (["--fsdp", "foo"], ["foo"]),
    ],
)
def test_what_cannot_be_spread_is_refused(train, text, tmp_path, monkeypatch, flags, words):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "")
    code, err = train(*RUN, *SIZE, "--dataset", text, "--fsdp", "full_shard", "--output_dir",
                      tmp_path / "out", *flags)  # fmt: skip
    assert code == 2
    one_sentence(err.splitlines(keepends=True)[-1], *words)
    assert not (tmp_path / "out").exists()
