"""Five lines of Python do what the scripts do."""

import json
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image

import diffusion
from diffusion.errors import UserError
from diffusion.generate import Writer
from diffusion.models.causal import CausalWriter

OPTIONS = {"max_len": 24, "seed": 3}


@pytest.fixture(scope="module")
def writer(tiny_model):
    return diffusion.load(str(tiny_model))


def test_a_model_is_loaded_by_what_it_is(writer, tiny_gpt2):
    assert isinstance(writer, Writer)
    assert isinstance(diffusion.load(str(tiny_gpt2)), CausalWriter)
    with pytest.raises(UserError, match="does not exist"):
        diffusion.load("./nowhere")


def test_texts_are_those_of_the_steps(writer):
    prompts = ["The river", "She"]
    texts = diffusion.write(writer, prompts, **OPTIONS)
    assert [text.startswith(prompt) for text, prompt in zip(texts, prompts, strict=True)] == [
        True
    ] * 2
    # Alone or together, a text is the same, and its last step holds it.
    *_, last = diffusion.steps(writer, "She", **OPTIONS)
    kept = last.ids[0][~last.padding[0]].tolist()
    assert texts[1] in writer.tokenizer.decode(kept[1:])
    *_, other = diffusion.steps(writer, "She", sample=1, **OPTIONS)
    assert not torch.equal(other.ids, last.ids)
    with pytest.raises(UserError, match="--top_p 2"):
        diffusion.write(writer, prompts, top_p=2.0)


def test_a_likely_text_scores_better_than_an_unlikely_one():
    writer = diffusion.load()
    texts = ["The city was founded in 1912.", "City in the 1912 was founded the."]
    good, bad = diffusion.score(writer, texts, draws=32)
    assert good.nats_per_token < bad.nats_per_token
    assert good.tokens == len(writer.tokenizer(texts[0], add_special_tokens=False)["input_ids"])
    with pytest.raises(UserError, match="positions"):
        diffusion.score(writer, ["river " * 400])


def test_an_animation_is_saved(writer, tmp_path):
    steps = list(diffusion.steps(writer, "The river", **OPTIONS))
    diffusion.animate(writer, steps, str(tmp_path / "river.png"))
    assert Image.open(tmp_path / "river.png").size[0] > 100


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    notebook = Path(__file__).resolve().parents[1] / "docs" / "tour.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert (tmp_path / "river.gif").is_file()
    said = capsys.readouterr().out
    assert "step 8: 0 masks, 8 passes" in said and said.count("nats per token") == 2
