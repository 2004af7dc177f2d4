"""What changed between two texts."""

import random

import pytest

from diffusion.editing.templates import changes, kept_characters, marked_changes

PAIRS = [
    ("the old town", "the new town"),
    ("the old town", "the old town"),
    ("", "a b"),
    ("a b", ""),
    ("one two three", "one three"),
    ("one three", "one two three"),
    ("  odd\n\nspaces  here ", "  odd\n\nblanks  there "),
    ("naïve 河 text", "naive 河 text"),
]


def apply(old: str, new: str) -> str:
    """The new text, rebuilt from the old one and the changes."""
    parts, at = [], 0
    for change in changes(old, new):
        parts += [old[at : change.start], new[change.new_start : change.new_end]]
        at = change.end
    return "".join([*parts, old[at:]])


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_the_changes_turn_the_old_text_into_the_new_one(old, new):
    assert apply(old, new) == new


def test_the_changes_of_random_texts():
    draw = random.Random(0)
    for _ in range(300):
        old, new = (
            "".join(draw.choice(["a", "bc", " ", " ", "\n", ","]) for _ in range(12))
            for _ in range(2)
        )
        assert apply(old, new) == new
        assert all(c.start < c.end or c.new_start < c.new_end for c in changes(old, new))


def test_kept_words_are_whole_words():
    assert kept_characters("then the other, the", ["the", ","]) == [(5, 8), (16, 19), (14, 15)]


def test_marks():
    assert marked_changes("the old town", "the new town", False) == "the [-old-]{+new+} town"
    assert marked_changes("a b c", "a c", False) == "a[- b-] c"
    assert marked_changes("a c", "a b c", False) == "a{+ b+} c"
    assert marked_changes("same", "same", True) == "same"
    coloured = marked_changes("the old town", "the new town", True)
    assert coloured == "the \x1b[31;9mold\x1b[0m\x1b[32mnew\x1b[0m town"


def test_a_text_cannot_steer_the_terminal():
    assert "\x1b" not in marked_changes("a \x1b[2J b", "a \x1b[2J c", False)
