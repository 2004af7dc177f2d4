"""Training on a mix of layouts, from the command line to the card."""

import json
import re
from functools import partial

import pytest
import torch
from helpers.training import RUN, SIZE, assert_same_weights, fork_two, losses, split, state
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM

from diffusion import objective
from diffusion.errors import UserError
from diffusion.training import build
from diffusion.training.arguments import parse_layouts

MIX = ["--layouts", "causal=1,block4=1,block16=1,full=1"]


@pytest.mark.slow
@pytest.mark.parametrize("shift", ["yes", "no"])
def test_a_mix_is_learned_measured_and_noted(run, seen, shift):
    out, _ = run(*MIX, "--max_steps", 48, "--shift", shift, "--learning_rate", "4e-3", "--ema", 0.9)
    laid_out = [batch.get("layout", "full") for batch in seen]
    assert all(laid_out.count(name) == 12 for name in ("causal", "block4", "block16", "full"))
    curve = losses(out)
    for name in ("causal", "block4", "block16"):
        own = [curve[step] for step, layout in enumerate(laid_out, 1) if layout == name]
        assert sum(own[6:]) < 0.97 * sum(own[:6])
    config = json.loads((out / "config.json").read_text())
    assert config["diffusion"]["layouts"] == dict.fromkeys(
        ("causal", "block4", "block16", "full"), 0.25
    )
    assert "attn_implementation" not in config
    model = AutoModelForMaskedLM.from_pretrained(out)  # an ordinary folder
    assert model.config._attn_implementation in ("sdpa", "eager")

    metrics = state(out)["log_history"][-1]
    assert metrics["eval_full_nats_per_token"] == metrics["eval_nats_per_token"]
    card = (out / "README.md").read_text()
    assert "| layouts | causal 25%, block4 25%, block16 25%, full 25% |" in card
    for name, title in [("causal", "causal (exact)"), ("full", "full canvas (bound)"),
                       *((f"block{n}", f"blocks of {n} (bound)") for n in (2, 4, 8, 16))]:  # fmt: skip
        nats, error, size, size_error = (
            metrics[f"eval_{name}_{kind}"]
            for kind in ("nats_per_token", "standard_error", "nats_per_byte",
                         "standard_error_per_byte")
        )  # fmt: skip
        assert 1 < nats < 5.7 and 0 < error < 0.5
        assert size_error / size == pytest.approx(error / nats)
        assert f"| {title} | {nats:.4f} ± {error:.4f} nats per token, {size:.4f} ± " in card
    assert "eval_block64_nats_per_token" not in metrics  # longer than the text


@pytest.mark.slow
def test_the_causal_loss_of_a_block_batch_has_its_weight(run):
    first = {}
    for weight in (0, 1, 3):
        flags = ["--layouts", "block4", "--causal_weight", weight, "--max_steps", 1]
        first[weight] = losses(run(*flags, name=str(weight))[0])[1]
    assert first[3] - first[0] == pytest.approx(3 * (first[1] - first[0]), rel=1e-4)
    assert 3 < first[1] - first[0] < 6


def test_full_alone_is_the_training_of_before(run, seen):
    one, _ = run("--max_steps", 6, name="one")
    two, _ = run("--max_steps", 6, "--layouts", "full=3", name="two")
    assert losses(one) == losses(two) and not any("layout" in batch for batch in seen)
    assert_same_weights(one / "model.safetensors", two / "model.safetensors")
    assert "eval_causal_nats_per_token" not in state(two)["log_history"][-1]


@pytest.mark.slow
def test_a_resumed_mix_is_the_whole_one(resumed):
    """Stopped within a window of layouts and within an epoch."""
    flags = [*MIX, "--ema", 0.9, "--dropout", 0.1, "--gradient_accumulation_steps", 2]
    whole, rest, _ = resumed(*flags, at=13, steps=17)
    a, b = (state(f)["log_history"][-1] for f in (whole, rest))
    assert a["eval_block4_nats_per_token"] == b["eval_block4_nats_per_token"]


@pytest.mark.slow
def test_two_processes_with_a_mix_are_one_with_twice_the_batch(train, text, tmp_path, monkeypatch):
    """In double precision to the last bit of the float32 that is saved, so that what differs
    otherwise is rounding. The gradient of a key's bias is zero, and all of it rounding."""
    build_model = build.build_model

    def doubled(*args):
        model, tokenizer = build_model(*args)
        return model.double(), tokenizer

    exact = partial(F.cross_entropy, reduction="none")
    monkeypatch.setattr(build, "build_model", doubled)
    monkeypatch.setattr(objective, "cross_entropy", exact)
    flags = [*RUN, *SIZE, *MIX, "--dataset", text, "--max_steps", "8", "--ema", "0.9"]
    one, two = tmp_path / "one", tmp_path / "two"
    processes = fork_two([*flags, *split(2, 2), "--output_dir", two], tmp_path)
    assert train(*flags, *split(4, 2), "--output_dir", one)[0] == 0
    assert [run.ends() for run in processes] == [0, 0], processes[0].said
    assert losses(one) == pytest.approx(losses(two), rel=2e-7)  # logged in float32
    a, b = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    for key in a:
        atol = 1e-12 if key.endswith("key.bias") else 0
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=atol)
    a, b = (state(f)["log_history"][-1] for f in (one, two))
    for name in ("causal", "block4", "block16", "full"):
        key = f"eval_{name}_nats_per_token"
        assert a[key] == pytest.approx(b[key], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [["--attn_implementation", "eager"],
     ["--dropout", "0.1", "--attn_implementation", "sdpa", "--dtype", "bfloat16", "--prefix_len", "5"]],
    ids=" ".join,
)  # fmt: skip
def test_other_settings_train_a_mix(run, flags):
    out, _ = run(*MIX, "--max_steps", 8, *flags)
    assert all(0 < loss < 40 for loss in losses(out).values())
    if "eager" in flags:
        reference, _ = run(*MIX, "--max_steps", 8, name="reference")
        assert losses(out) == pytest.approx(losses(reference), rel=1e-5)


def test_evaluating_alone_measures_the_layouts(train, warm, text):
    code, err = train(*RUN, *MIX, "--model", warm, "--dataset", text, "--evaluate_only")
    assert code == 0, err
    said = r"; nats per token by layout: full [\d.]+, causal ([\d.]+), block2 [\d.]+, block4"
    nats = re.search(said, err.splitlines()[-1])
    code, err = train(*RUN, "--objective", "causal", "--model", warm, "--dataset", text,
                      "--evaluate_only")  # fmt: skip
    assert f" {nats[1]} ± " in err  # the same as that objective says


def test_a_mix_without_weights_or_with_spaces():
    assert parse_layouts("full", 31) == {"full": 1}
    assert parse_layouts("causal, block4", 31) == {"causal": 0.5, "block4": 0.5}
    assert parse_layouts("block31=3,causal=1", 31) == {"block31": 0.75, "causal": 0.25}


@pytest.mark.parametrize(
    ("layouts", "words"),
    [
        ("", r"--layouts ''.*blockN"),
        ("block=1", "'block=1'.*blockN"),
        ("block4.5=1", "'block4.5=1'"),
        ("full=0", "'full=0'.*above 0"),
        ("full=-1,causal=1", "'full=-1'.*above 0"),
        ("full=nan", "'full=nan'"),
        ("full=inf", "'full=inf'"),
        ("full=x", "'full=x'"),
        ("full=1,full=2", "'full=2'.*once"),
        ("block0=1", "block0.*1 to 31 tokens"),
        ("block-2=1", "'block-2=1'"),
        ("block32=1", "block32.*1 to 31 tokens"),
    ],
)
def test_bad_layouts(layouts, words):
    with pytest.raises(UserError, match=words):
        parse_layouts(layouts, 31)
