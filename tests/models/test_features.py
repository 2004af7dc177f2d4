"""docs/families.md is what the families can do."""

from pathlib import Path

import pytest
from helpers.families import USABLE
from helpers.features import refused_rows, row, small_tokenizer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.mark.parametrize("name", USABLE)
def test_the_page_says_what_a_family_can_do(name, tokenizer):
    assert row(name, tokenizer) in PAGE.read_text().splitlines()


def test_the_page_has_no_other_rows():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == len(USABLE) + len(refused_rows())
    assert set(refused_rows()) <= set(rows)
