"""The scripts in benchmarks/ are run by hand: here they are imported, and one is run small."""

import importlib.util
import json
import math
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


@pytest.mark.parametrize("page", ["RESULTS.md", "docs/evaluation.md"])
def test_the_tables_of_a_page_are_what_is_recorded(page):
    pages = load("pages")
    text = (FOLDER.parent / page).read_text()
    assert "<!-- from docs/results/" in text
    assert pages.filled(text) == text, f"run python benchmarks/pages.py {page}"
    assert pages.filled(text.replace("| 3.69 ±", "| 3.70 ±")) == text  # another number is mended


def test_seeds_are_pooled_and_prompts_paired(monkeypatch, tmp_path, capsys):
    """Against the same by hand: nats 2 and tokens 1 of each prompt and seed more or less."""
    nats = {"a-1": [[4, 2], [6, 3]], "a-2": [[5, 2], [7, 3]], "b-1": [[6, 2], [9, 3]],
            "b-2": [[7, 2], [10, 3]], "b-3": [[99, 1], [99, 1]]}  # fmt: skip
    (tmp_path / "rows").mkdir()
    for name, values in nats.items():
        row = {"model": name, "settings": {"sampler": "seed", "n_steps": 4}, "nats": values}
        (tmp_path / "rows" / f"{name}.json").write_text(json.dumps(row))
    flags = [str(tmp_path), "--model", "a", "--against", "b"]
    monkeypatch.setattr(sys, "argv", ["paired.py", *flags])
    load("paired").main()
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].split("|")]
    assert cells[1] == "`seed`, 4" and cells[6] == "2"  # the third seed of b has no partner
    assert cells[5].startswith(f"{math.exp((22 - 32) / 10):.2f} (")
