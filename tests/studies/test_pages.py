"""The tables of the pages are what is recorded."""

import json
import re
from pathlib import Path

import pytest

from diffusion.errors import UserError
from studies import pages

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    path for path in (*ROOT.glob("docs/*.md"), ROOT / "README.md", *ROOT.glob("studies/*.md"))
    if pages.OPENING.search(path.read_text())
]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_numbers_of_a_page_are_what_is_recorded(page):
    text = page.read_text()
    assert pages.filled(text) == text, f"run python studies/pages.py {page}"
    other = re.sub(r"\d\)? \|\n(?=<!-- end)", lambda m: m[0].replace(m[0][0], "x"), text)
    assert other != text and pages.filled(other) == text  # the last number of each table


def test_a_table_that_cannot_be_filled_spoils_nothing():
    table = "<!-- from studies/results/blocks/results.json: nfe\nreal = real text\n-->\n"
    rest = "Text.\n<!-- from studies/results/blocks/results.json: nfe\nreal = real text\n-->\n<!-- end -->\n"
    for bad, said in (
        (table + rest, "a table has no <!-- end -->"),
        (table.replace("nfe", "passes") + "<!-- end -->", "names what does not exist: 'passes'"),
        (table.replace("blocks", "none") + "<!-- end -->", "does not exist: .*No such file"),
        (table.replace("= real", "= unreal") + "<!-- end -->", "has no row 'unreal text'"),
    ):
        with pytest.raises(UserError, match=said):
            pages.filled(bad)


def test_numbers_of_any_study(monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    numbers = {"a": [1.5, 1.0, 2.0], "b c": [None, None, None]}
    more = {"model": "m", "method": "two (x: 1)", "more": {"a": [-3.0, -4.0, -2.0]}}
    entries = [{"method": "one at 0", "more": {"a": [0, 0, 0]}}, more]
    entries = [{"numbers": numbers, **entry} for entry in entries]
    (tmp_path / "found.json").write_text(json.dumps({"tasks": {"end": {"rows": entries}}}))
    beside = [entry | {"numbers": {"a": [7, 7, 7]}} for entry in entries]
    (tmp_path / "other.json").write_text(json.dumps({"rows": beside}))
    text = """<!-- rows from found.json
column A = tasks/end/rows: numbers: a
column B = tasks/end/rows: numbers: b c
column more = tasks/end/rows: more: a
column C = other.json rows: numbers: a
first = one at 0
second = m: two (x: 1)
-->
what stood here
<!-- end -->
"""
    lines = pages.filled(text).splitlines()
    assert lines[8:12] == [
        "| | A | B | more | C |", "|---|---|---|---|---|",
        "| first | 1.5 ± 0.5 | - | 0 | 7 |", "| second | 1.5 ± 0.5 | - | -3 ± 1 | 7 |",
    ]  # fmt: skip
    assert lines[:8] == text.splitlines()[:8] and lines[12:] == ["<!-- end -->"]
    with pytest.raises(UserError, match="names what does not exist: 'three'"):
        pages.filled(text.replace("= one at 0", "= three"))
