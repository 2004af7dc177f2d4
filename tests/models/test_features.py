"""docs/families.md is what the families can do."""

from pathlib import Path

import pytest
from helpers.features import abilities, small_tokenizer, told

from diffusion.models.families import FAMILIES

WHOLE = ("roberta", "convbert")  # the others: with what may be refused alone
PAGE = told((Path(__file__).resolve().parents[2] / "docs" / "families.md").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.mark.parametrize(
    "name", [n if n in WHOLE else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES]
)
def test_the_page_says_what_a_family_can_do(name, tokenizer):
    assert PAGE[name] == abilities(name, tokenizer, whole=name in WHOLE)


def test_the_page_has_no_other_rows():
    assert set(PAGE) == set(FAMILIES)
