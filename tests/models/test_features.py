"""docs/families.md is what the families can do."""

import pytest
from helpers.features import PAGE, abilities, small_tokenizer, told

from diffusion.models.families import FAMILIES

WHOLE = ("roberta", "convbert")  # the others: with what may be refused alone
CELLS = told(PAGE.read_text())


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.mark.parametrize(
    "name", [n if n in WHOLE else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES]
)
def test_the_page_says_what_a_family_can_do(name, tokenizer):
    assert CELLS[name] == abilities(name, tokenizer, whole=name in WHOLE)


def test_the_page_has_no_other_rows():
    assert set(CELLS) == set(FAMILIES)
