"""Curves over temperature: pooled over seeds, and held against those of the baseline at equal entropy."""

import json
import math
import sys

import numpy as np
import pytest

from diffusion.errors import UserError
from studies import frontier
from studies.board import results
from studies.board.metrics import entropy
from studies.board.results import measured
from studies.board.rows import Store

LENGTH, PROMPTS = 12, 40
EXCESS = {"a": math.log(1.3), "b": math.log(1.2)}  # of the other way's log perplexity, by scorer


def texts(kinds: int, seed: int) -> list[list[int]]:
    """So many kinds of tokens in each text, give or take one."""
    draw = np.random.default_rng(1000 * kinds + seed)
    return [(np.arange(LENGTH) % (kinds + draw.integers(-1, 2))).tolist() for _ in range(PROMPTS)]


def effect(prompt: int) -> tuple[float, int]:
    """(nats per token, tokens) that a prompt has more than another, whoever writes after it."""
    return 0.6 * math.sin(prompt), 8 + prompt % 5


def keep(store: Store, model: str, temperature: float, seed: int, kinds: int, excess: dict) -> None:
    """A row by each scorer: of a text of entropy H, 2 + 0.5 H nats a token, the prompt's and the excess.
    One more text ended before."""
    ids = texts(kinds, seed)
    name = f"{model}-{temperature}-{seed}"
    samples = [
        {"ids": text, "text": "t", "prompt": f"p{i}", "nfe": 6, "seconds": 0.1, "finished": False}
        for i, text in enumerate([*ids, ids[0][:5]])
    ]
    store.write_texts(name, samples)
    mean = np.mean([entropy(text) for text in ids])
    for scorer, more in excess.items():
        nats = [[(2 + 0.5 * mean + more + e) * n, n] for e, n in map(effect, range(PROMPTS + 1))]
        common = {"model": model, "settings": {"temperature": temperature}, "seed": seed,
                  "samples": PROMPTS + 1, "scorer": scorer, "metrics": {}}  # fmt: skip
        store.write_row(f"{scorer}-{name}", {
            **common, "method": f"T {temperature}", "conditional": True, "nats": nats,
            "texts": f"generations/{name}.jsonl",
        })  # fmt: skip
        # Texts from nothing are another matter.
        store.write_row(f"{scorer}-{name}-0", {**common, "conditional": False, "nats": []})


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path)
    for seed in (0, 1):
        for temperature, kinds in ((0.5, 3), (0.8, 6), (1.0, 10)):
            keep(store, "base", temperature, seed, kinds, {"a": 0, "b": 0})
        keep(store, "other", 1.0, seed, 7, EXCESS)
        keep(store, "other", 0.2, seed, 2, EXCESS)  # less varied than the baseline ever is
        keep(store, "same", 1.0, seed, 5, {"a": 0, "b": 0})
        keep(store, "one", 1.0, seed, 5, {"a": math.log(1.3), "b": 0})
        keep(store, "mixed", 1.0, seed, 5, {"a": math.log(1.3), "b": -math.log(1.3)})
    data = {
        "format": results.FORMAT, "version": results.VERSION, "title": "T", "about": "", "command": "c",
        "data": {"name": "d", "split": "test", "reference_split": "validation"}, "samples": PROMPTS + 1,
        "prompt_len": 1, "length": LENGTH, "clusters": 2, "batch_size": 2, "notes": [], "likelihood": [],
        "scorer": {"name": "b", "hash": "", "compared": ""}, "rows": [], "paired_with": "", "paired": [],
        "hardware": "h", "processor": "p", "versions": {},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(data))
    return tmp_path


def run_it(monkeypatch, folder, *flags):
    monkeypatch.setattr(sys, "argv", ["frontier.py", str(folder), *flags])
    frontier.main()


def test_points_are_held_against_the_baseline_at_equal_entropy(folder, monkeypatch, capsys):
    run_it(monkeypatch, folder, "--scorers", "a", "b", "--baseline", "base")
    rows = json.loads((folder / "frontier.json").read_text())["rows"]
    found = {(row["model"], row["settings"]["temperature"]): row for row in rows}
    other = found["other", 1.0]
    # Both seeds of all prompts; entropy is of the whole texts among them.
    assert other["texts"] == 2 * (PROMPTS + 1) and other["seeds"] == 2
    both = [entropy(text) for seed in (0, 1) for text in texts(7, seed)]
    assert measured(other, "entropy").value == pytest.approx(np.mean(both))
    more, tokens = np.array([effect(i) for i in range(PROMPTS + 1)]).T
    pooled = 2 + 0.5 * np.mean(both) + (more * tokens).sum() / tokens.sum()
    for number, scorer in enumerate("ab", 1):
        factor = measured(other, f"factor_{number}")
        assert factor.value == pytest.approx(math.exp(EXCESS[scorer]), abs=0.01)
        # What a prompt has more, all have: its spread, 15 % of the perplexity, is not in the factor.
        assert factor.half < 0.05 and factor.low > 1
        perplexity = measured(other, f"gen_ppl_{number}")
        assert perplexity.value == pytest.approx(math.exp(pooled + EXCESS[scorer]), rel=0.01)
        assert perplexity.half > 0.1 * perplexity.value
    assert other["verdict"] == "worse"
    assert found["same", 1.0]["verdict"] == "indistinguishable"
    assert found["mixed", 1.0]["verdict"] == "the scorers disagree"
    assert found["one", 1.0]["verdict"] == "by one scorer only"
    assert found["other", 0.2]["verdict"] == "" and "factor_1" not in found["other", 0.2]["metrics"]
    assert "factor_1" not in found["base", 0.8]["metrics"]
    assert (folder / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "frontier.json" in capsys.readouterr().out


def test_a_folder_whose_rows_do_not_belong_together(folder, monkeypatch, tmp_path):
    def refused(said, *flags, where=folder):
        with pytest.raises(UserError, match=said):
            run_it(monkeypatch, where, *flags)

    refused("was not judged by c; run scoreboard", "--scorers", "a", "c", "--baseline", "base")
    refused("has no rows of gpt3 by a;", "--scorers", "a", "--baseline", "gpt3")
    refused("results.json", "--scorers", "a", where=tmp_path / "none")
    store = Store(folder)
    row = store.read_row("a-other-1.0-0")
    store.write_row("later", row)
    said = "has rows of two runs for other: T 1.0, seed 0; delete"
    refused(said, "--scorers", "a", "--baseline", "base")
