"""Tokens are spelled as their own tokenizer spells them, or better; given text as it was given."""

import random

import pytest
from helpers.kinds import KINDS, NASTY, TEXTS, tokenizer_of
from tokenizers.pre_tokenizers import BertPreTokenizer

from diffusion.models.tokenizers import load_tokenizer, token_byte_lengths
from diffusion.text import NOTHING, Slot, Speller, encode, read, space_between, typed_from

MASK = Slot()


def spelled(kind: str, ids, given: str = "") -> str:
    """What a row shows that begins with a given text."""
    tokenizer = tokenizer_of(kind)
    own = [Slot(token, part) for token, part in zip(*read(tokenizer, given), strict=True)]
    own = own or [Slot(typed=given)]  # it stands at <s> where it has no token
    return "".join(Speller(tokenizer).pieces([*own, *map(Slot, ids)]))


def token(kind: str, spelling: str) -> int:
    tokenizer = tokenizer_of(kind)
    known = tokenizer.convert_tokens_to_ids(spelling)
    assert known not in (None, tokenizer.unk_token_id), spelling
    return known


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith("wordpiece")])
def test_any_tokens_are_what_the_tokenizer_decodes(kind):
    """Also bytes that are no character."""
    tokenizer, draw = tokenizer_of(kind), random.Random(0)
    texts = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    rows = [draw.choices(texts, k=draw.randint(1, 12)) for _ in range(300)]
    if kind == "byte fallback":  # the library breaks a whole run of bytes where one is wrong
        rows = [[i for i in ids if tokenizer.convert_ids_to_tokens(i)[:3] != "<0x"] for ids in rows]
    for ids in [*rows, *(encode(tokenizer, text) for text in TEXTS)]:
        assert spelled(kind, ids) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", ["roberta-small-wikitext", "gpt2-small-books"])
def test_the_embedded_models_write_what_their_tokenizer_decodes(name):
    tokenizer, draw = load_tokenizer(name, needs_mask=False), random.Random(1)
    speller = Speller(tokenizer)
    for _ in range(300):
        ids = [draw.randrange(5, len(tokenizer)) for _ in range(20)]
        shown = "".join(speller.pieces([Slot(i) for i in ids]))
        assert shown == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    # What is given needs no record: its tokens are the text.
    assert all(typed_from(speller, text) is NOTHING for text in [*NASTY, *TEXTS, ""])


def test_signs_stand_as_they_are_printed():
    for text in TEXTS:
        assert spelled("wordpiece", encode(tokenizer_of("wordpiece"), text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "It's the dogs' (old) town.",
        "(‘Single’), (l'eau).",
        'He said: "We saw it," and "left" it.',
        "“Well-known” and/or 3.5 at 12:30, 5,000 in 1887, 1888.",
        "Costs $5 [five]! Why? 5% of €3…",
        "日本語の文。 and 日本",
    ],
)
def test_text_that_was_cut_at_every_sign_is_put_together(text):
    parts, out, quotes = BertPreTokenizer(), "", 0
    cut = [word for word, _ in parts.pre_tokenize_str(text)]
    cut = [c for word in cut for c in (word if word[0] in "日本語の文" else [word])]
    for part in cut:
        out += space_between(out, part, quotes) + part
        quotes += part == '"'
    assert out == text


CASES = [
    # kind, given, tokens written behind it, what is shown behind it
    ("wordpiece", "The river", ["runs", ".", "The"], " runs. The"),
    ("wordpiece", "The riv", ["##er"], "er"),
    ("wordpiece", "The river ", ["runs"], "runs"),
    ("wordpiece", "The river\n", ["runs"], "runs"),
    ("wordpiece", "The (", ["river", ")"], "river)"),
    ("wordpiece", "It", ["'", "s"], "'s"),
    ("wordpiece", 'He said "', ["The", '"', "and"], 'The" and'),
    ("wordpiece", "", ["The", "river"], "The river"),
    ("wordpiece", "", ["##er", "river"], "er river"),
    ("wordpiece", "\u200b", ["river"], " river"),
    ("unigram", "The", ["▁the"], " the"),
    ("unigram", "The ", ["▁the"], "the"),
    ("unigram", "", ["▁the", "▁the"], "the the"),
    ("byte fallback", "The", ["▁the"], " the"),
    ("byte fallback", "The  ", ["▁the"], "the"),
    ("byte fallback", "The", ["<0xE6>", "<0x97>", "<0xA5>", "▁the"], "日 the"),
    ("byte-level", "The ", ["Ġthe"], " the"),
    ("suffixes", "The", ["the</w>", ".</w>"], " the ."),
    ("suffixes", "The", ["r", "the</w>", "the</w>"], " rthe the"),
]


@pytest.mark.parametrize(("kind", "given", "tokens", "shown"), CASES)
def test_one_space_between_words_and_none_inside(kind, given, tokens, shown):
    assert spelled(kind, [token(kind, t) for t in tokens], given) == given + shown


def test_a_given_word_behind_a_written_one():
    """Its own space, one where the tokens say so, none where the text that was given says so."""
    speller = Speller(tokenizer_of("wordpiece"))
    runs, river, er = (token("wordpiece", t) for t in ("runs", "river", "##er"))

    def shown(second: Slot) -> list[str]:
        return speller.pieces([Slot(runs), second, Slot(river, "river")])

    assert shown(Slot(river, "  river")) == ["runs", "  river", "river"]
    assert shown(Slot(river, "river")) == ["runs", " river", "river"]
    assert shown(Slot(river, "river", tight=True)) == ["runs", "river", "river"]
    assert shown(Slot(er, "er")) == ["runs", "er", "river"]
    assert shown(Slot(river, ",000")) == ["runs", ",000", "river"]


def test_beside_a_mask_and_after_text_without_tokens():
    speller = Speller(tokenizer_of("wordpiece"))
    runs, dot, er = (token("wordpiece", t) for t in ("runs", ".", "##er"))
    row = [MASK, Slot(runs), MASK, Slot(dot), MASK, Slot(er), MASK, Slot(runs, "runs")]
    assert speller.pieces(row) == ["", " runs", "", ".", "", "er", "", "runs"]
    row = [Slot(runs, after="  "), Slot(runs, tight=True), Slot(runs)]
    assert speller.pieces(row) == ["runs  ", "runs", " runs"]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "byte-level"])
def test_the_bytes_of_tokens_add_up_to_those_of_a_text(kind):
    """Of words with a space in front; 0 for a special."""
    tokenizer = tokenizer_of(kind)
    sizes = token_byte_lengths(tokenizer, len(tokenizer) + 3)
    text = " the river runs through the old town"
    assert sizes[encode(tokenizer, text)].sum() == len(text)
    assert sizes[tokenizer.all_special_ids].sum() == sizes[-3:].sum() == 0
    assert Speller(tokenizer_of("suffixes")).bytes_of(token("suffixes", "the</w>")) == b"the"


@pytest.mark.parametrize("kind", KINDS)
def test_given_text_comes_back_whatever_it_is(kind):
    assert all(spelled(kind, [], text) == text for text in NASTY)
