"""The end of a run by its validation bounds: the best weights, and stopping early."""

import random
import shutil

import pytest
from helpers.training import assert_same_weights, state
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from diffusion.training import trainer

EVERY_TWO = ["--eval_strategy", "steps", "--eval_steps", 2, "--save_strategy", "steps",
             "--save_steps", 2]  # fmt: skip
BEST = [*EVERY_TWO, "--save_total_limit", 1, "--ema", 0.5, "--dropout", 0.1]


@pytest.fixture
def bounds(monkeypatch):
    """Validation bounds as a test writes them down, by the number of the evaluation in a run; all else
    that is measured is as it is."""
    script, metrics = [], trainer.metrics_of

    def scripted(found):
        bound = script.pop(0) if script else 9.0
        return {**metrics(found), "loss": bound}

    monkeypatch.setattr(trainer, "metrics_of", scripted)
    return script


def evaluations(folder) -> list[tuple[int, float]]:
    """(step, nats per token) of all evaluations."""
    log = state(folder)["log_history"]
    return [(e["step"], e["eval_nats_per_token"]) for e in log if "eval_loss" in e]


def test_the_end_has_the_weights_of_the_lowest_bound(run, bounds):
    bounds += [5.0, 4.0, 4.5, 4.0, 4.2]
    flags = [*BEST, "--max_steps", 10, "--load_best_model_at_end"]
    out, err = run(*flags)
    assert "the weights are those of step 4" in err
    assert sorted(p.name for p in out.glob("check*")) == ["checkpoint-10", "checkpoint-4"]
    average = load_file(out / "checkpoint-4/ema.safetensors")
    model = AutoModelForMaskedLM.from_pretrained(out)
    for name, parameter in model.named_parameters():
        assert parameter.equal(average[f"module.{name}"]), name
    *_, (_, at_4), _, _, _, (_, final) = evaluations(out)
    assert final == at_4 != evaluations(out)[-2][1]
    settings = model.config.diffusion
    assert settings["bound_nats_per_token"] == round(at_4, 4)
    assert settings["tokens_seen"] == 4 * 4 * 32
    card = (out / "README.md").read_text()
    assert "| average, decay 0.5, step 4 of 10, float32 |" in card

    before = (out / "model.safetensors").read_bytes()
    bounds += [9.0]
    out, err = run(*flags, "--resume_from_checkpoint", "last")
    assert "nothing is left to train" in err
    assert (out / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_run_ends_early_and_one_that_goes_on_counts_on(run, tmp_path, bounds):
    flags = [*BEST, "--save_total_limit", 9, "--max_steps", 40, "--early_stopping_patience", 2]
    curve = [5.0, 4.0, 4.1, 3.0, 3.1, 3.0, 2.0]  # of steps 2, 4, ..., the last of them never seen
    bounds += curve
    whole, err = run(*flags, name="whole")
    assert "ending early at step 12" in err and state(whole)["global_step"] == 12

    (tmp_path / "out").mkdir()
    shutil.copytree(whole / "checkpoint-10", tmp_path / "out/checkpoint-10")
    bounds[:], flags = curve[5:], [*flags, "--resume_from_checkpoint", "last"]
    out, err = run(*flags)
    assert err.count("ending early at step 12") == 1
    assert_same_weights(whole / "model.safetensors", out / "model.safetensors")

    before, bounds[:] = (out / "model.safetensors").read_bytes(), [1.0]
    out, err = run(*flags)
    assert "nothing is left to train" in err and "ending early" not in err
    assert (out / "model.safetensors").read_bytes() == before


def test_patience_is_counted_as_it_is_defined():
    """Against a walk through the evaluations that counts those without a lower bound in a row."""
    draw = random.Random(0)
    for _ in range(300):
        patience, bounds = draw.randint(1, 4), draw.choices(range(6), k=draw.randint(0, 9))
        best, waited = float("inf"), 0
        for bound in bounds:
            waited = 0 if bound < best else waited + 1
            best = min(best, bound)
        log = [{"loss": 1.0}, *({"eval_loss": float(b)} for b in bounds)]
        ended = trainer.exhausted(log, patience)
        assert ended == (waited >= patience), (patience, bounds)
