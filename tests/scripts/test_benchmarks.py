"""The scripts in benchmarks/ are run by hand: here they are imported, and one is run small."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_a_benchmark_says_what_it_does(name, monkeypatch, capsys):
    """All that it imports is there, and its flags are in order."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        load(name).main()
    assert end.value.code == 0 and "--" in capsys.readouterr().out


def test_the_cost_of_a_pass_is_noted_by_length(monkeypatch, tmp_path, capsys):
    out = tmp_path / "cache.json"
    flags = ["--length", "48", "--uncached", "32", "--output", str(out)]
    monkeypatch.setattr(sys, "argv", ["cache.py", *flags])
    load("cache").main()
    found = json.loads(out.read_text())
    assert [(r["sampler"], r["cache"]) for r in found["rows"]] == [
        ("causal", True), ("causal", False), ("confidence", True), ("confidence", False)
    ]  # fmt: skip
    assert all(len(row["ms"]) == 8 and min(row["ms"]) > 0 for row in found["rows"])
    assert capsys.readouterr().out.count("ms a pass") == 4
