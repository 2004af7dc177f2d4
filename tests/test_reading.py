"""Given text is kept whole, whatever a tokenizer makes of it."""

import pytest
from helpers.kinds import KINDS, NASTY, TEXTS, tokenizer_of
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from diffusion.text import Typed, encode, parts, read, read_on, typed_where


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_a_text_are_the_text(kind):
    tokenizer = tokenizer_of(kind)
    for text in [*NASTY, *TEXTS]:
        ids, pieces = read(tokenizer, text)
        assert ids == encode(tokenizer, text) and len(pieces) == len(ids)
        assert "".join(pieces) == (text if ids else "")


def test_a_part_has_the_space_before_it_and_the_line_break_behind():
    assert read(tokenizer_of("wordpiece"), " The \n\n  river  runs\n")[1][:2] == [
        " The \n\n",
        "  river",
    ]
    assert parts("a\u0301 b", [(0, 1), (3, 4)]) == ["a\u0301", " b"]  # an accent that was dropped
    # One character of three tokens stands where the last of them does.
    assert parts("日x", [(0, 1), (0, 1), (0, 1), (1, 2)]) == ["", "", "日", "x"]


def test_the_name_of_a_special_token_is_text():
    for kind in KINDS:
        tokenizer = tokenizer_of(kind)
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        assert not special & set(encode(tokenizer, " ".join(tokenizer.all_special_tokens)))


def test_a_character_in_parts_is_spelled_by_those_that_are_given():
    pieces = ["a", "", "", "日", " b"]
    whole = {1: "a", 2: "", 3: "", 4: "日", 5: " b"}
    assert typed_where(pieces, [True] * 5) == Typed(whole)
    for hidden in (1, 2, 3):
        given = [i != hidden for i in range(5)]
        assert typed_where(pieces, given) == Typed({1: "a", 5: " b"})


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "byte fallback"])
def test_a_text_that_goes_on_has_no_space_and_no_new_word_in_front(kind):
    tokenizer = tokenizer_of(kind)
    for text in (".", ", and the river", "ly runs"):
        ids, pieces = read_on(tokenizer, text)
        assert "".join(pieces) == text
        first = tokenizer.convert_ids_to_tokens(ids)[0]
        assert not first.startswith("▁")
        assert first.startswith("##") == (kind == "wordpiece" and text[0].isalpha())
    # Behind what it cannot be told apart from, it is read alone.
    assert "".join(read_on(tokenizer, "日本")[1]) == "日本"


def test_a_tokenizer_that_does_not_tell_where_its_tokens_stand(tmp_path):
    vocabulary = tokenizer_of("wordpiece").get_vocab()
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(sorted(vocabulary, key=vocabulary.get)), encoding="utf-8")
    slow = BertTokenizerLegacy(str(file), do_lower_case=False)
    assert not slow.is_fast
    for text in [*TEXTS, "It's  5,000 m, 日本 (3 ft) old.", "日本 "]:
        ids, pieces = read(slow, text)
        assert ids == encode(tokenizer_of("wordpiece"), text)
        assert pieces == [""] * (len(ids) - 1) + [text]
