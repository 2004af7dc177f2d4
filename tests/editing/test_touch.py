"""One text of the prompt loop, changed in places: numbers of words, /again, /fix, /undo, in a terminal and
in a pipe."""

import random

import pytest
from helpers.kinds import KINDS, NASTY, TEXTS, Anything, tokenizer_of
from helpers.terminals import records, refused
from rich.cells import cell_len

import gpt2_inference
import inference
from diffusion import rng
from diffusion.cli.console import COMMANDS, is_command
from diffusion.denoise import denoise
from diffusion.editing.canvases import blank_spans, infill_canvas
from diffusion.editing.places import opened
from diffusion.editing.session import EDITING, SHARED
from diffusion.editing.touch import Draft, numbered, ranges, words
from diffusion.proposal import Sampling
from diffusion.samplers.unmasking import FirstHitting
from diffusion.views.frames import Framer

SMALL = ["--max_len", "48", "--dtype", "float32"]
PROMPT = "The river runs"


@pytest.fixture
def call(run_script, kept_models, tiny_model):
    def call(*lines, model=tiny_model, flags=("--json",), piped=False, script=inference):
        how = {"stdin": "\n".join(lines).encode()} if piped else {"typed": list(lines)}
        return run_script(script, "--model", model, *SMALL, *flags, **how)

    return call


def parts(record: dict) -> list[str]:
    """A text without its blanks."""
    cuts = [0, *(cut for b in record["blanks"] for cut in (b["start"], b["end"])), None]
    return [record["text"][a:b] for a, b in zip(cuts[::2], cuts[1::2], strict=True)]


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The river runs.", "The|river|runs|."),
        ("It's 5,000 m,\nwell-known!", "It's|5,000|m|,|well-known|!"),
        ('"Don’t," he said...', '"|Don’t|,"|he|said|...'),
        ("naïve cafe\u0301, 3.5 %", "naïve|cafe\u0301|,|3.5|%"),
        ("🙂👍🏽 👩\u200d👧! ❤\ufe0f", "🙂👍🏽|👩\u200d👧|!|❤\ufe0f"),
        ("日本の x", "日|本|の|x"),
        (" \n\t ", ""),
    ],
)
def test_words_are_what_people_see(text, expected):
    assert "|".join(text[a:b] for a, b in words(text)) == expected


@pytest.mark.parametrize("width", [1, 7, 20, 80])
@pytest.mark.parametrize("text", [*NASTY[:-2], *TEXTS, "w" * 200, "a, " * 120])
def test_each_number_stands_below_its_word(text, width):
    lines = numbered(text, width).split("\n")
    assert all(cell_len(line) <= max(width, 3) for line in lines)
    found = words(text)
    if width < 20:  # words may be cut
        assert " ".join(lines[1::2]).split() == [str(n + 1) for n in range(len(found))]
        return
    for above, below in zip(lines[::2], lines[1::2], strict=True):
        for number in below.split():
            start, _ = found[int(number) - 1]
            place = f" {below} ".index(f" {number} ")
            cells = [cell_len(above[:i]) for i in range(len(above))]
            first = text[start] if text[start].isprintable() else "\\"
            assert above[cells.index(place)] in (first, "…")


def test_numbers_as_people_write_them():
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10" and ranges([]) == ""


# ---------------------------------------------------------------- what is not selected


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_selected_stays_byte_for_byte(kind):
    """For every tokenizer, with a model that writes anything."""
    tokenizer, draws = tokenizer_of(kind), random.Random(0)
    framer = Framer(tokenizer)
    for text in [*NASTY[:-2], *TEXTS]:
        draft = Draft({"text": text}, "".join(draws.choice("twTW") for _ in text))
        last = len(words(text))
        numbers = sorted(draws.sample(range(1, last + 1), k=min(last, 3)))
        spans = draft.free(draft.select(" ".join(map(str, numbers)), "/again"))
        if not spans:
            continue
        template = opened(tokenizer, text, spans)
        lengths = tuple(blank[0] for blank in template.blanks)
        canvas = infill_canvas(tokenizer, template, [lengths])
        how = (Anything(tokenizer), FirstHitting(), Sampling(), rng.row_keys(0, [0]))
        *_, step = denoise(canvas, *how)
        new = framer.frame(step).text
        places = framer.spans(step, 0, blank_spans(tokenizer, template, lengths))
        record = {"text": new, "blanks": [{"start": a, "end": b} for a, b in places]}
        after = draft.filled(spans, record)
        assert len(after.owners) == len(new)
        # Around each blank: the fixed text, and the space that belongs to the blank.
        cuts = [0, *(cut for span in spans for cut in span), len(text)]
        for old, kept in zip(
            (text[a:b] for a, b in zip(cuts[::2], cuts[1::2], strict=True)),
            parts(record),
            strict=True,
        ):
            assert kept in (old, old.removesuffix(" "))


def test_signs_are_replaced_by_what_leaves_the_words_beside_them_alone():
    tokenizer = tokenizer_of("byte-level")
    framer, text = Framer(tokenizer), 'He said: "We never, saw" it.'
    draft = Draft({"text": text}, "w" * len(text))
    signs = [i for i, (a, b) in enumerate(words(text), 1) if not text[a:b].isalpha()]
    spans = draft.free(draft.select(" ".join(map(str, signs)), "/again"))
    template = opened(tokenizer, text, spans)
    lengths = tuple(blank[0] for blank in template.blanks)
    for seed in range(20):
        canvas = infill_canvas(tokenizer, template, [lengths])
        how = (Anything(tokenizer), FirstHitting(), Sampling(), rng.row_keys(seed, [0]))
        *_, step = denoise(canvas, *how)
        new = framer.frame(step).text
        seen = [new[a:b] for a, b in words(new)]
        assert {"He", "said", "We", "never", "saw", "it"} <= set(seen), new


# ---------------------------------------------------------------- the loop


def test_words_are_written_anew_and_all_else_stays(call):
    code, out, err = call(
        "/set length 12", PROMPT, "/tokens", "/again 2 5-6", "/again 2 5-6", "/undo", "/undo"
    )
    first, one, other, back, start = records(out)
    assert code == 0
    assert (first["sample"], one["sample"], other["sample"]) == (0, 1, 2)
    assert back == one and start == first
    old = [first["text"][a:b] for a, b in words(first["text"])]
    kept = parts(one)
    assert kept == parts(other) and one["text"] != other["text"]
    assert kept[0] == "The" and kept[1].startswith(" runs")
    places = words(first["text"])
    middle = first["text"][places[1][1] : places[4][0]]
    assert kept[1] in (middle, middle.removesuffix(" "))
    assert kept[2] == first["text"][places[5][1] :]
    assert [one["sampler"], one["nfe"]] == [
        "first-hitting",
        sum(b["tokens"] for b in one["blanks"]),
    ]
    assert "typed by you: 1-3; fixed: none" in err and "new words: 2" in err
    assert old[0] in err


def test_numbers_that_were_shown_hold_also_for_the_same_range(call):
    """Without a look at the numbers, the same range is the same place."""
    lines = ["/set length 12", PROMPT, "/again 2-3"]
    _, one, there = records(call(*lines, "/again 2-3")[1])
    _, _, looked = records(call(*lines, "/tokens", "/again 2-3")[1])
    assert parts(there) == parts(one)
    draft = Draft.of({"text": one["text"], "prompt": ""})
    ((start, end),) = draft.select("2-3", "/again")
    assert looked["text"].startswith(one["text"][:start].removesuffix(" "))
    assert looked["text"].endswith(one["text"][end:])


def test_fixed_and_typed_words_stay_where_all_else_is_written_anew(call):
    code, out, err = call(
        "/set length 12", PROMPT, "/fix 5-6", "/again", "/again", "/fix", "/again", "/undo"
    )
    first, one, other, free, back = records(out)
    places = words(first["text"])
    fixed = first["text"][places[4][0] : places[5][1]]
    assert code == 0 and one["text"] != other["text"] and parts(one) == parts(other)
    assert [part.strip() for part in parts(one)] == [PROMPT, fixed, ""]
    assert "typed by you: 1-3; fixed: 5-6" in err
    # Without fixed words all that follows the prompt is continued from it, as before.
    assert free["prompt"] == PROMPT and free["sample"] == 3
    assert back == other


def test_a_range_leaves_out_its_fixed_words(call):
    _, out, _ = call("/set length 12", PROMPT, "/fix 2", "/again 1-3")
    first, new = records(out)
    assert len(new["blanks"]) == 2 and parts(new)[1].strip(" ") == "river"
    assert new["text"].endswith(first["text"][len(PROMPT) :])


def test_filled_blanks_and_rewritten_words_are_written_anew_too(call):
    out = call("/infill The <mask:3> runs on.", "/again", "/tokens", "/undo")[1]
    first, again, back = records(out)
    assert parts(again) == ["The", " runs on."] and back == first
    assert again["text"] != first["text"]
    text = "The river runs through the old town."
    _, out, _ = call("/set strength 0.5", f"/rewrite {text}", "/again")
    first, again = records(out)
    assert first["changes"] and "blanks" in again
    for kept in parts(again):
        assert kept in text


def test_texts_of_before_come_back_and_a_release_is_undone(call):
    _, out, err = call("/set length 4", "He", "She", "/undo", "/fix 1", "/undo", "/tokens")
    assert [r["prompt"] for r in records(out)] == ["He", "She", "He"]
    said = [line for line in err.split("\n") if "typed by you" in line]
    assert [line.split("fixed: ")[1] for line in said] == ["1", "none", "none"]


def test_a_model_for_blocks_fills_on_the_full_canvas(call, tmp_path):
    from helpers.models import save_roberta

    folder = save_roberta(tmp_path / "blocks", layouts={"block4": 0.5, "full": 0.5})
    first, new = records(call("/set length 12", PROMPT, "/again 5", model=folder)[1])
    assert (first["sampler"], first["attention"]) == ("speculative", "block")
    assert (new["sampler"], new["attention"]) == ("first-hitting", "full")


WRONG = {
    "/again 99": "the text has words 1 to",
    "/again 0": "the text has words 1 to",
    "/again 3-2": "the range 3-2 ends before it begins; give 2-3",
    "/again river": "'river' is no number of a word",
    "/again 1-2-3": "'1-2-3' is no number of a word",
    "/fix -1": "'-1' is no number of a word",
    "/fix 1-99999999999999999": "is no number of a word",
    "/tokens 3": "/tokens takes no value; leave out '3'",
    "/undo 3": "/undo takes no value",
}


def test_wrong_numbers_are_one_sentence_and_change_nothing(call):
    code, out, err = call("/set length 4", "He", *WRONG, "/undo", "/tokens")
    _, _, *answers = err.split("Beginning of a text")
    assert code == 0 and len(records(out)) == 1
    for (line, named), answer in zip(WRONG.items(), answers[1:], strict=False):
        said = answer.split(" > ", 1)[1].strip()
        assert "\n" not in said and named in said, line
    assert "this is the first text" in err and "fixed: none" in err


def test_nothing_to_rewrite_is_said(call):
    for command in ("/tokens", "/again 2", "/fix 1", "/undo"):
        assert f"{command.split()[0]} needs a text before it" in call(command)[2]
    typed = ["/set length 4", "He", "/fix 1-2", "/again 1", "/fix 1-99", "/rewrite He", "/again"]
    _, _, err = call("/set strength 0", *typed)
    assert "/again 1: these words are fixed; /fix without numbers releases them" in err
    assert "/again: every word is typed by you or fixed" in err


def test_left_to_right_writing_cannot_fill_a_place_and_loses_nothing(call):
    typed = ["/set length 4", "/set sampler causal", "He", "/again 2", "/set sampler", "/again 2"]
    code, out, err = call(*typed)
    first, new = records(out)
    assert code == 0 and "write from left to right, after the given text" in err
    assert first["sampler"] == "causal" and new["sampler"] == "first-hitting"


# ---------------------------------------------------------------- pipes and other loops


def test_commands_in_a_pipe_do_what_they_do_at_a_terminal(call):
    lines = ["/set length 12", PROMPT, "/again 5-6", "/fix 4", "/again", "/undo"]
    typed = call(*lines)
    code, out, err = call(*lines, "", "/quit", "never", piped=True)
    assert code == 0 and "Beginning of a text" not in err
    assert [r["ids"] for r in records(out)] == [r["ids"] for r in records(typed[1])]


def test_the_first_mistake_ends_a_pipe_and_keeps_what_was_written(call, tmp_path):
    target = tmp_path / "out.jsonl"
    flags = ["--json", "--output", target]
    code, out, err = call("/set length 4", "He", "/again 9-99", "She", piped=True, flags=flags)
    assert (code, out) == (2, "") and err.count("inference.py: /again 9-99") == 1
    assert [r["prompt"] for r in records(target.read_text())] == ["He"]


def test_a_pipe_without_commands_is_prompts(call):
    code, out, _ = call("/home/me is", "/again5 He", piped=True)
    assert code == 0 and [r["prompt"] for r in records(out)] == ["/home/me is", "/again5 He"]


def test_the_commands_of_a_pipe_are_those_of_the_loop():
    assert set(COMMANDS) == {*EDITING, *SHARED}
    assert all(map(is_command, ("/again 5-9", "/undo", "/tokens\r")))
    assert not any(map(is_command, ("again", "/home/me", "/ again", "", " /again")))


def test_gpt2_says_that_it_cannot(call, tiny_gpt2):
    how = {"model": tiny_gpt2, "script": gpt2_inference}
    code, out, err = call("He", "/again 1", "/x", **how)
    assert code == 0 and [r["prompt"] for r in records(out)] == ["He", "/x"]
    assert "/again is a command of inference.py: GPT-2 writes from left to right" in err
    refused("gpt2_inference", call("He", "/tokens", piped=True, **how), "/tokens is a command of")


def test_help_fits_a_narrow_terminal(call, monkeypatch):
    for columns in (30, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        _, _, err = call("/help", "He", "/tokens")
        shown = err.split("Beginning of a text")[1:]
        lines = "\n".join(answer.split(" > ", 1)[1] for answer in shown).split("\n")
        assert all(len(line) <= min(columns, 100) for line in lines), lines
        for name in COMMANDS:
            assert f"  /{name}" in err
