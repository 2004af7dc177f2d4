"""Flags in a file are the flags of the command line."""

import sys

import pytest
from helpers.training import one_sentence

from diffusion.training.arguments import read_recipe
from diffusion.training.checks import parse

RECIPE = """
dataset = ["one.txt", "two words.txt"]  # a comment
block_size = 64
learning_rate = 1e-3
warmup_steps = 1
max_steps = -1
soft_masking = true
use_cpu = true
logging_first_step = true
shift = "no"
lr_scheduler_type = "cosine"
lr_scheduler_kwargs = {num_cycles = 0.25}
"""
TYPED = [
    *("--dataset", "one.txt", "two words.txt", "--block_size", "64", "--learning_rate", "1e-3"),
    *("--warmup_steps", "1", "--max_steps", "-1", "--soft_masking", "--use_cpu", "--shift", "no"),
    *("--logging_first_step", "--lr_scheduler_type", "cosine"),
    *("--lr_scheduler_kwargs", '{"num_cycles": 0.25}'),
]


@pytest.fixture
def options(monkeypatch):
    """What the words of a command line are read as."""

    def options(*words):
        monkeypatch.setattr(sys, "argv", ["finetune.py", *map(str, words)])
        read_recipe()
        return parse("")

    return options


def test_a_recipe_is_the_flags_it_holds_and_what_is_typed_wins(options, tmp_path):
    recipe = tmp_path / "a.toml"
    recipe.write_text(RECIPE)
    found = options(recipe)
    assert str(recipe) not in sys.argv and "--block_size=64" in sys.argv  # what a card shows
    assert found == options(*TYPED)
    more = ["--dataset", "three.txt", "--soft_masking", "false", "--learning_rate", "2e-3"]
    found = options(recipe, *more)
    assert found == options(*TYPED, *more)
    assert found.data.dataset == ["three.txt"] and not found.diffusion.soft_masking


BAD = [
    ("a.toml", "max_step = 3", ["--max_step", "did you mean --max_steps?"]),
    ("a.toml", "[seed]\nname = 'x'", ["--seed", '{"name": "x"}']),
    ("a.toml", "block_size = 64.5", ["--block_size", "64.5"]),
    ("a.toml", "block_size = true", ["--block_size", "true"]),
    ("a.toml", "dataset = []", ["--dataset", "at least one"]),
    ("a.toml", "seed = 2020-01-01", ["--seed", "2020-01-01"]),
    ("a.toml", "max_steps 3", ["cannot read", "line 1"]),
    ("a.toml", "a = " + "[" * 9000, ["cannot read"]),
    ("a.toml", "a = \udcff", ["not UTF-8", "byte 4"]),
    ("a.json", "{}", ["a.json", "nor a recipe", ".toml"]),
    ("no/a.toml", None, ["no/a.toml", "No such file"]),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD, ids=lambda x: str(x)[:40])
def test_a_bad_recipe_is_refused(train, tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode(errors="surrogateescape"))
    code, err = train(path, "--use_cpu", "--output_dir", tmp_path / "out")
    assert code == 2 and not (tmp_path / "out").exists()
    one_sentence(err, *words)
