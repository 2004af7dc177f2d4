"""finetune.py from its command line to its final folder."""

import json
import re
from pathlib import Path

import pytest
import torch
from helpers.training import RUN, SIZE, files, losses, state
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    GPT2LMHeadModel,
    pipeline,
)

from diffusion.data import corpus, packing
from diffusion.models.backbone import Backbone


def test_from_scratch_by_a_causal_warm_start_to_a_denoiser(run, warm, text):
    curve = list(losses(warm).values())
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])
    config = json.loads((warm / "config.json").read_text())
    assert config["diffusion"]["objective"] == "causal"
    assert config["diffusion"]["shift"] is True

    final, err = run("--num_train_epochs", 2, "--ema", 0.99, "--eval_strategy", "epoch",
                     "--save_strategy", "epoch", "--save_dtype", "float16",
                     start=["--model", warm])  # fmt: skip
    assert "Writing" not in err and "Loading" not in err  # only what a user wants to know
    assert err.splitlines()[-1].startswith(f"saved {final}: ")

    # An ordinary model folder, beside it the last checkpoint.
    (checkpoint,) = final.glob("checkpoint-*")
    assert [p for p in files(final) if not p.startswith(checkpoint.name)] == sorted(
        ["README.md", "config.json", "model.safetensors", "tokenizer.json",
         "tokenizer_config.json", "trainer_state.json"]
    )  # fmt: skip
    model = AutoModelForMaskedLM.from_pretrained(final)
    tokenizer = AutoTokenizer.from_pretrained(final)
    assert model.dtype == torch.float16
    settings = model.config.diffusion
    assert settings["objective"] == "diffusion"
    assert settings["shift"] is True  # as it was warmed up
    assert settings["prefix_len"] == 1
    assert tokenizer.decode(tokenizer("abc <mask>")["input_ids"]) == "<s>abc<mask></s>"

    # The weights are the average, and predict better than the frequencies of tokens do.
    average = load_file(checkpoint / "ema.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, average[f"module.{name}"].half())
    assert Backbone(model).shift

    # The bound: in the log, in the state with its error, in the card and in the config.
    history = state(final)["log_history"]
    evaluations = [entry for entry in history if "eval_nats_per_token" in entry]
    steps = state(final)["global_step"]
    assert [entry["step"] for entry in evaluations] == [steps // 2, steps]  # none twice
    last = evaluations[-1]
    assert 1 < last["eval_nats_per_token"] < 5.7  # below log 300
    assert 0 < last["eval_standard_error"] < 0.5
    assert last["eval_perplexity"] == pytest.approx(2.718281828 ** last["eval_nats_per_token"])
    assert 0 < last["eval_nats_per_byte"] < last["eval_nats_per_token"]
    assert settings["bound_nats_per_token"] == round(last["eval_nats_per_token"], 4)
    seen = steps * 4 * 32
    before = state(warm)["global_step"] * 4 * 32
    assert settings["tokens_seen"] == seen + before
    card = (final / "README.md").read_text()
    for needed in (
        f"{last['eval_nats_per_token']:.3f} ± {last['eval_standard_error']:.3f} nats per token",
        f"| tokens seen | {seen:,} in this run, {seen + before:,} in all |",
        f"--model {warm} --dataset {text}",
        "diffusion (shifted)",
        f"| average, decay 0.99, step {steps} of {steps}, float16 |",
        f"| training text | {text} |",
    ):
        assert needed in card


@pytest.mark.parametrize(("flag", "shift"), [("auto", True), ("no", False), ("yes", True)])
def test_shift_after_a_causal_warm_start(run, warm, flag, shift):
    out, _ = run("--max_steps", 1, "--shift", flag, start=["--model", warm])
    model = AutoModelForMaskedLM.from_pretrained(out)
    assert model.config.diffusion["shift"] is shift
    # A fill-mask pipeline reads a token at its own slot.
    card = (out / "README.md").read_text()
    assert ("pipeline_tag: fill-mask" in card, "one slot to its left" in card) == (not shift, shift)
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer("The <mask> is", return_tensors="pt")["input_ids"]
    masked = ids == tokenizer.mask_token_id
    with torch.no_grad():
        ours, raw = Backbone(model)(ids, masked)[0].softmax(0), model(ids).logits
    if shift:  # as the card says
        assert "`model(ids).logits[:, :-1]` are the predictions of `ids[:, 1:]`" in card
        assert torch.allclose(ours, raw[:, :-1][masked[:, 1:]][0].softmax(0))
    else:
        theirs = pipeline("fill-mask", str(out), top_k=5)("The <mask> is")
        assert [guess["token"] for guess in theirs] == ours.topk(5).indices.tolist()
        assert [g["score"] for g in theirs] == pytest.approx(ours.topk(5).values.tolist())


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--loss", "mean", "--mask_schedule", "seed"],
        ["--schedule", "cosine-a", "--eval_draws", "2", "--dtype", "bfloat16", "--dropout", "0.1",
         "--attn_implementation", "sdpa"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_other_settings_train(run, flags):
    one, _ = run("--max_steps", 8, *flags, name="one")
    assert all(0 < loss < 30 for loss in losses(one).values())
    # The same batches, whoever prepares them.
    two, _ = run("--max_steps", 8, *flags, "--dataloader_num_workers", 1, name="two")
    assert losses(one) == losses(two)


@pytest.mark.slow
def test_a_short_text_gets_a_model_of_its_own_vocabulary(run):
    """It has fewer pieces than asked for; the folder must load again all the same."""
    out, _ = run("--config", "layers=1,width=16,heads=2,vocab=9000", "--max_steps", 1)
    size = AutoModelForMaskedLM.from_pretrained(out).config.vocab_size
    assert size == len(AutoTokenizer.from_pretrained(out)) < 2000
    run("--max_steps", 1, name="again", start=["--model", out])


def test_wikitext_by_name_from_a_folder(train, tmp_path):
    data = tmp_path / "data" / "wikitext-2"
    data.mkdir(parents=True)
    line = " The cat sat on the mat @-@ like thing , and <unk> looked at it . It was happy then and sang .\n"
    for name in ("train", "valid"):
        (data / f"{name}.txt").write_text(f" = A title = \n\n{line * 60}")
    out = tmp_path / "out"
    code, err = train(*RUN, *SIZE, "--dataset_dir", data.parent, "--max_steps", 1,
                      "--output_dir", out)  # fmt: skip
    assert code == 0, err
    assert "held out" not in err
    assert "| validation text | wikitext-2," in (out / "README.md").read_text()


@pytest.mark.slow
def test_a_gpt2_from_scratch_and_further(run, text):
    gpt2 = ["--config", "type=gpt2,layers=1,width=16,heads=2,vocab=300"]
    flags = ["--objective", "causal", "--num_train_epochs", 3, "--ema", 0.9]
    first, _ = run(*flags, name="first", start=gpt2)
    curve = list(losses(first).values())
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])
    model = AutoModelForCausalLM.from_pretrained(first)
    assert isinstance(model, GPT2LMHeadModel)
    assert model.config.n_positions == 32 and model.config.diffusion["shift"] is True
    assert "pipeline_tag: text-generation" in (first / "README.md").read_text()

    # The reported NLL is that of the library's own loss on the same held-out blocks.
    tokenizer = AutoTokenizer.from_pretrained(first)
    blocks = packing.pack(corpus.load_documents(text, "train"), tokenizer, 32).long()
    held_out = blocks[-max(2, len(blocks) // 50) :]
    with torch.no_grad():
        expected = model.eval()(held_out, labels=held_out).loss.item()
    assert state(first)["log_history"][-1]["eval_nats_per_token"] == pytest.approx(expected, 1e-4)

    seen = model.config.diffusion["tokens_seen"]
    flags = ["--objective", "causal", "--max_steps", 2, "--dropout", 0.25]
    second, _ = run(*flags, start=["--model", first])
    config = json.loads((second / "config.json").read_text())
    assert config["diffusion"]["tokens_seen"] == seen + 2 * 4 * 32
    assert config["resid_pdrop"] == config["embd_pdrop"] == config["attn_pdrop"] == 0.25


def test_evaluating_alone_reports_the_same_and_writes_nothing(train, warm, text, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(warm)
    held_out = tmp_path / "held_out.txt"
    held_out.write_text(Path(text).read_text()[-900:])
    before = files(tmp_path)
    only = ("--evaluate_only", "--model", warm, "--dataset", held_out, "--eval_split", "test")
    code, err = train(*RUN, *only, "--objective", "causal", "--output_dir", tmp_path / "none")
    assert code == 0, err
    assert files(tmp_path) == before and not (tmp_path / "none").exists()
    nats = re.search(r"warm: ([\d.]+) ± .* nats per token, ([\d.]+) per byte", err)
    model = AutoModelForMaskedLM.from_pretrained(warm).eval()
    again = packing.pack(corpus.load_documents(str(held_out)), tokenizer, 32).long()
    rows = torch.ones_like(again, dtype=torch.bool)
    rows[:, 0] = False
    with torch.no_grad():
        logits = Backbone(model)(again, rows, causal=True)
    expected = torch.nn.functional.cross_entropy(logits, again[rows]).item()
    assert float(nats[1]) == pytest.approx(expected, abs=0.002)
    each = tmp_path / "blocks.json"
    code, err = train(*RUN, *only, "--objective", "causal", "--eval_blocks_file", each)
    said = json.loads(each.read_text())["causal"]
    own = torch.nn.functional.cross_entropy(logits, again[rows], reduction="none")
    assert code == 0 and said == pytest.approx(own.view(len(again), -1).mean(1).tolist(), abs=1e-3)
    code, err = train(*RUN, *only)  # as a denoiser: a bound
    assert code == 0 and "nats per token" in err
