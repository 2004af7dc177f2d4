"""finetune.py --soft_masking: two passes, scalars beside the model, and everything a run promises."""

import json
import math
import sys

import pytest
from helpers.training import RUN, assert_same_weights, losses
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
def test_a_run_learns_the_scalars_and_leaves_a_plain_model(run, certain):
    out, _ = run(*MIX, *SOFT, "--dataset", certain, "--max_steps", 80, "--ema", "0.9",
                 "--learning_rate", "1e-2")  # fmt: skip
    noted = json.loads((out / "config.json").read_text())["diffusion"]["soft"]
    assert (noted["k"], noted["mixing"]) == (2, "linear")
    found = scalars(out)
    assert noted["omega_s"] == pytest.approx(1 / (1 + 2.718281828 ** -found["rho"]), abs=1e-4)
    assert abs(found["rho"] - math.log(0.1 / 0.9)) > 1e-4  # it has moved
    assert "soft-masking" in (out / "README.md").read_text()
    model = AutoModelForMaskedLM.from_pretrained(out)
    assert not [name for name, _ in model.named_parameters() if "soft" in name]


def test_no_share_is_a_run_without(run):
    """The three scalars are there, no batch goes through twice, and the model is bit for bit the same."""
    out, _ = run(*MIX, "--max_steps", 8, *SOFT, "--soft_share", 0)
    plain, _ = run(*MIX, "--max_steps", 8, name="plain")
    assert losses(out) == losses(plain)
    assert_same_weights(out / "model.safetensors", plain / "model.safetensors")


def test_resumed_is_never_stopped(resumed, refused):
    whole, rest, flags = resumed(*MIX, "--ema", "0.9", "--dropout", 0.1, *SOFT, at=5, steps=7)
    assert scalars(whole) == scalars(rest)
    refused([*flags, "--soft_k", 3], "--soft_k")
    refused([flag for flag in flags if flag not in SOFT], "--soft_k")
    (whole / "checkpoint-5" / "soft.safetensors").unlink()
    refused(flags, "soft.safetensors")


@pytest.mark.slow
def test_training_goes_on_with_the_scalars_of_the_model(run, refused, train, text):
    first, _ = run("--max_steps", 6, *SOFT, name="first")
    start = ["--model", first]
    second, err = run("--max_steps", 6, *SOFT[:3], "--soft_learning_rate", 0, start=start)
    assert "resuming the soft-masking" in err
    assert scalars(second) == pytest.approx(scalars(first), rel=1e-6)
    refused(["--soft_masking", "--overwrite_output_dir"], "--soft_k 2", start=start)
    third, err = run("--max_steps", 6, name="third", start=start)
    assert "is lost" in err
    assert "soft" not in json.loads((third / "config.json").read_text())["diffusion"]
    code, err = train(*RUN, "--model", first, "--dataset", text, "--evaluate_only")
    assert code == 0 and "of the two passes of soft-masking" in err.splitlines()[-1]


@pytest.mark.slow
def test_what_was_trained_so_writes_so(run, certain, tmp_path, monkeypatch, capfd):
    out, _ = run(
        "--soft_masking", "--dataset", certain, "--max_steps", 30, "--learning_rate", "1e-2"
    )
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
    assert with_memory != written(*many, "--no_soft_masking")[0]
    assert written(*many)[0] == with_memory
    lines = tmp_path / "lines.txt"
    lines.write_text("The river runs to the town.\n")
    two, one = (
        call(*sizes, "--json", "--score", lines, *no)[0] for no in ([], ["--no_soft_masking"])
    )
    assert one != two
