"""Five lines of Python do what the scripts do."""

import json
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    RobertaForCausalLM,
)

import diffusion
from diffusion import rng
from diffusion.autoregressive import CausalWriter
from diffusion.canvas import prompt_canvas
from diffusion.denoise import denoise
from diffusion.errors import UserError
from diffusion.generate import Writer
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler
from diffusion.views.frames import written_text

OPTIONS = {"max_len": 24, "seed": 3}


@pytest.fixture(scope="module")
def writer(tiny_model):
    return diffusion.load(str(tiny_model))


def test_a_model_is_loaded_by_what_it_is(writer, tiny_gpt2):
    assert isinstance(writer, Writer)
    assert isinstance(diffusion.load(str(tiny_gpt2)), CausalWriter)
    with pytest.raises(UserError, match="does not exist"):
        diffusion.load("./nowhere")


def test_a_model_in_memory_writes_what_its_folder_writes(writer, tiny_model):
    model = AutoModelForMaskedLM.from_pretrained(tiny_model).train()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.bos_token = tokenizer.eos_token = None  # BERT's has a [CLS] and a [SEP] alone
    mine = Writer.from_model(model, tokenizer, name="mine")
    assert (mine.name, mine.positions, mine.trained, mine.blocks) == ("mine", 64, True, False)
    texts = [diffusion.write(w, ["The river", "She"], **OPTIONS) for w in (mine, writer)]
    assert texts[0] == texts[1]


def test_a_model_in_memory_that_cannot_write_is_refused(tiny_model, tiny_gpt2):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for kind, folder, said in (
        (AutoModelForCausalLM, tiny_gpt2, "mine is a 'gpt2' model, which was not trained to fill"),
        (RobertaForCausalLM, tiny_model, "mine is a 'roberta' model, which is causal"),
    ):
        with pytest.raises(UserError, match=said):
            Writer.from_model(kind.from_pretrained(folder), tokenizer, name="mine")
    model = AutoModelForMaskedLM.from_pretrained(tiny_model)
    for adapted in ("get_base_model", "_hf_peft_config_loaded"):  # a PeftModel, or add_adapter
        with pytest.raises(UserError, match="mine has adapters that are not merged"):
            Writer.from_model(SimpleNamespace(**{adapted: True}), tokenizer, name="mine")
    tokenizer.add_tokens(["one more"])
    with pytest.raises(UserError, match="the tokenizer has 321 tokens and model mine 320"):
        Writer.from_model(model, tokenizer, name="mine")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="the tokenizer of mine has no mask token"):
        Writer.from_model(model, tokenizer, name="mine")


def test_texts_are_those_of_the_steps(writer):
    prompts = ["The river", "She"]
    texts = diffusion.write(writer, prompts, **OPTIONS)
    assert texts[0].startswith("The river") and texts[1].startswith("She")
    # Alone or together, a text is the same, and its last step holds it.
    *_, last = diffusion.steps(writer, "She", **OPTIONS)
    kept = last.ids[0][~last.padding[0]].tolist()
    assert texts[1] in writer.tokenizer.decode(kept[1:])
    *_, other = diffusion.steps(writer, "She", sample=1, **OPTIONS)
    assert not torch.equal(other.ids, last.ids)
    with pytest.raises(UserError, match="--top_p 2"):
        diffusion.write(writer, prompts, top_p=2.0)


def test_a_text_in_blocks_costs_no_pass_behind_its_end(tiny_model):
    model = AutoModelForMaskedLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model.lm_head.bias.data[tokenizer.eos_token_id] += 4
    writer = Writer.from_model(model, tokenizer)
    for sampler, size in (("first-hitting", 1), ("confidence", 4)):
        options = GenerationOptions(max_len=32, sampler=sampler, block_length=size)
        *_, last = writer.generate(["The river", "She"] * 4, options, range(8))
        resolved = options.resolved()
        canvas = prompt_canvas(tokenizer, ["The river", "She"] * 4, 32)
        *_, whole = denoise(
            canvas,
            writer.denoiser,
            make_sampler(sampler, resolved.n_steps, block_length=size),
            Sampling(1.0, 50, 0.95),
            rng.row_keys(0, range(8)),
        )
        texts = [[written_text(tokenizer, s, row) for row in range(8)] for s in (last, whole)]
        assert texts[0] == texts[1]
        assert (last.nfe <= whole.nfe).all() and last.nfe.sum() < whole.nfe.sum()


def test_a_likely_text_scores_better_than_an_unlikely_one():
    writer = diffusion.load()
    texts = ["The city was founded in 1912.", "City in the 1912 was founded the."]
    good, bad = diffusion.score(writer, texts, draws=32)
    assert good.nats_per_token < bad.nats_per_token
    assert good.tokens == len(writer.tokenizer(texts[0], add_special_tokens=False)["input_ids"])
    with pytest.raises(UserError, match="positions"):
        diffusion.score(writer, ["river " * 400])


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
