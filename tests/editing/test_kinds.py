"""Canvases of every kind of tokenizer: what is given comes back as it was typed, and what is written
leaves its spaces and its words alone."""

import re

import pytest
import torch
from helpers.kinds import KINDS, NASTY, RULED, TEXTS, Anything, tokenizer_of

from diffusion import rng
from diffusion.canvas import prompt_canvas
from diffusion.denoise import denoise
from diffusion.editing.canvases import (
    blank_spans,
    infill_canvas,
    interpolation_canvas,
    rewrite_canvas,
)
from diffusion.editing.templates import parse_template
from diffusion.generate import denoise_windows
from diffusion.proposal import Sampling
from diffusion.samplers.unmasking import FirstHitting
from diffusion.views.frames import Framer, State, written_text

TEMPLATES = [
    "The <mask:6> sat on the <mask:3> and slept.",
    "<mask:4> was built  <mask:1> in 1887.",
    'un<mask:2>ly (<mask:3>), “<mask:1>” "<mask:2>" \'tis<mask:1>',
    "<mask:3> <mask:2>,<mask:2><mask:1>",
    "  odd  <mask:2>  spaces \n\n<mask:3>\n end ",
    " <mask:1> ",
    "naïve 河<mask:1> <mask:2> 日本 </s> [SEP] <s> <mask> <mask:2> <pad>",
    "\u200b<mask:2>\u200b",
]
WHITE = " \t\n\r\f\v"


def write(kind: str, canvas, samples: int = 1) -> list:
    """The Steps of a generation in which every token is equally likely."""
    tokenizer = tokenizer_of(kind)
    keys = rng.row_keys(0, range(samples))
    return list(denoise(canvas, Anything(tokenizer), FirstHitting(), Sampling(), keys))


def keys_of(samples: int):
    return rng.row_keys(1, range(samples))


def rewritten(kind: str, text: str, strength: float, keep=None, samples: int = 1):
    tokenizer = tokenizer_of(kind)
    canvas = rewrite_canvas(tokenizer, text, strength, keys_of(samples), keep)
    return write(kind, canvas, samples)


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_and_the_text_begin_with_the_prompt(kind):
    tokenizer = tokenizer_of(kind)
    steps = write(kind, prompt_canvas(tokenizer, NASTY, 150, length=4), len(NASTY))
    framer = Framer(tokenizer)
    for row, prompt in enumerate(NASTY):
        frames = [framer.frame(step, row) for step in steps]
        assert frames[0].text == prompt
        assert all(frame.text.startswith(prompt) for frame in frames)
        assert frames[-1].text == written_text(tokenizer, steps[-1], row)
        assert frames[-1].text == prompt + frames[-1].added()


@pytest.mark.parametrize("kind", [k for k in RULED if not k.startswith("byte-level")])
def test_no_text_begins_in_the_middle_of_a_word(kind):
    """Nor does a word behind a space that was given."""
    tokenizer = tokenizer_of(kind)
    prompts = ["", "The river ", "The river\n"] * 80
    (*_, last) = write(kind, prompt_canvas(tokenizer, prompts, 60, length=2), len(prompts))
    spelled = tokenizer.convert_ids_to_tokens
    for row, prompt in enumerate(prompts):
        fresh = ~last.frozen[row] & ~last.padding[row]
        first = spelled(last.ids[row][fresh][0].item())
        given = last.frozen[row] & ~last.padding[row]
        before = spelled(last.ids[row][given].tolist())[-1]
        text = written_text(tokenizer, last, row)
        assert text.startswith(prompt)
        if before in ("▁", "<0x0A>"):  # tokens that are the space themselves
            continue
        if kind.startswith("wordpiece"):
            assert not first.startswith("##")
        else:
            assert first != "▁" and (first.startswith("▁") or not first[0].isalnum())
        assert text[len(prompt)] != " "


def test_a_text_longer_than_the_model_sees_keeps_its_prompt():
    tokenizer = tokenizer_of("wordpiece")
    canvas = prompt_canvas(tokenizer, [NASTY[0]], 60)
    how = (Anything(tokenizer), FirstHitting, Sampling(), rng.row_keys(0, [0]))
    steps = list(denoise_windows(canvas, *how, window=24, stride=12))
    for step in steps:
        assert written_text(tokenizer, step, 0).startswith(NASTY[0])
    assert not steps[-1].masked.any()


# ---------------------------------------------------------------- rewriting


@pytest.mark.parametrize("kind", KINDS)
def test_strength_0_gives_the_text_back(kind):
    for text in [*NASTY, *TEXTS]:
        (step,) = rewritten(kind, text, 0.0)
        assert written_text(tokenizer_of(kind), step, 0) == text


@pytest.mark.parametrize("kind", KINDS)
def test_given_parts_stay_as_they_were_typed(kind):
    text, samples = NASTY[0] + " " + TEXTS[1], 12
    framer, steps = Framer(tokenizer_of(kind)), rewritten(kind, text, 0.4, samples=samples)
    bytewise = kind.startswith("byte")  # another byte beside it makes another character of one
    for row in range(samples):
        for frame in (framer.frame(steps[0], row), framer.frame(steps[-1], row)):
            given = [
                piece
                for piece, state in zip(frame.pieces, frame.states, strict=True)
                if state is State.GIVEN and not (bytewise and not piece.isascii())
            ]
            at = 0
            for piece in given:  # one after the other, in the text
                words = piece.strip(" ")
                assert words in text[at:], (piece, text[at:])
                at = text.index(words, at) + len(words)


@pytest.mark.parametrize("kind", RULED)
@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("The river runs through the old town, and under it.", ["old town", "river"]),
        ("The old-town hall and the river/port.", ["old", "town", "river", "port"]),
        ("1887,1888 (3 ft)", ["1887", "1888", "3"]),
        ("She said “old” and «river».", ["old", "river"]),
        ("the 日本, 河", ["日本", "河"]),
        ("中, 語 河", ["中", "語"]),
    ],
)
def test_words_to_keep_stay_words(kind, text, keep):
    samples = 25
    last = rewritten(kind, text, 1.0, keep, samples)[-1]
    for row in range(samples):
        new = written_text(tokenizer_of(kind), last, row)
        assert all(re.search(rf"(?<!\w){word}(?!\w)", new) for word in keep), new


# ---------------------------------------------------------------- blanks


@pytest.mark.parametrize("text", TEMPLATES)
@pytest.mark.parametrize("kind", RULED)
def test_a_template_comes_back_with_its_holes_filled(kind, text):
    tokenizer, template, samples = tokenizer_of(kind), parse_template(text), 10
    lengths = tuple(blank[0] for blank in template.blanks)
    canvas = infill_canvas(tokenizer, template, [lengths] * samples)
    steps, framer = write(kind, canvas, samples), Framer(tokenizer)
    for row in range(samples):
        new = framer.frame(steps[-1], row).text
        spans = framer.spans(steps[-1], row, blank_spans(tokenizer, template, lengths))
        ends = [0, *(at for span in spans for at in span), len(new)]
        texts = [new[a:b] for a, b in zip(ends[::2], ends[1::2], strict=True)]
        blanks = [new[a:b] for a, b in spans]
        if kind.startswith("byte-level"):  # a byte of the blank
            spaced = [text.endswith(" ") for text in template.texts[:-1]]
            assert [blank.startswith(" ") for blank in blanks] == spaced
            assert texts == template.fixed()
        else:
            assert texts == template.texts
        for blank in blanks:
            core = blank.removeprefix(" ") if kind.startswith("byte-level") else blank
            assert core.strip(WHITE) and core == core.strip(WHITE)


# ---------------------------------------------------------------- between two texts


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_an_interpolation_are_the_two_texts(kind):
    tokenizer = tokenizer_of(kind)
    for pair in ((NASTY[0], NASTY[1]), (TEXTS[3], NASTY[6])):
        weights = [0.0, 0.5, 1.0]
        keys = keys_of(1).expand(3)
        canvas = interpolation_canvas(tokenizer, pair, weights, keys)
        last = write(kind, canvas, 3)[-1]
        assert [written_text(tokenizer, last, row) for row in (0, 2)] == list(pair)
        words = {word for text in pair for word in text.split()}
        kept = [p for p in canvas.typed[1].pieces.values() if p.strip()]
        assert all(any(part.strip() in word for word in words) for part in kept)


# ---------------------------------------------------------------- parts of a canvas


def test_rows_keep_what_was_typed_in_them():
    tokenizer = tokenizer_of("wordpiece")
    canvas = prompt_canvas(tokenizer, ["The", "river  runs", ""], 12)
    for rows in (slice(1, 3), [1, 2]):
        part = canvas.take(rows).to(torch.device("cpu"))
        assert list(part.typed) == canvas.typed[1:]
        assert part.allowed.in_order and part.allowed.kinds.tolist()[0] == [0] * 12
        assert written_text(tokenizer, write("wordpiece", part, 2)[0], 0) == "river  runs"
