"""Each measure of studies/claims.py on texts whose answer is known, and all of it run small."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from diffusion.errors import UserError
from studies import claims
from studies.board import rows
from studies.board.rows import Store
from studies.board.scorer import load_scorer

ROOT = Path(__file__).resolve().parents[2]


def test_the_last_quarter_is_held_against_the_first():
    parts = claims.quarters(np.array([1, 1, 2, 3, 3, 4, 5, 6, 7.5]))
    assert parts.tolist() == [[4, 3], [6, 2], [9, 2], [13.5, 2]]
    even = claims.quarters(np.ones(8))
    assert claims.growth(np.stack([parts, even])) == pytest.approx([6.75 - 4 / 3, 0])


def test_a_topic_that_stays_and_one_that_changes():
    assert claims.thirds(" one two three four five six seven") == ("one two", "six seven")
    assert claims.thirds("one two") == ("", "")
    water, music = "river and the ship", "piano and the violin"
    texts = [f"{water} at a stone bridge {water}", f"{music} or cello and drum {music}"]
    assert claims.topic(texts, texts) == pytest.approx([1, 1])
    texts = [f"{water} at a stone bridge {music}", f"{music} or cello and drum {water}"]
    assert claims.topic(texts, texts) == pytest.approx([-1, -1])
    # What all texts have in common is no topic of one of them.
    assert claims.topic([f"{water} at a stone bridge {water}"] * 3, texts) == pytest.approx([0] * 3)
    assert claims.topic(["at the of", "on to in"], texts) == pytest.approx([0, 0])


def test_a_word_weighs_by_how_rare_it_is_in_real_text():
    """ "river" is in all references and weighs 1; "ship" is in one, "horse" in none: they weigh the same."""
    texts = ["river horse and then river ship", "piano drum and then bread bell"]
    rare = 1 + math.log(4 / 2)
    expected = [1 / (1 + rare**2), 0]  # what is alike is the river alone
    assert claims.topic(texts, ["river ship", "river", "river"]) == pytest.approx(expected)


@pytest.fixture
def board(tmp_path):
    """A folder as scoreboard.py leaves it, with two rows of texts; what is in its results."""
    results = json.loads((ROOT / "studies" / "results" / "near" / "results.json").read_text())
    lines = ["the mill of Bob and the river of Bob", "a piano for Anna and a drum for Anna",
             "stones in Rome and bread in Rome", "ships to Oslo and trains to Oslo"]  # fmt: skip
    model = next(row for row in results["rows"] if row["model"] not in (rows.REAL, rows.SHUFFLED))
    real = next(row for row in results["rows"] if row["model"] == rows.REAL)
    written = {"real": lines, "other": [lines[1], lines[0], lines[3], lines[2]], "ended": lines}
    finished = {"real": (), "other": (2,), "ended": range(4)}
    results |= {"samples": 4, "rows": []}
    for name, texts in written.items():
        Store(tmp_path).write_texts(name, [
            {"prompt": "He saw", "text": f" {text}", "ids": [5], "finished": i in finished[name],
             "nfe": 1, "seconds": 0.1, "index": i} for i, text in enumerate(texts)
        ])  # fmt: skip
        entry = real if name == "real" else {**model, "model": name}
        results["rows"].append({**entry, "texts": f"generations/{name}.jsonl"})
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path, results


def test_claims_from_a_scoreboard_to_json(board, monkeypatch, capsys, tmp_path, tiny_gpt2):
    folder, results = board
    out = tmp_path / "claims.json"
    flags = [folder, "--scorer", tiny_gpt2, "--output", out]
    monkeypatch.setattr(sys, "argv", ["claims.py", *map(str, flags)])
    claims.main()
    found = json.loads(out.read_text(), parse_constant=pytest.fail)  # no NaN
    real, other, ended = found["rows"]
    assert [row["texts"] for row in found["rows"]] == [4, 3, 0]
    assert all(value == [0, 0, 0] for value in real["more"].values()) and len(real["more"]) == 2
    assert set(ended["numbers"]) == set(claims.COPIED) and ended["more"] == {}
    for name in claims.COPIED:
        assert other["numbers"][name] == results["rows"][1]["metrics"][name]

    samples = Store(folder).read_texts("other", 4)
    texts = [(s["prompt"], s["text"], False) for i, s in enumerate(samples) if i != 2]
    each = [opinion.each for opinion in load_scorer(str(tiny_gpt2)).read(texts)]
    last = [np.array_split(nats, 4)[3] for nats in each]
    perplexity = math.exp(np.concatenate(last).mean())
    assert other["numbers"]["ppl_4"][0] == pytest.approx(perplexity, rel=1e-4)
    first = [np.array_split(nats, 4)[0] for nats in each]
    grown = [a.mean() - b.mean() for a, b in zip(last, first, strict=True)]
    assert other["numbers"]["growth"][0] == pytest.approx(np.mean(grown), rel=1e-4)
    # Row "other" has the texts of "real" two by two exchanged, so what it is more is known.
    (real_4th,) = load_scorer(str(tiny_gpt2)).read([("He saw", samples[2]["text"], False)])
    parts = np.array_split(real_4th.each, 4)
    more = (grown[2] - (parts[3].mean() - parts[0].mean())) / 3
    assert other["more"]["growth"][0] == pytest.approx(more, rel=1e-3)
    said = capsys.readouterr().out
    assert "| real text |" in said and said.count("| ended: ") == 2 and "| - | - |" in said


def test_a_folder_without_texts_is_refused(board, tmp_path):
    with pytest.raises(UserError, match=r"nowhere has no results\.json; give the --output_dir"):
        claims.read(tmp_path / "nowhere")
    (tmp_path / "generations" / "other.jsonl").unlink()
    with pytest.raises(UserError, match=r"has no texts of other: .*; run studies/scoreboard"):
        claims.read(tmp_path)


def test_what_to_install(run_script, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = run_script(claims, "nowhere")
    assert (code, err) == (2, 'claims.py: this needs scikit-learn; pip install -e ".[studies]"\n')
