"""Wrong flags, texts, folders and models: one sentence, nothing written."""

import re
import shutil
from dataclasses import fields

import pytest
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from diffusion.errors import UserError
from diffusion.training.arguments import GONE, GROUPS, TrainerFlags, parse_size

BAD_FLAGS = [
    (["--loss", "foo"], ["--loss", "'foo'", "nelbo"]),
    (["--lss", "mean"], ["--lss", "did you mean --loss"]),
    (["--config", "type=bert,layers=1,width=16,heads=2,vocab=300"], ["type=bert", "type=gpt2"]),
    (["--dtype", "float16"], ["float16", "bfloat16"]),
    (["--fp16"], ["fp16"]),
    (["--block_size", "7"], ["--block_size 7", "8"]),
    (["--ema", "1"], ["--ema 1.0", "below 1"]),
    (["--save_steps", "0"], ["--save_steps 0.0"]),
    (["--eval_steps", "nan"], ["--eval_steps nan"]),
    (["--num_train_epochs", "0"], ["--num_train_epochs 0"]),
    (
        ["--load_best_model_at_end", "--eval_strategy", "steps"],
        ["--load_best_model_at_end", "--eval_strategy is steps and --save_strategy no"],
    ),
    (["--learning_rate", "nan"], ["--learning_rate nan"]),
    (["--learning_rate", "1e39"], ["--learning_rate 1e+39"]),
    (["--optim_args", "x"], ["--optim_args x: "]),
    (["--lr_scheduler_kwargs", "x"], ["--lr_scheduler_kwargs 'x'", "JSON object"]),
    (
        ["--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", '{"foo": 1}'],
        ["--lr_scheduler_type cosine --lr_scheduler_kwargs", "argument 'foo'"],
    ),
    (["--optim", "adamw_bnb_8bit"], ["bitsandbytes"]),
    (["--optim", "foo"], ["foo", "adamw_torch"]),
    (["--save_strategy", "best"], []),
    (["--logging_steps", str(10**30)], ["--logging_steps"]),
    (["--block_size", str(10**30)], ["--block_size"]),
    (["--tokenizer", "~nosuchuser/x"], ["'~nosuchuser/x'"]),
    (["--eval_dataset", "x" * 300], ["File name too long"]),
    (["--seed", "4294967296"], ["--seed 4294967296"]),
    (["--lr_scheduler_type", "foo"], ["'foo'", "cosine"]),
    (["--eval_strategy", "foo"], ["foo", "epoch"]),
    (["--report_to", "foo"], ["foo", "tensorboard"]),
    (["--auto_find_batch_size"], ["--auto_find_batch_size", "leave it out"]),
    (["--metric_for_best_model", "nats_per_byte"], ["--metric_for_best_model", "leave it out"]),
    (["--attn_implementation", "foo"], ["foo"]),
    (["--soft_masking", "--soft_k", "301"], ["--soft_k 301", "300 tokens"]),
    (["--soft_masking", "--mixing", "cubic"], ["--mixing 'cubic'"]),
    (["--layouts", "half=1"], ["'half=1'", "full, causal and blockN"]),
    (["--resume_from_checkpoint", "last"], ["has no checkpoint"]),
    (["--resume_from_checkpoint", "no/such/folder"], ["no/such/folder", "'last'"]),
    (["--resume_from_checkpoint", "x" * 300], ["is not a folder"]),
]


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ("", "layers=N"),
        ("layers=1", "layers=N"),
        ("layers=1,width=16,heads=2,vocab=x", "layers=N"),
        ("layers=1,width=16,heads=2,vocab=300,depth=3", "layers=N"),
        ("layers=0,width=16,heads=2,vocab=300", "layers=N"),
        ("layers=1,width=15,heads=2,vocab=300", "multiple of the heads"),
        ("layers=1,width=16,heads=2,vocab=299", "at least 300"),
        (f"layers={10**30},width=16,heads=2,vocab=300", "layers=N"),
    ],
)
def test_bad_sizes(config, word):
    with pytest.raises(UserError, match=word):
        parse_size(config)


LATE = {
    *("--attn_implementation", "--save_strategy", "--optim", "--optim_args", "--report_to"),
    *("--soft_k", "--tokenizer", "--eval_dataset", "--lr_scheduler_type"),
}


@pytest.mark.parametrize(("flags", "words"), BAD_FLAGS, ids=lambda x: " ".join(x))
def test_bad_flags(refused, flags, words):
    err = refused(["--max_steps", 1, *flags], *words)
    assert err.count("\n") == 1 or LATE & set(flags)  # known only when there is a text, or a model


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["does not exist"]),
        (b"", ["has no text"]),
        ("é".encode("latin-1") * 100, ["is not UTF-8", "convert it"]),
        (b"short", ["too few for one block of 32", "--block_size"]),
        (b"one two six ten " * 20, ["fills only 2 blocks", "--eval_dataset"]),
    ],
    ids=["none", "empty", "latin-1", "short", "two blocks"],
)
def test_bad_text(refused, tmp_path, content, words):
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content)
    err = refused(["--dataset", path], *words)
    assert all(
        line.startswith(("read ", "training a byte-level BPE")) for line in err.splitlines()[:-1]
    )
    if "fills" not in words[0]:
        refused(["--eval_dataset", path], *words[:1])


def test_bad_output_folders(refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "model.safetensors").write_text("mine")
    bad = {"file": ["is a file"], "file/a": ["cannot be written to"],
           "used": ["not empty", "--resume_from_checkpoint", "--overwrite_output_dir"]}  # fmt: skip
    for name, words in bad.items():
        refused(["--output_dir", tmp_path / name], str(tmp_path / name), *words)
    assert (tmp_path / "used" / "model.safetensors").read_text() == "mine"


def test_bad_models(refused, warm, tmp_path):
    (tmp_path / "empty").mkdir()
    t5, cut = tmp_path / "t5", shutil.copytree(warm, tmp_path / "cut")
    shape = {"vocab_size": 300, "d_model": 8, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**shape)).save_pretrained(t5)
    AutoTokenizer.from_pretrained(warm).save_pretrained(t5)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    for model, words in [
        (tmp_path / "no", ["does not exist"]),
        (tmp_path / "empty", ["has no config.json"]),
        (t5, ["'t5' model"]),
        (cut, ["cannot read the weights"]),
    ]:
        refused([], str(model), *words, start=["--model", model])
    refused(["--block_size", 33], "--block_size 33", "32 positions", start=["--model", warm])


def test_flags_of_other_scripts_get_the_name_they_have_here(refused):
    refused(["--train_file", "x.txt"], "did you mean --dataset?")
    refused(["--model_name_or_path=x"], "did you mean --model?")
    ours = {f"--{option.name}" for owner in (*GROUPS, TrainerFlags) for option in fields(owner)}
    named = {name for said in GONE.values() for name in re.findall(r"did you mean (--\w+)", said)}
    assert named and named <= ours
