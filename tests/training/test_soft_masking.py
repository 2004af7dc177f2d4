"""finetune.py --soft_masking: two passes, scalars beside the model, and everything a run promises."""

import json
import math
import sys

import pytest
from helpers.training import RUN, SIZE, assert_same_weights, losses
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

import inference
from diffusion.models.soft import SoftMask

SOFT = ["--soft_masking", "--soft_k", "2", "--soft_start", "0.1"]
MIX = ["--layouts", "causal=1,block4=1,full=1"]


@pytest.fixture
def certain(tmp_path):
    """A text so simple that predictions have high confidence: those of low confidence are not mixed."""
    lines = ["The river runs to the sea.", "The rain falls on the town.", "She opened the window."]
    path = tmp_path / "certain.txt"
    path.write_text("\n\n\n".join("\n\n".join(lines[i % 3 :] + lines * 3) for i in range(90)))
    return path


def scalars(folder) -> dict:
    return {name: float(x) for name, x in load_file(folder / "soft.safetensors").items()}


@pytest.mark.slow
def test_a_run_learns_the_scalars_and_leaves_a_plain_model(train, certain, tmp_path):
    out = tmp_path / "out"
    flags = [*RUN, *SIZE, *MIX, "--dataset", certain, "--max_steps", 80, "--ema", "0.9",
             "--learning_rate", "1e-2"]  # fmt: skip
    code, err = train(*flags, *SOFT, "--output_dir", out)
    assert code == 0, err
    noted = json.loads((out / "config.json").read_text())["diffusion"]["soft"]
    assert (noted["k"], noted["mixing"]) == (2, "linear")
    found = scalars(out)
    assert noted["omega_s"] == pytest.approx(1 / (1 + 2.718281828 ** -found["rho"]), abs=1e-4)
    assert abs(found["rho"] - math.log(0.1 / 0.9)) > 1e-4  # it has moved
    assert "soft-masking" in (out / "README.md").read_text()
    model = AutoModelForMaskedLM.from_pretrained(out)
    assert not [name for name, _ in model.named_parameters() if "soft" in name]


def test_no_share_is_a_run_without(train, text, tmp_path):
    """The three scalars are there, no batch goes through twice, and the model is bit for bit the same."""
    out, plain = tmp_path / "out", tmp_path / "plain"
    flags = [*RUN, *SIZE, *MIX, "--dataset", text, "--max_steps", 8]
    train(*flags, *SOFT, "--soft_share", 0, "--output_dir", out)
    train(*flags, "--output_dir", plain)
    assert losses(out) == losses(plain)
    assert_same_weights(out / "model.safetensors", plain / "model.safetensors")


def test_resumed_is_never_stopped(train, text, tmp_path):
    flags = [*RUN, *SIZE, *MIX, *SOFT, "--dataset", text, "--max_steps", 12, "--ema", "0.9",
             "--dropout", "0.1", "--save_strategy", "steps", "--save_steps", 5,
             "--save_total_limit", 5]  # fmt: skip
    whole, again = tmp_path / "whole", tmp_path / "again"
    train(*flags, "--output_dir", whole)
    code, err = train(*flags, "--output_dir", again,
                      "--resume_from_checkpoint", whole / "checkpoint-5")  # fmt: skip
    assert code == 0, err
    assert_same_weights(whole / "model.safetensors", again / "model.safetensors")
    assert scalars(whole) == scalars(again)
    resume = ["--resume_from_checkpoint", whole / "checkpoint-5"]
    other = [
        *RUN,
        *SIZE,
        *MIX,
        "--dataset",
        text,
        "--max_steps",
        12,
        "--output_dir",
        tmp_path / "no",
    ]
    for changed in ([], ["--soft_masking", "--soft_k", 3]):
        code, err = train(*other, *changed, *resume)
        assert code == 2 and "--soft_k" in err.splitlines()[-1], err
    (whole / "checkpoint-5" / "soft.safetensors").unlink()
    code, err = train(*flags, "--output_dir", tmp_path / "third",
                      "--resume_from_checkpoint", whole / "checkpoint-5")  # fmt: skip
    assert code == 2 and "soft.safetensors" in err.splitlines()[-1]


def test_training_goes_on_with_the_scalars_of_the_model(train, text, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    flags = [*RUN, "--dataset", text, "--max_steps", 6]
    train(*flags, *SIZE, *SOFT, "--output_dir", first)
    code, err = train(*flags, *SOFT[:3], "--soft_learning_rate", 0, "--model", first,
                      "--output_dir", second)  # fmt: skip
    assert code == 0 and "resuming the soft-masking" in err
    assert scalars(second) == pytest.approx(scalars(first), rel=1e-6)
    code, err = train(*flags, "--soft_masking", "--model", first, "--output_dir", tmp_path / "no")
    assert code == 2 and "--soft_k 2" in err.splitlines()[-1]
    third = tmp_path / "third"
    code, err = train(*flags, "--model", first, "--output_dir", third)
    assert code == 0 and "is lost" in err
    assert "soft" not in json.loads((third / "config.json").read_text())["diffusion"]
    code, err = train(*RUN, "--model", first, "--dataset", text, "--evaluate_only")
    assert code == 0 and "of the two passes of soft-masking" in err.splitlines()[-1]


@pytest.mark.slow
def test_what_was_trained_so_writes_so(train, text, certain, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    train(*RUN, *SIZE, "--soft_masking", "--soft_start", "0.9", "--dataset", certain, "--max_steps",
          30, "--learning_rate", "1e-2", "--output_dir", out)  # fmt: skip
    soft = SoftMask(3, "linear", 0.9, 0.1, -9.0)  # feeds back much of whatever was predicted
    soft.save(out)
    config = json.loads((out / "config.json").read_text())
    config["diffusion"]["soft"] = soft.settings()
    (out / "config.json").write_text(json.dumps(config))
    sizes = ["--model", out, "--max_len", "32", "--dtype", "float32", "--seed", "1"]

    def call(*flags):
        monkeypatch.setattr(sys, "argv", ["inference.py", *map(str, flags)])
        capfd.readouterr()
        inference.main()
        return capfd.readouterr()

    def written(*flags):
        return call("The river", *sizes, *flags)

    many = ["--sampler", "confidence", "--n_steps", "8"]
    with_memory, _ = written(*many)
    without, err = written(*many, "--no_soft_masking")
    assert with_memory != without and "has no soft-masking" not in err
    assert written(*many)[0] == with_memory
    reopens = ["--sampler", "seed", "--n_steps", "16"]
    assert written(*reopens)[0] != written(*reopens, "--forget_remasked")[0]
    train(*RUN, *SIZE, "--dataset", text, "--max_steps", 2, "--output_dir", tmp_path / "plain")
    sizes[1] = tmp_path / "plain"
    assert "has no soft-masking" in written("--no_soft_masking")[1]
    lines = tmp_path / "lines.txt"
    lines.write_text("The river runs to the town.\n")
    sizes[1] = out
    two, one = (
        call(*sizes, "--json", "--score", lines, *no)[0] for no in ([], ["--no_soft_masking"])
    )
    assert one != two
