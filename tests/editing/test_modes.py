"""The editing modes of inference.py as a user runs them."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.terminals import records, refused

import inference
from diffusion.editing.options import text_or_file
from diffusion.editing.templates import changes
from diffusion.errors import UserError
from diffusion.generate import Writer, load_writer
from diffusion.likelihood import likelihood_bound

SMALL = ["--max_len", "40", "--dtype", "float32"]
SHORT = ["--length", "6"]
TEXT = "The river runs through the old town."


@pytest.fixture
def call(run_script, kept_models, tiny_model):
    def call(*arguments, **typed):
        return run_script(inference, "--model", tiny_model, *SMALL, *arguments, **typed)

    return call


@pytest.fixture
def lines(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("The river runs.\n\nShe opened the window and the door.\r\nHe\n")
    return file


# ---------------------------------------------------------------- infill


def test_infill_json_says_where_the_holes_are(call):
    (record,) = records(call("--infill", "“The <mask:3> runs<mask:2-2>", "--json")[1])
    assert record["infill"] == "“The <mask:3> runs<mask:2>"
    first, second = record["blanks"]
    text = record["text"]
    assert [h["tokens"] for h in record["blanks"]] == [3, 2]
    assert text[first["start"] : first["end"]] == first["text"]
    assert text[second["start"] : second["end"]] == second["text"]
    assert text == "“The" + first["text"] + " runs" + second["text"]
    assert record["nfe"] == 5


def test_a_range_keeps_the_best_of_the_texts_of_each_length(call):
    (record,) = records(call("--infill", "The <mask:2-5> runs <mask:1-2>.", "--json")[1])
    tried = record["candidates"]
    assert [c["lengths"] for c in tried] == [[a, b] for a in range(2, 6) for b in (1, 2)]
    best = max(tried, key=lambda c: c["pseudo_likelihood"])
    assert best["lengths"] == [blank["tokens"] for blank in record["blanks"]]
    assert record["pseudo_likelihood"] == pytest.approx(best["pseudo_likelihood"], abs=1e-4)
    # It is the text that this length alone gives.
    a, b = best["lengths"]
    (alone,) = records(call("--infill", f"The <mask:{a}> runs <mask:{b}>.", "--json")[1])
    assert alone["ids"] == record["ids"] and alone["nfe"] == record["nfe"]


@pytest.mark.slow
def test_texts_do_not_depend_on_the_batch(call):
    for task in (
        ["--infill", "The <mask:2-4> runs."],
        ["--infill", "The <mask:3> runs."],
        ["--rewrite", TEXT],
        ["--interpolate", TEXT, "She opened it."],
    ):
        some = [*task, "--num_samples", "2", "--json"]
        big = records(call(*some, "--batch_size", "16")[1])
        small = records(call(*some, "--batch_size", "1")[1])
        assert [r["ids"] for r in big] == [r["ids"] for r in small]
        assert len(big) in (2, 10)


# ---------------------------------------------------------------- rewrite


def test_rewrite_shows_what_changed(call):
    code, out, err = call("--rewrite", TEXT, "--strength", "0.7")
    assert code == 0
    new = out.removesuffix("\n\n")
    assert new != TEXT and "\x1b" not in out + err
    told = err.splitlines()[-1] if "\n" not in new else err
    assert "{+" in told or "[-" in told
    (record,) = records(call("--rewrite", TEXT, "--strength", "0.7", "--json")[1])
    assert record["text"] == new and record["rewrite"] == TEXT
    assert record["changes"] == [change._asdict() for change in changes(TEXT, new)]


def test_files_are_read_whatever_their_names(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        text_or_file("NOTES.TXT", "--rewrite")
    for name in ("NOTES.TXT", "my notes.txt"):
        (tmp_path / name).write_text(" The river\n\nruns  on.\n")
        code, out, _ = call("--rewrite", name, "--strength", "0")
        assert (code, out) == (0, " The river\n\nruns  on.\n\n")
    (record,) = records(call("--rewrite", "NOTES.TXT", "--strength", "1", "--json")[1])
    assert record["masked"] == len(record["ids"]) - 1


# ---------------------------------------------------------------- interpolate


def test_interpolation_begins_and_ends_with_the_two_texts(call):
    code, out, _ = call("--interpolate", TEXT, "She opened it.", "--points", "4", "--json")
    got = records(out)
    assert code == 0
    assert [r["weight"] for r in got] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert (got[0]["text"], got[-1]["text"]) == (TEXT, "She opened it.")
    assert all(r["nfe"] > 0 for r in got[1:-1])
    assert len(call("--interpolate", TEXT, "She", "--points", "2")[1].split("\n\n")) == 3


# ---------------------------------------------------------------- score


def test_score_is_the_bound_of_evaluation_for_each_line(call, lines, tiny_model):
    got = records(call("--score", lines, "--draws", "5", "--json", "--seed", "2")[1])
    assert [r["line"] for r in got] == [1, 3, 4]
    writer = load_writer(str(tiny_model), dtype="float32")
    backbone, noise = writer.denoiser.backbone, writer.denoiser.noise
    sizes = torch.ones(320, dtype=torch.int64)
    for record in got:
        tokens = writer.tokenizer(record["text"], add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[0, *tokens]])
        bound = likelihood_bound(backbone, ids, ids.bool(), noise, sizes, draws=5, seed=2)
        assert record["tokens"] == len(tokens)
        assert record["nats_per_token"] == pytest.approx(bound.nats_per_token, abs=1e-4)
        assert record["nats"] == pytest.approx(bound.nats_per_token * len(tokens), abs=1e-2)
        size = len(record["text"].encode())
        assert record["nats_per_byte"] == pytest.approx(record["nats"] / size)
        assert (record["standard_error"] > 0) == (len(tokens) > 1)  # one token: one mask set


def test_scores_are_a_table_in_the_order_of_the_lines(call, lines):
    code, out, _ = call("--score", lines, "--draws", "2")
    head, *rows = out.splitlines()
    assert code == 0 and head.split()[0] == "line"
    assert [int(row.split()[0]) for row in rows] == [1, 3, 4]
    assert rows[0].endswith("  The river runs.")


# ---------------------------------------------------------------- files, animations


def test_every_mode_writes_to_a_file(call, lines, tmp_path):
    target = tmp_path / "out.txt"
    for task in (
        ["--infill", "The <mask:1-2> runs."],
        ["--rewrite", TEXT],
        ["--interpolate", TEXT, "She", "--points", "2"],
        ["--score", lines, "--draws", "2"],
    ):
        on_screen = call(*task)[1]
        code, out, _ = call(*task, "--output", target)
        assert (code, out) == (0, "")
        assert target.read_text() == on_screen.removesuffix("\n") or task[0] == "--score"
        assert target.read_text().strip() == on_screen.strip()


def test_the_best_of_several_lengths_can_be_animated(call, tmp_path):
    target = tmp_path / "edit.html"
    code, _, err = call("--infill", "The <mask:1-2> runs.", "--save_animation", target)
    assert code == 0 and "saved" in err and target.stat().st_size > 1000


# ---------------------------------------------------------------- mistakes

# Combinations of options are in tests/cli/test_checks.py, ranges in tests/attack.
BAD = {
    "huge blank": (["--infill", "The <mask:999999999> sat"], "of 40 positions; shorten it"),
    "words that are not there": (["--rewrite", TEXT, "--keep", "castle"], "'castle'"),
    "folder to rewrite": (["--rewrite", "."], "--rewrite: cannot read"),
    "text too long": (["--rewrite", "river " * 60], "of 40 positions"),
    "empty file": (["--rewrite", "empty.txt"], "--rewrite 'empty.txt' is empty"),
    "sampler from left to right": (
        ["--infill", "The <mask:2> sat", "--sampler", "causal"], "leave them out where spans are",
    ),
    "score file not utf-8": (["--score", "latin.txt"], "latin.txt is not UTF-8 text (byte 3, in line 1)"),
    "line too long": (["--score", "long.txt"], "the text 'river"),
    "points over an end": (
        ["--interpolate", TEXT, "long.txt", "--output", "long.txt"], "--interpolate and --output are both",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_gets_one_sentence_and_exit_code_2(call, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "long.txt").write_text("He\n\n" + "river " * 60 + "\n")
    arguments, named = BAD[case]
    refused("inference", call(*arguments), named)
    assert sorted(os.listdir(tmp_path)) == ["empty.txt", "latin.txt", "long.txt"]


@pytest.mark.slow
def test_the_documented_examples_of_editing_run(call, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "editing.md").read_text()
    block = page.split("# Editing with")[1].split("```")[1].removeprefix("sh\n")
    monkeypatch.chdir(tmp_path)
    make, *examples = block.replace("\\\n", " ").splitlines()
    subprocess.run(make, shell=True, check=True)
    assert len(examples) == 5
    for example in examples:
        code, out, err = call(*shlex.split(example, comments=True)[2:], "--max_len", "64")
        assert code == 0 and out.strip(), err


# ---------------------------------------------------------------- the interactive loop


def test_commands(call):
    text = "The river doesn't run through the old town."
    typed = [
        *("/help", "/set sampler confidence", "/set n_steps 3", "/set seed 7", "/set length 5"),
        *("The river", "/again", "/infill The <mask:2> runs.", "/set strength 1"),
        *('/set keep doesn\'t "old town"', f"/rewrite {text}", "/set keep", f"/rewrite {text}"),
        *("/set n_steps", "/set sampler", "/set length", "/set temperature 0", "He"),
        *("/quit", "not asked for"),
    ]
    code, out, err = call("--json", typed=typed)
    first, again, infill, kept, free, default = records(out)
    assert code == 0
    assert [first[k] for k in ("sampler", "n_steps", "seed", "nfe")] == ["confidence", 3, 7, 3]
    assert [r["prompt"] for r in (first, again)] == ["The river"] * 2
    assert [r["sample"] for r in (first, again)] == [0, 1]
    assert infill["text"].startswith("The ") and infill["nfe"] == 2 and infill["seed"] == 7
    assert kept["strength"] == 1 and kept["keep"] == ["doesn't", "old town"]
    assert "doesn't" in kept["text"] and "old town" in kept["text"] and free["keep"] == []
    assert (default["sampler"], default["block_length"]) == ("first-hitting", 1)
    assert default["temperature"] == 0 and not {"n_steps", "length"} & set(default)
    for said in ("/infill TEXT", "/rewrite", "/again", "sampler confidence (n_steps 3), seed 7"):
        assert said in err
    # The texts are those that flags give.
    flags = ["--seed", "7", "--sampler", "confidence", "--n_steps", "3", "--json"]
    more = ["--length", "5", "--num_samples", "2"]
    assert [r["ids"] for r in records(call("The river", *flags, *more)[1])] == [
        r["ids"] for r in (first, again)
    ]
    more = ["--strength", "1", "--keep", "doesn't", "old town"]
    assert records(call("--rewrite", text, *flags, *more)[1])[0]["ids"] == kept["ids"]


def test_one_empty_line_asks_again_and_two_end(call):
    out = call(*SHORT, "--json", typed=["He", "", "She", "", " ", "never"])[1]
    assert [r["prompt"] for r in records(out)] == ["He", "She"]


def test_ctrl_c_ends_a_text_and_keeps_the_loop(call, monkeypatch):
    real, left = Writer.denoise, [3, 1000]

    def interrupted(*arguments, **more):
        stop = left.pop(0)
        for step in real(*arguments, **more):
            if step.index == stop:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(Writer, "denoise", interrupted)
    code, out, err = call("--json", typed=["The river", "He"])
    stopped, whole = records(out)
    assert code == 0 and "stopped here" in err
    assert stopped["steps"] == 2 and whole["steps"] > 5


WRONG = {
    "/set sampler confidnce": "'confidence'",
    "/set sampler remdm:eta=2": "eta 2.0 must be a number from 0 to 1",
    "/set n_steps many": "'many'",
    "/set n_steps 5": "--n_steps 5: --sampler first-hitting takes as many steps as it needs",
    "/set steps 3": "/set 'steps' is unknown; did you mean 'n_steps'?",
    "/set strength 2": "from 0 to 1",
    "/set length": "sampler first-hitting",
    "/interpolate a b": "/interpolate is no command",
    "/again": "needs a text before it",
    "/set": "needs a value",
    "/infill The cat": "no blank",
    "/rewrite notes.txt": "no such file",
    "/home/me is a folder": "/home/me is no command",
    "river " * 80: "of 40 positions; shorten it, or change --max_len",
}


def test_wrong_commands_say_so_and_the_loop_continues(call):
    code, out, err = call("--json", typed=[*WRONG, "The river"])
    _, *answers = err.split("Beginning of a text")
    assert code == 0 and len(answers) == len(WRONG) + 3  # "The river", and two empty lines
    for line, answer in zip(WRONG, answers, strict=False):
        assert WRONG[line] in answer, line
    (record,) = records(out)
    assert record["prompt"] == "The river"
    assert (record["sampler"], record["seed"]) == ("first-hitting", 0)
