"""Runs with random tokens: what they note, and that nobody goes on with another noise."""

import json
import math

import pytest
from helpers.training import RUN, losses

from diffusion.generate import load_writer
from diffusion.options import GenerationOptions


def settings(folder) -> dict:
    return json.loads((folder / "config.json").read_text())["diffusion"]


@pytest.mark.parametrize(
    ("flags", "noted"),
    [
        (["--noise", "uniform"], {"noise": "uniform"}),
        (
            ["--noise", "hybrid", "--p_u", "0.3", "--loss", "clipped"],
            {"noise": "hybrid", "p_u": 0.3},
        ),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_a_run_notes_its_noise_and_leaves_a_model_that_writes(run, flags, noted):
    folder, _ = run(*flags, "--max_steps", 4)
    assert {name: settings(folder).get(name) for name in noted} == noted
    assert all(math.isfinite(loss) for loss in losses(folder).values())
    assert 0 < settings(folder)["bound_nats_per_token"] < math.log(300)
    writer = load_writer(str(folder), None, "cpu", "float32")
    assert writer.noise.name == noted["noise"]
    *_, last = writer.generate([""], GenerationOptions(max_len=16, length=8), [0])
    assert not (last.masked | last.random).any()
    noise = " ".join(str(value) for value in noted.values())
    assert f"| noise | {noise} |" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_who_goes_on_without_a_word_keeps_the_noise(run, train, text):
    folder, _ = run("--noise", "hybrid", "--p_u", "0.3", "--max_steps", 2)
    start = ["--model", folder]
    on, _ = run("--max_steps", 1, name="on", start=start)
    assert (settings(on)["noise"], settings(on)["p_u"]) == ("hybrid", 0.3)
    back, _ = run("--max_steps", 1, "--noise", "absorbing", name="back", start=start)
    assert not {"noise", "p_u"} & set(settings(back))
    code, err = train(*RUN, *start, "--dataset", text, "--eval_dataset", text, "--evaluate_only")
    assert code == 0 and "nats per token" in err and "nan" not in err


@pytest.mark.slow
def test_a_resumed_run_is_the_whole_one_and_has_its_noise(resumed, refused):
    *_, flags = resumed("--noise", "hybrid", at=2, steps=4)
    for other in (["--noise", "uniform"], ["--p_u", "0.2"], ["--noise", "auto"]):
        refused([*flags, *other], "other settings of diffusion", "--noise")
