"""Curves over temperature: pooled over seeds, and held against those of the baseline at equal entropy."""

import json
import math
import sys

import numpy as np
import pytest

from benchmarks import frontier
from diffusion.evaluation.metrics import entropy
from diffusion.evaluation.results import measured
from diffusion.evaluation.rows import Key, Store

LENGTH, PROMPTS = 12, 40
EXCESS = {"a": math.log(1.3), "b": math.log(1.2)}  # of the other way's log perplexity, by scorer


def texts(kinds: int, seed: int) -> list[list[int]]:
    """So many kinds of tokens in each text, give or take one."""
    draw = np.random.default_rng(1000 * kinds + seed)
    return [(np.arange(LENGTH) % (kinds + draw.integers(-1, 2))).tolist() for _ in range(PROMPTS)]


def keep(store: Store, model: str, temperature: float, seed: int, kinds: int, excess: dict) -> None:
    """A row by each scorer: of a text of entropy H, 2 + 0.5 H nats a token and the excess."""
    ids = texts(kinds, seed)
    name = f"{model}-{temperature}-{seed}"
    store.write_texts(name, [
        {"ids": text, "text": "t", "prompt": "p", "nfe": 6, "seconds": 0.1, "finished": False}
        for text in ids
    ])  # fmt: skip
    mean = np.mean([entropy(text) for text in ids])
    for scorer, more in excess.items():
        store.write_row(Key(f"{scorer}-{name}", "asked"), {
            "model": model, "method": f"T {temperature}", "conditional": True, "seed": seed,
            "settings": {"temperature": temperature}, "samples": PROMPTS, "scorer": scorer,
            "metrics": {"mauve": [0.5, 0.4, 0.6]}, "texts": f"generations/{name}.jsonl",
            "nats": [[LENGTH * (2 + 0.5 * mean + more), LENGTH]] * PROMPTS,
        })  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path)
    for seed in (0, 1):
        for temperature, kinds in ((0.5, 3), (0.8, 6), (1.0, 10)):
            keep(store, "base", temperature, seed, kinds, {"a": 0, "b": 0})
        keep(store, "other", 1.0, seed, 7, EXCESS)
        keep(store, "other", 0.2, seed, 2, EXCESS)  # less varied than the baseline ever is
        keep(store, "same", 1.0, seed, 5, {"a": 0, "b": 0})
        keep(store, "mixed", 1.0, seed, 5, {"a": math.log(1.3), "b": -math.log(1.3)})
    results = {"command": "c", "samples": PROMPTS, "prompt_len": 1, "length": LENGTH, "data": {}, "rows": [],
               "hardware": "h", "processor": "p", "versions": {}}  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def run_it(monkeypatch, folder, *flags):
    monkeypatch.setattr(sys, "argv", ["frontier.py", str(folder), *flags])
    frontier.main()


def test_points_are_held_against_the_baseline_at_equal_entropy(folder, monkeypatch, capsys):
    run_it(monkeypatch, folder, "--scorers", "a", "b", "--baseline", "base")
    rows = json.loads((folder / "frontier.json").read_text())["rows"]
    found = {(row["model"], row["settings"]["temperature"]): row for row in rows}
    other = found["other", 1.0]
    # Both seeds of all prompts, and their entropy, whose spread the baseline's line follows.
    assert other["texts"] == 2 * PROMPTS and other["seeds"] == 2
    both = [entropy(text) for seed in (0, 1) for text in texts(7, seed)]
    assert measured(other, "entropy").value == pytest.approx(np.mean(both))
    for number, scorer in enumerate("ab", 1):
        factor = measured(other, f"factor_{number}")
        assert factor.value == pytest.approx(math.exp(EXCESS[scorer]), abs=0.01)
        assert 1 < factor.low <= factor.value <= factor.high < 1.5
        perplexity = measured(other, f"gen_ppl_{number}").value
        assert perplexity == pytest.approx(
            math.exp(2 + 0.5 * np.mean(both) + EXCESS[scorer]), rel=0.01
        )
    assert other["verdict"] == "worse"
    assert found["same", 1.0]["verdict"] == "not told apart"
    assert found["mixed", 1.0]["verdict"] == "not told apart"  # the scorers do not agree
    assert found["other", 0.2]["verdict"] == "" and "factor_1" not in found["other", 0.2]["metrics"]
    assert "factor_1" not in found["base", 0.8]["metrics"]
    assert (folder / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "| other: T 1.0 | 80 |" in capsys.readouterr().out


def test_a_folder_without_the_rows_that_are_asked_for(folder, monkeypatch, tmp_path):
    from diffusion.errors import UserError

    with pytest.raises(UserError, match="has no rows by the scorer c; run scoreboard"):
        run_it(monkeypatch, folder, "--scorers", "a", "c", "--baseline", "base")
    with pytest.raises(UserError, match="has no rows of gpt3"):
        run_it(monkeypatch, folder, "--scorers", "a", "--baseline", "gpt3")
    with pytest.raises(UserError, match="cannot be read; run scoreboard"):
        run_it(monkeypatch, tmp_path / "none", "--scorers", "a")
