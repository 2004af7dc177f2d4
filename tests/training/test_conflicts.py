"""Each combination of flags that is refused: one sentence that names it, nothing written."""

import huggingface_hub
import pytest
from helpers.training import SIZE

from diffusion.training.checks import CONFLICTS, NOISE_CONFLICTS

GPT2 = ["--config", "type=gpt2,layers=1,width=16,heads=2,vocab=300"]
MODEL = ["--model"]  # with the folder of a tiny one
MIX = ["--layouts", "block4=1,full=1"]
UNIFORM = ["--noise", "uniform"]

# Conflict -> (flags, words of the sentence)
REFUSED = {
    "--early_stopping_patience with --eval_strategy no": (
        ["--early_stopping_patience", 2], ["--early_stopping_patience", "--eval_strategy"]
    ),
    "--fsdp": (["--fsdp", "full_shard"], ["FSDP", "accelerate launch"]),
    "--prefix_len outside a block": (["--prefix_len", 32], ["--prefix_len 32", "between 1"]),
    "--lora with --config": (["--lora", "r=2"], ["--lora", "--config"]),
    "--evaluate_only with --config": (["--evaluate_only"], ["--evaluate_only", "--config"]),
    "--evaluate_only with --lora": ([*MODEL, "--evaluate_only", "--lora", "r=2"], ["--lora"]),
    "--evaluate_only with --resume_from_checkpoint": (
        [*MODEL, "--evaluate_only", "--resume_from_checkpoint", "last"],
        ["--resume_from_checkpoint"],
    ),
    "--evaluate_only with --soft_masking": (
        [*MODEL, "--evaluate_only", "--soft_masking"], ["--soft_masking"]
    ),
    "--evaluate_only with --noise": ([*MODEL, "--evaluate_only", *UNIFORM], ["leave out --noise"]),
    "--evaluate_only with --p_u": ([*MODEL, "--evaluate_only", "--p_u", 0.2], ["leave out --p_u"]),
    "--push_to_hub without a token": (["--push_to_hub"], ["--push_to_hub", "hf auth login"]),
    "--chat with --objective causal": ([*MODEL, "--chat", "--objective", "causal"], ["--chat"]),
    "--chat with --layouts {layouts}": ([*MODEL, "--chat", *MIX], [" ".join(MIX)]),
    "--chat with --streaming": ([*MODEL, "--chat", "--streaming"], ["--streaming"]),
    "--chat with --dataset wikitext-2": (
        [*MODEL, "--chat", "--dataset", "wikitext-2"], ["--chat", "wikitext-2"]
    ),
    "--chat --config without --tokenizer": (["--chat"], ["chat template", "--tokenizer"]),
    "--streaming without --max_train_samples": (
        [*MODEL, "--streaming"], ["--streaming", "--max_train_samples"]
    ),
    "--streaming --config without --tokenizer": (
        ["--streaming", "--max_train_samples", 3], ["--streaming", "--tokenizer"]
    ),
    "--mask_schedule batch with --schedule {schedule}": (
        ["--mask_schedule", "seed", "--schedule", "log-linear"], ["--schedule log-linear"]
    ),
    "--objective causal with --shift no": (
        ["--objective", "causal", "--shift", "no"], ["--shift no"]
    ),
    "--layouts {layouts} with --objective causal": (
        [*MIX, "--objective", "causal"], [" ".join(MIX), "--objective causal"]
    ),
    "--layouts {layouts} with --loss mean": ([*MIX, "--loss", "mean"], ["--loss mean"]),
    "--layouts {layouts} with --mask_schedule batch": (
        [*MIX, "--mask_schedule", "batch"], ["--mask_schedule batch"]
    ),
    "--soft_masking with --objective causal": (
        ["--soft_masking", "--objective", "causal"], ["--objective causal"]
    ),
    "--soft_masking with --layouts causal": (
        ["--soft_masking", "--layouts", "causal"], ["--layouts causal"]
    ),
    "--soft_masking with --optim muon": (["--soft_masking", "--optim", "muon"], ["--optim muon"]),
    **{
        f"--{name} {{{name}}} without --soft_masking": ([f"--{name}", value], [f"--{name} {value}"])
        for name, value in [
            ("soft_start", 0.1), ("soft_middle", 4.0), ("soft_slope", 1.0), ("soft_k", 2),
            ("soft_share", 0.5), ("soft_learning_rate", 0.1), ("mixing", "spherical"),
        ]
    },
    "--eval_blocks_file {eval_blocks_file} without --evaluate_only": (
        ["--eval_blocks_file", "x.json"], ["--eval_blocks_file x.json", "--evaluate_only"]
    ),
    "--hub_model_id {hub_model_id} without --push_to_hub": (
        ["--hub_model_id", "me/x"], ["--hub_model_id me/x", "--push_to_hub"]
    ),
    "--config type=gpt2 without --objective causal": (GPT2, ["type=gpt2", "--objective causal"]),
    "--revision without a model on the hub": (
        ["--revision", "v1"], ["--revision v1", "layers=1", "is none"]
    ),
    "--noise absorbing with --p_u": (["--p_u", 0.2], ["--noise absorbing", "--p_u"]),
    "--noise absorbing with --loss clipped": (["--loss", "clipped"], ["--loss clipped"]),
    "--noise uniform with --p_u": ([*UNIFORM, "--p_u", 0.2], ["--noise uniform", "--p_u"]),
    **{
        f"--noise {noise} with {flag}": (
            [*(typed[:1] if typed[:1] == MODEL else []), "--noise", noise, *typed[typed[:1] == MODEL:]],
            [f"--noise {noise}", *typed[-1:]],
        )
        for noise in ("uniform", "hybrid")
        for flag, typed in [
            ("--objective causal", ["--objective", "causal"]),
            ("--loss mean", ["--loss", "mean"]),
            ("--mask_schedule batch", ["--mask_schedule", "batch"]),
            ("--layouts {layouts}", MIX),
            ("--soft_masking", ["--soft_masking"]),
            ("--chat", [*MODEL, "--chat"]),
        ]
    },
}  # fmt: skip


def test_every_conflict_is_tried():
    known = [conflict.flags for conflict in (*CONFLICTS, *NOISE_CONFLICTS)]
    assert sorted(known) == sorted(REFUSED)


@pytest.mark.parametrize("conflict", REFUSED)
def test_a_conflict_is_refused(refused, tiny_model, monkeypatch, conflict):
    flags, words = REFUSED[conflict]
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    start = SIZE if "--config" not in flags else []
    if flags[:1] == MODEL:
        start, flags = ["--model", tiny_model], flags[1:]
    assert refused(flags, *words, start=start).count("\n") == 1
