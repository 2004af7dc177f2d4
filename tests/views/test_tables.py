"""What a terminal shows is at most 100 columns wide, and loses nothing."""

import json
import re
from pathlib import Path

import pytest

from diffusion.views import record as records
from diffusion.views.frames import Frame, State
from diffusion.views.terminal import WIDTH
from studies.board import report
from studies.board.report import aligned, wrapped

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "blocks" / "results.json"
LONG = "gpt2-medium-of-a-person-with-a-long-name-finetuned-on-wikitext-103-raw-v1"


def squeezed(text: str) -> str:
    """Without what a layout changes: white space."""
    return re.sub(r"\s", "", text)


def test_a_narrow_table():
    table = [["model", "how", "gen. PPL"], ["a", "left to right", "9 ± 1"], ["bb", "", "-"]]
    assert aligned(table, 2) == [
        "                       gen.",
        "model  how              PPL",
        "a      left to right  9 ± 1",
        "bb                        -",
    ]
    assert aligned([], 1) == [] and wrapped("") == []


@pytest.mark.parametrize("columns", [3, 9, 30])
def test_columns_that_do_not_fit_follow_below_beside_the_names(columns):
    rows = [
        [LONG, f"{LONG} {i}", *[f"{j}.{i:04} ± 0.01" for j in range(columns)]] for i in range(3)
    ]
    head = ["model", "how", *[f"column {j}" for j in range(columns)]]
    lines = aligned([head, *rows], 2)
    assert max(map(len, lines)) <= WIDTH
    shown = "\n".join(lines)
    assert all(cell in shown for row in rows for cell in row[2:])  # no number is cut
    assert all(name in shown for name in head)
    parts = shown.count("model")
    assert parts == -(-columns // 3) and squeezed(shown).count("gpt2-medium") == 6 * parts


def test_committed_results_fit_with_long_names():
    text = re.sub(r"(roberta|gpt2)-small-wikitext", rf"{LONG}-\1", RESULTS.read_text())
    data = json.loads(text)
    shown = report.plain_text(data)
    assert max(map(len, shown.split("\n"))) <= WIDTH
    for title, sentences, table in report.sections(data):
        assert title in shown
        assert all(squeezed(sentence) in squeezed(shown) for sentence in sentences)
        assert all(cell in shown for row in table[1:] for cell in row[2:])


def record(names=("a", "b"), unit="token", seconds=(1.0, 2.0)) -> dict:
    frames = [Frame([" x", " y"], [State.SETTLED] * 2, i, 2, i, float(i)) for i in range(3)]
    sides = [
        {"model": name, "method": "m", "text": "t", "ids": [1], "nfe": 1024, "frames": frames,
         "seconds": list(seconds)} for name in names
    ]  # fmt: skip
    return {"prompt": "x", "unit": unit, "sides": sides, "options": {"length": 1024},
            "hardware": "NVIDIA H100 80GB HBM3, bfloat16, PyTorch with CUDA graphs, 16 threads",
            "processor": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"}  # fmt: skip


@pytest.mark.parametrize("names", [("a", "b"), (LONG, LONG + "-2")])
@pytest.mark.parametrize("unit", ["token", "character"])
def test_a_comparison_fits(names, unit):
    data = record(names, unit, seconds=(1234.5678, 9876.5432))
    shown = records.table(data)
    assert max(map(len, shown.split("\n"))) <= WIDTH
    for said in (*names, "1234.568 (1234.568-9876.543)", f"{unit}s/s", "1024", "tokens/pass"):
        assert squeezed(said) in squeezed(shown)
    assert squeezed(records.verdict(data)) in squeezed(shown)
    assert squeezed(data["processor"]) in squeezed(shown)
    assert shown.count("busy") == 2  # one of each side
