"""What changed between two texts, and words to keep."""

import random

from diffusion.editing.templates import changes, kept_characters, marked_changes

PAIRS = [
    ("the old town", "the new town"),
    ("", "a b"),
    ("a b", ""),
    ("  odd\n\nspaces  here ", "  odd\n\nblanks  there "),
    ("naïve 河 text", "naive 河 text"),
]


def test_the_changes_turn_the_old_text_into_the_new_one():
    draw = random.Random(0)
    letters = ["a", "bc", " ", " ", "\n", ","]
    some = [["".join(draw.choices(letters, k=12)) for _ in range(2)] for _ in range(300)]
    for old, new in [*PAIRS, *some]:
        rebuilt, at = "", 0
        for change in changes(old, new):
            assert change.start < change.end or change.new_start < change.new_end
            assert change.old == old[change.start : change.end]
            assert change.new == new[change.new_start : change.new_end]
            rebuilt += old[at : change.start] + change.new
            at = change.end
        assert rebuilt + old[at:] == new


def test_kept_words_are_whole_words():
    assert kept_characters("then the other, the", ["the", ","]) == [(5, 8), (16, 19), (14, 15)]


def test_marks():
    assert marked_changes("the old town", "the new town") == "the [-old-]{+new+} town"
    assert marked_changes("a b c", "a c") == "a[- b-] c"
    assert marked_changes("a c", "a b c") == "a{+ b+} c"
