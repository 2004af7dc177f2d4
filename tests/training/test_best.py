"""The end of a run by its validation bounds: the best weights, and stopping early."""

import pytest
from helpers.training import state
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
    assert "the weights are those of step 4, with the lowest validation bound" in err
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


def test_a_better_step_that_was_not_saved_is_named(run, bounds):
    bounds += [3.0, 4.0, 4.5, 4.2]
    flags = [*BEST, "--max_steps", 8, "--load_best_model_at_end", "--save_steps", 4]
    _, err = run(*flags)
    said = "step 4, the best of those that were saved; step 2 had a lower validation bound, 3.000 instead"
    assert said in err
