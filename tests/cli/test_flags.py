"""Flags as they are typed -> options, and their help."""

import sys
from dataclasses import dataclass, field

import pytest

import compare
import finetune
import gpt2_inference
import inference
from diffusion.cli.flags import flag, parse_flags
from diffusion.errors import UserError


@dataclass
class Options:
    """The text."""

    json: bool = False
    live: bool = flag(True, "Show it.", off="Show nothing.")
    num_samples: int = flag(1, "Texts. More of them take longer.", group="How many")
    shard: str | None = field(default=None, metadata={"nargs": "?"})
    keep: list[str] | None = field(default=None, metadata={"help": "Words.", "rare": True})


def parse(monkeypatch, *typed):
    monkeypatch.setattr(sys, "argv", ["script.py", *typed])
    return parse_flags(
        [Options], "A script.", "Its text.", gone={"--eta": "--eta is gone; use --x"}
    )


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["--json", "the river"], {"json": True, "prompt": "the river"}),
        (["--json", "false", "the river"], {"json": False, "prompt": "the river"}),
        (["--json=true", "--no_live", "no"], {"json": True, "live": False, "prompt": "no"}),
        (["--json", "--no_json", "--no_live"], {"json": False, "live": False}),
        (["--shard", "fully", "--json"], {"json": True, "shard": "fully"}),
        (["--num_samples", "2", "--keep", "a", "b"], {"num_samples": 2, "keep": ["a", "b"]}),
        (["--json", "--", "--live"], {"json": True, "prompt": "--live"}),
    ],
)
def test_flags_as_they_are_typed(monkeypatch, typed, found):
    options, prompt = parse(monkeypatch, *typed)
    assert {**vars(Options()), "prompt": None, **found} == {**vars(options), "prompt": prompt}


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["--jso"], "unrecognized arguments: --jso; did you mean --json?"),
        (["the", "river"], "unrecognized arguments: river; put a text of several words in quotes"),
        (
            ["--num_samples", "many"],
            "argument --num_samples: invalid int value: 'many'; see --help",
        ),
        (["--json=maybe"], "argument --json: 'maybe' is neither true nor false; see --help"),
        (["--num_samples"], "argument --num_samples: expected one argument; see --help"),
        (["--eta", "0.1"], "--eta is gone; use --x"),
    ],
)
def test_a_mistake_is_one_sentence(monkeypatch, typed, named):
    with pytest.raises(UserError) as caught:
        parse(monkeypatch, *typed)
    assert str(caught.value) == named


def test_help_in_groups(monkeypatch, capsys):
    shown = {}
    for name in ("--help", "--help_all"):
        with pytest.raises(SystemExit) as end:
            parse(monkeypatch, "--num_samples", "many", name)  # whatever else is wrong
        shown[name] = capsys.readouterr().out
        assert not end.value.code
    assert shown["--help"] == (
        "A script.\n\nThe text:\n"
        "  PROMPT           Its text.\n"
        "  --json\n"
        "  --no_live        Show nothing.\n"
        "  --shard NAME\n\n"
        "How many:\n"
        "  --num_samples N  Texts. [1]\n\n"
        "--help_all lists all flags.\n"
    )
    assert "  --keep TEXT      Words.\n" in shown["--help_all"]
    assert "Texts. More of them take longer. [1]" in shown["--help_all"]


@pytest.mark.parametrize("script", [inference, gpt2_inference, compare, finetune])
def test_help_fits_a_screen(run_script, script):
    """`tests/test_architecture.py`: it loads no library."""
    code, out, _ = run_script(script, "--help")
    lines = out.splitlines()
    assert not code and len(lines) <= 60 and max(map(len, lines)) <= 100
    assert out.startswith(script.__doc__.strip()) and "--help_all" in lines[-1]


def test_help_of_all_flags_has_those_of_the_trainer(run_script):
    code, out, _ = run_script(finetune, "--help_all")
    assert code == 0
    for name in ("--ema", "--lr_scheduler_kwargs", "--optim", "--adam_epsilon", "--soft_k"):
        assert f"  {name}" in out
