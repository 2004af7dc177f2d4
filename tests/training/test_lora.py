"""finetune.py --lora: what is trained, what is written, and that it goes on where it was stopped."""

import sys

import pytest
import torch
from helpers.families import save_family
from helpers.training import assert_same_weights, losses
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


def test_without_the_package_it_is_named(refused, tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    refused(["--lora", "r=2"], "--lora", "pip install peft", start=["--model", tiny_model])


@pytest.fixture
def flags(tiny_model):
    pytest.importorskip("peft")
    return ["--max_steps", 4, "--max_eval_blocks", 2, "--dropout", 0.1, "--save_strategy", "steps",
            "--save_steps", 2, "--save_total_limit", 9]  # fmt: skip


@pytest.fixture
def tiny(tiny_model):
    return ["--model", tiny_model]


@pytest.mark.parametrize("ema", [0, 0.9])
def test_the_end_is_an_ordinary_model_with_what_the_adapters_learned(
    run, flags, tiny, tiny_model, ema
):
    """By the sum that defines them: W + alpha / r B A, of the adapters in the last checkpoint."""
    out, err = run(*flags, "--lora", TWO, "--ema", ema, start=tiny)
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
def test_it_goes_on_bit_for_bit_and_tells_adapters_apart(run, resumed, refused, flags, tiny):
    flags = [*flags, "--ema", 0.9, "--soft_masking"]
    whole, rest, on = resumed(*flags, "--lora", TWO, at=2, steps=4, start=tiny)
    last = ["--resume_from_checkpoint", rest / "checkpoint-4"]
    before = (rest / "model.safetensors").read_bytes()
    _, err = run(*on, *last, name="rest", start=tiny)
    assert "nothing is left to train" in err
    assert (rest / "model.safetensors").read_bytes() == before

    flags, path = [*flags, *on[-2:]], whole / "checkpoint-2" / "adapter_model.safetensors"
    for other in ("r=4", TWO.replace("alpha=5", "alpha=6"), "r=3,alpha=5,targets=query"):
        refused([*flags, "--lora", other], "other settings of --lora", start=tiny)
    tensors = load_file(path)
    save_file({name: x for name, x in tensors.items() if "query" not in name}, path)
    refused([*flags, "--lora", TWO], "is missing", start=tiny)
    refused(flags, "model.safetensors: it is missing", start=tiny)


@pytest.mark.slow
def test_checkpointed_and_muon_and_best(run, flags, tiny):
    """All layers, and all that may be combined with them."""
    flags = [*flags, "--lora", "r=2,dropout=0.1", "--optim", "muon", "--load_best_model_at_end",
             "--eval_strategy", "steps", "--eval_steps", 2]  # fmt: skip
    one, _ = run(*flags, name="one", start=tiny)
    two, _ = run(*flags, "--gradient_checkpointing", name="two", start=tiny)
    assert losses(one) == losses(two)
    assert_same_weights(one / "model.safetensors", two / "model.safetensors")


@pytest.mark.parametrize("target", ["qkv", "attention", "decoder"])
def test_what_cannot_be_adapted_is_refused(refused, flags, tiny, target):
    words = [f"targets={target} matches no layer", "dense", "query"]
    refused([*flags, "--lora", f"r=2,targets={target}"], *words, start=tiny)


@pytest.mark.parametrize("kind", ["modernbert", "electra"])
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
