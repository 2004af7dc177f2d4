"""A training of any family goes on as if it had never been stopped, whatever names its weights are
saved under."""

import pytest
import torch
from helpers.families import save_family
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from diffusion.generate import load_writer
from diffusion.models.families import FAMILIES

SAVED = ["--max_eval_blocks", 2, "--save_strategy", "steps", "--save_steps", 2,
         "--save_total_limit", 9, "--max_steps", 3]  # fmt: skip

# Those that save weights under other names than their own or tie them in their own way, and a
# decoder. All families of `helpers.families` have passed it.
KINDS = ["albert", "esm", "gpt2", "luke", "modernbert"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_and_a_third_are_three(resumed, tmp_path, kind):
    start = ["--model", save_family(kind, tmp_path / "model")]
    flags = ["--max_eval_blocks", 2, "--dropout", 0.1, "--ema", 0.9]
    whole, out, _ = resumed(*flags, at=2, steps=3, start=start)
    before, after = (load_file(whole / f"checkpoint-{n}/model.safetensors") for n in (2, 3))
    assert not all(torch.equal(before[name], after[name]) for name in before)
    # Plain transformers reads what was written, and says the same.
    decoder = FAMILIES[kind].decoder
    auto = AutoModelForCausalLM if decoder else AutoModelForMaskedLM
    ids = torch.randint(5, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    asked = torch.arange(9).expand(2, -1) > 0
    with torch.no_grad():
        plain = auto.from_pretrained(out).eval()(input_ids=ids).logits
        ours = load_writer(str(out)).denoiser.backbone(ids, asked)
    expected = plain[:, :-1] if decoder else plain[:, 1:]
    torch.testing.assert_close(ours, expected.flatten(0, 1), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["esm", "xlm-roberta"])  # saved under other names than their own
def test_weights_that_are_not_all_there_are_refused(run, refused, tmp_path, kind):
    start = ["--model", save_family(kind, tmp_path / "model")]
    out, _ = run(*SAVED, start=start)
    path = out / "checkpoint-2" / "model.safetensors"
    whole, on = load_file(path), [*SAVED, "--resume_from_checkpoint", path.parent]
    table = next(name for name in whole if name.endswith("word_embeddings.weight"))
    for damage, said in [
        ({table: None}, "is missing"),
        ({"strange": torch.zeros(1)}, "strange is not of the model"),
        ({table: whole[table][:-1].clone()}, "has another shape"),
    ]:
        tensors = {k: v for k, v in (whole | damage).items() if v is not None}
        save_file(tensors, path, {"format": "pt"})
        refused(on, str(path.parent), said, "--config", start=start)
