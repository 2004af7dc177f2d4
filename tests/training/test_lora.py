"""finetune.py --lora: what is trained, what is written, and that it goes on where it was stopped."""

import shutil
import sys

import pytest
import torch
from helpers.families import save_family
from helpers.training import RUN, assert_same_weights, files, losses, one_sentence
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from diffusion.errors import UserError
from diffusion.models.backbone import Backbone
from diffusion.training.arguments import parse_lora

TWO = "r=3,alpha=5,dropout=0.1,targets=query+dense"


def test_the_flag_is_read():
    assert list(parse_lora("r=8").values()) == [8, 16, 0, []]
    full = parse_lora(" r=2, alpha=3 ,dropout=0.5,targets=a+b.c")
    assert list(full.values()) == [2, 3, 0.5, ["a", "b.c"]]
    for bad in ("", "8", "r=0", "r=x", "alpha=3", "r=8,targets=", "r=8,targets=a++b", "r=8,dropout=1",
                "r=8,alpha=nan", "r=8,alpha=-1", "r=8,rank=3", "r=8,r", "r=99999"):  # fmt: skip
        with pytest.raises(UserError, match=r"--lora '.*' must give r=N"):
            parse_lora(bad)


def test_without_the_package_it_is_named(train, tiny_model, text, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    code, err = train(*RUN, "--model", tiny_model, "--dataset", text, "--lora", "r=2",
                      "--output_dir", tmp_path / "out")  # fmt: skip
    assert code == 2
    one_sentence(err.splitlines(keepends=True)[-1], "--lora", "pip install peft")
    assert files(tmp_path) == []


@pytest.fixture
def flags(tiny_model, text):
    pytest.importorskip("peft")
    return [*RUN, "--model", tiny_model, "--dataset", text, "--max_steps", 4, "--max_eval_blocks", 2,
            "--dropout", 0.1, "--save_strategy", "steps", "--save_steps", 2, "--save_total_limit", 9]  # fmt: skip


@pytest.mark.parametrize("ema", [0, 0.9])
def test_the_end_is_an_ordinary_model_with_what_the_adapters_learned(
    train, flags, tiny_model, tmp_path, ema
):
    """By the sum that defines them: W + alpha / r B A, of the adapters in the last checkpoint."""
    out = tmp_path / "out"
    code, err = train(*flags, "--lora", TWO, "--ema", ema, "--output_dir", out)
    assert code == 0, err
    assert "M of them trained" in err
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "trainer_state.json"]  # fmt: skip
    assert f"| LoRA, merged | {TWO} |" in (out / "README.md").read_text()

    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, out))
    assert before.keys() == after.keys()
    if ema:
        found = load_file(out / "checkpoint-4/ema.safetensors")
        found = {name.removeprefix("module."): x for name, x in found.items()}
        matrix = "{}.lora_{}.default.weight"
    else:
        found = load_file(out / "checkpoint-4/adapter_model.safetensors")
        matrix = "base_model.model.{}.lora_{}.weight"
    assert all("lora_" in name or name == "n_averaged" for name in found)
    moved = 0
    for name, weight in before.items():
        layer = name.removesuffix(".weight")
        if matrix.format(layer, "A") in found:
            a, b = (found[matrix.format(layer, side)] for side in "AB")
            assert a.shape[0] == b.shape[1] == 3
            weight, moved = weight + 5 / 3 * b @ a, moved + 1
            assert not torch.equal(after[name], before[name])
        torch.testing.assert_close(after[name], weight)
    assert moved == 2 * 4 + 1  # of two layers, and of the head


@pytest.mark.slow
def test_it_goes_on_bit_for_bit_and_tells_adapters_apart(train, flags, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    flags = [*flags, "--lora", TWO, "--ema", 0.9, "--soft_masking"]
    assert train(*flags, "--output_dir", whole)[0] == 0
    out.mkdir()
    shutil.copytree(whole / "checkpoint-2", out / "checkpoint-2")
    on = [*flags, "--output_dir", out, "--resume_from_checkpoint", "last"]
    path = out / "checkpoint-2/adapter_model.safetensors"
    tensors = load_file(path)
    for other in (
        "r=4",
        "r=3,alpha=6,dropout=0.1,targets=query+dense",
        "r=3,alpha=5,targets=query",
    ):
        code, err = train(*on, "--lora", other)
        assert code == 2 and "other settings of --lora" in err.splitlines()[-1]
    save_file({name: x for name, x in tensors.items() if "query" not in name}, path)
    code, err = train(*on)
    assert code == 2 and "is missing" in err.splitlines()[-1]
    save_file(tensors, path)
    code, err = train(*[x for x in on if x not in ("--lora", TWO)])
    assert code == 2
    one_sentence(err, "model.safetensors: it is missing")

    code, err = train(*on)
    assert code == 0, err
    for name in ("model.safetensors", "checkpoint-4/adapter_model.safetensors",
                 "checkpoint-4/ema.safetensors"):  # fmt: skip
        assert_same_weights(whole / name, out / name)
    code, err = train(*on)
    assert code == 0 and "nothing is left to train" in err
    assert_same_weights(whole / "model.safetensors", out / "model.safetensors")


@pytest.mark.slow
def test_checkpointed_and_muon_and_best(train, flags, tmp_path):
    """All layers, and all that may be combined with them."""
    one, two = tmp_path / "one", tmp_path / "two"
    flags = [*flags, "--lora", "r=2,dropout=0.1", "--optim", "muon", "--load_best_model_at_end",
             "--eval_strategy", "steps", "--eval_steps", 2]  # fmt: skip
    code, err = train(*flags, "--output_dir", one)
    assert code == 0, err
    assert train(*flags, "--gradient_checkpointing", "--output_dir", two)[0] == 0
    assert losses(one) == losses(two)
    assert_same_weights(one / "model.safetensors", two / "model.safetensors")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--lora", "r=2,targets=qkv"], ["targets=qkv matches no layer", "dense", "query"]),
        (["--lora", "r=2,targets=attention"], ["targets=attention matches no layer"]),
        (["--lora", "r=2,targets=decoder"], ["targets=decoder matches no layer"]),
    ],
)
def test_what_cannot_be_adapted_is_refused(train, flags, tmp_path, more, words):
    code, err = train(*flags, *more, "--output_dir", tmp_path / "out")
    assert code == 2
    one_sentence(err.splitlines(keepends=True)[-1], *words)
    assert files(tmp_path) == []


@pytest.mark.parametrize("kind", ["modernbert", "distilbert", "electra"])
def test_a_peft_model_reads_as_itself(kind, tmp_path):
    peft = pytest.importorskip("peft")
    model = AutoModelForMaskedLM.from_pretrained(save_family(kind, tmp_path / "model"))
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    ids = torch.arange(5, 15)[None]
    asked = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        plain = Backbone(model.eval())(ids, asked)
        adapted = peft.get_peft_model(model, config).eval()
        found, expected = Backbone(adapted)(ids, asked), adapted(input_ids=ids).logits[0]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(plain, found, atol=1e-3)


def test_learned_prompts_are_refused(tiny_model):
    peft = pytest.importorskip("peft")
    prompts = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2)
    model = AutoModelForMaskedLM.from_pretrained(tiny_model)
    with pytest.raises(UserError, match="learned prompts"):
        Backbone(peft.get_peft_model(model, prompts))
