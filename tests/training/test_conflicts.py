"""Each combination of flags that is refused: in its one sentence, with nothing written."""

import re

import huggingface_hub
import pytest
from helpers.training import SIZE

from diffusion.training.checks import CONFLICTS, NOISE_CONFLICTS

MIX = "block4=1,full=1"
# What stands after a flag, where the conflict does not say that.
VALUES = {
    "resume_from_checkpoint": "last", "p_u": 0.2,
    "noise": "uniform", "layouts": MIX, "schedule": "log-linear", "soft_start": 0.1,
    "soft_middle": 4.0, "soft_slope": 1.0, "soft_k": 2, "soft_share": 0.5,
    "soft_learning_rate": 0.1, "mixing": "spherical", "eval_blocks_file": "x.json",
    "hub_model_id": "me/x", "new_vocabulary": 310, "tokenizer": "x",
}  # fmt: skip
# Conflicts whose names are no command lines.
TYPED = {
    "--fsdp": "--fsdp full_shard",
    "--prefix_len outside a block": "--prefix_len 32",
    "--push_to_hub without a token": "--push_to_hub",
    "--revision without a model on the hub": "--revision v1",
    "--streaming --config without --tokenizer": "--streaming --max_train_samples 3 --config",
    "--config type=gpt2 without --objective causal": (
        "--config type=gpt2,layers=1,width=16,heads=2,vocab=300"
    ),
}
TABLE = {conflict.flags: conflict for conflict in (*CONFLICTS, *NOISE_CONFLICTS)}


def command_line(flags: str) -> list[str]:
    """Of a conflict, as it would be typed, without the size of a --config."""
    typed = TYPED.get(flags, flags.split(" without ")[0].replace(" with ", " "))
    words = []
    for name, value in re.findall(r"--(\w+)(?: (?!-)(\S+))?", typed):
        value = VALUES.get(name, "") if not value or value.startswith("{") else value
        words += [f"--{name}", value] if value else [f"--{name}"]
    return words


def test_every_conflict_is_listed_once_and_all_that_is_typed_is_of_one():
    assert len(TABLE) == len(CONFLICTS) + len(NOISE_CONFLICTS) and not TYPED.keys() - TABLE.keys()


@pytest.mark.parametrize("flags", TABLE)
def test_a_conflict_is_refused(refused, tiny_model, monkeypatch, flags):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    words, start = command_line(flags), ["--model", tiny_model]
    if "--config" in words:
        start = SIZE if words[-1] == "--config" else []
        words = [word for word in words if word != "--config" or not start]
    elif flags.startswith("--revision"):
        start = SIZE
    err = refused(words, start=start)
    sentence = re.sub(r"\\{\w+\\}", ".+", re.escape(TABLE[flags].sentence))
    assert re.fullmatch(rf"finetune\.py: {sentence}\n", err) and "{" not in err, err
