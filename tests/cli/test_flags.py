"""Flags as they are typed -> options."""

import sys
from dataclasses import dataclass, field

import pytest

from diffusion.cli.flags import parse_flags


@dataclass
class Options:
    json: bool = False
    live: bool = True
    shard: str | None = field(default=None, metadata={"nargs": "?", "const": True})


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["--json", "the river"], (True, None, "the river")),
        (["--json", "false", "the river"], (False, None, "the river")),
        (["--shard", "fully", "--json"], (True, "fully", None)),
        (["the river", "--shard"], (False, True, "the river")),
        (["--shard", "--json"], (True, True, None)),
    ],
)
def test_a_bare_flag_takes_no_prompt_and_one_with_a_value_keeps_it(monkeypatch, typed, found):
    monkeypatch.setattr(sys, "argv", ["script.py", *typed])
    options, prompt = parse_flags([Options], "", prompt_help="")
    assert (options.json, options.shard, prompt) == found


def test_no_file_beside_the_script_adds_flags(monkeypatch, tmp_path):
    """As the library's parser would let it."""
    (tmp_path / "script.args").write_text("--json")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "script.py")])
    (options,) = parse_flags([Options], "")
    assert not options.json
