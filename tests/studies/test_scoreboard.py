"""scoreboard.py from its command line to its tables, with models of noise."""

import contextlib
import csv
import io
import json
import os
from pathlib import Path

import pytest
import torch
from helpers.models import SENTENCES
from helpers.terminals import refused
from helpers.training import exit_code, fork_two

from diffusion.autoregressive import CausalWriter
from diffusion.data import corpus, packing
from diffusion.generate import Writer
from diffusion.models.tokenizers import load_tokenizer
from diffusion.text import encode
from studies import scoreboard
from studies.board import board, report, rows, scorer
from studies.board.options import PASSAGES, ScoreOptions

ROOT = Path(scoreboard.__file__).parents[1]
SIZE = ["--num_samples", "6", "--prompt_len", "4", "--length", "8", "--batch_size", "2",
        "--block_size", "32", "--likelihood_blocks", "3", "--draws", "2"]  # fmt: skip
GRID = """
[[row]]
model = "{gpt2}"
temperature = [0.8, 1.0]

[[row]]
model = "{masked}"
sampler = "confidence"
n_steps = [2, 4]

[[row]]
model = "{masked}"
sampler = "ancestral"
n_steps = 4
conditional = false
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Documents in which no two passages are one."""
    documents = []
    for i in range(24):
        turned = SENTENCES[i % 4 :] + SENTENCES[: i % 4]
        documents.append("\n\n".join(f"{s[:-1]}, {i} times." for s in turned))
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n\n".join(documents))
    return str(path)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def grid(tmp_path_factory, tiny_model, tiny_gpt2):
    path = tmp_path_factory.mktemp("grid") / "grid.toml"
    path.write_text(GRID.replace("{gpt2}", str(tiny_gpt2)).replace("{masked}", str(tiny_model)))
    return str(path)


@pytest.fixture
def call(monkeypatch, capfd, tmp_path):
    """Runs the script here: flags -> (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*flags):
        capfd.readouterr()
        return exit_code(scoreboard, flags), *capfd.readouterr()

    return call


@pytest.fixture(scope="module")
def whole(code_read_once, tmp_path_factory, text, grid, tiny_gpt2):
    """The folder of a run that nothing has disturbed; beside it, its page and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    flags = ["--dataset", text, "--settings", grid, "--scorer", tiny_gpt2, *SIZE,
             "--output_dir", "board", "--markdown", "tables.md"]  # fmt: skip
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out:
        assert exit_code(scoreboard, flags) == 0
    (folder / "out.txt").write_text(out.getvalue())
    return folder / "board"


@pytest.fixture
def no_pictures(monkeypatch):
    """Where nobody looks at them."""
    monkeypatch.setattr(report, "PICTURES", {})


@pytest.fixture
def score(call, text, grid, tiny_gpt2):
    """The same with the models, the grid and the text filled in."""
    return lambda *flags: call(
        "--dataset", text, "--settings", grid, "--scorer", tiny_gpt2, *SIZE, *flags
    )


def result(folder) -> dict:
    return json.loads((Path(folder) / "results.json").read_text())


def untimed(data: dict) -> dict:
    """Without what differs between two runs of the same."""
    data = json.loads(json.dumps(data))
    data.pop("command")
    for row in data["rows"]:
        for name in ("seconds", "tokens_per_second"):
            row["metrics"].pop(name, None)
    return data


@pytest.mark.slow
def test_a_run_and_all_that_it_leaves(whole, monkeypatch):
    monkeypatch.chdir(whole.parent)
    out = Path("out.txt").read_text()
    assert sorted(os.listdir("board")) == [
        "generations", "quality_nfe.png", "quality_seconds.png", "results.csv", "results.json", "rows",
    ]  # fmt: skip
    data = result("board")
    found = {(r["model"], r["method"], r["conditional"]): r for r in data["rows"]}
    assert list(found) == [
        ("real text", "", True), ("shuffled text", "", True), ("repeated text", "", True),
        ("real text", "", False), ("shuffled text", "", False), ("repeated text", "", False),
        ("tiny-gpt2", "left to right (temperature 0.8)", True), ("tiny-gpt2", "left to right", True),
        ("tiny", "confidence (n_steps 2)", True), ("tiny", "confidence (n_steps 4)", True),
        ("tiny", "ancestral (n_steps 4)", False),
    ]  # fmt: skip
    real, mixed = found["real text", "", True], found["shuffled text", "", True]
    assert real["first"] is None  # it is not ours to show
    assert real["metrics"]["length"] == [8, 8, 8] and mixed["metrics"]["gen_ppl"][0] > 0
    for row in data["rows"]:
        lines = (Path("board") / row["texts"]).read_text().split("\n")
        written = [json.loads(line) for line in lines if line]
        assert [s["index"] for s in written] == list(range(6))
        assert all((s["prompt"] == "") != row["conditional"] for s in written)
        for name in report.METRICS:
            value, low, high = row["metrics"].get(name, [None] * 3)
            assert value is None or low is None or low <= value <= high, name
    # NFE and lengths are what they must be.
    two = found["tiny", "confidence (n_steps 2)", True]["metrics"]
    assert two["nfe"] == [2, 2, 2] and 0 < two["length"][0] <= 8
    assert found["tiny", "ancestral (n_steps 4)", False]["metrics"]["length"][0] <= 12
    likelihoods = [(e["model"], e["estimator"], e["prefix_len"]) for e in data["likelihood"]]
    assert likelihoods == [
        ("tiny-gpt2", "exact", 1), ("tiny-gpt2", "exact", 4),
        ("tiny", "fixed-count", 1), ("tiny", "fixed-count", 4),
    ]  # fmt: skip
    # The scorer is a compared model here, few texts warn, and both are said.
    assert data["scorer"]["compared"] == "tiny-gpt2"
    for said in (out, Path("tables.md").read_text()):
        assert "It is one of the compared models (tiny-gpt2)" in said
        assert "Self-BLEU against 5 others" in said
        assert "in batches of 2" in said and "Scorer: tiny-gpt2" in said
    assert "scoreboard.py --dataset" in Path("tables.md").read_text()
    assert data["paired_with"].startswith("tiny-gpt2") and len(data["paired"]) == 6
    lines = list(csv.DictReader(Path("board/results.csv").read_text().splitlines()))
    assert len(lines) == 11 and float(lines[8]["nfe"]) == 2 and lines[0]["nfe"] == ""
    with contextlib.redirect_stdout(io.StringIO()) as again:  # from the file alone
        assert exit_code(scoreboard, ["--results", "board/results.json"]) == 0
    assert again.getvalue() == out


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_a_stopped_run_resumes_and_equals_one_that_was_not(score, monkeypatch, whole):
    real, gpt2, calls = Writer.generate, CausalWriter.generate, []

    def stopped(self, *arguments):
        calls.append(1)
        if len(calls) == 6:  # a warm-up and 3 batches of one row, 2 of the next
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Writer, "generate", stopped)
    assert score("--output_dir", "parts")[0] == 130
    assert not os.path.exists("parts/results.json")
    kept = {p.name: p.stat().st_mtime_ns for p in Path("parts/rows").iterdir()}
    assert len(kept) == 9  # 6 of real text, 2 of GPT-2, 1 of diffusion
    monkeypatch.setattr(Writer, "generate", real)
    monkeypatch.setattr(CausalWriter, "generate", None)  # its rows are there
    code, _, err = score("--output_dir", "parts")
    assert code == 0, err
    assert "do not fit" not in err
    assert untimed(result("parts")) == untimed(result(whole))
    for name, time in kept.items():
        assert (Path("parts/rows") / name).stat().st_mtime_ns == time
    assert sorted(os.listdir("parts/generations")) == sorted(os.listdir(whole / "generations"))

    # Rows of another program are measured again.
    digest = rows.code_digest
    monkeypatch.setattr(rows, "code_digest", lambda *modules: "new " + digest(*modules))
    monkeypatch.setattr(CausalWriter, "generate", gpt2)
    code, _, err = score("--output_dir", "parts")
    assert code == 0 and "note: 15 of 15 stored rows in parts do not fit" in err


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_what_two_processes_began_one_of_which_was_killed_equals_one(
    whole, text, grid, tiny_gpt2, tmp_path, call
):
    """The controls and a model's row by two, the rest here."""
    flags = ["--dataset", text, "--settings", grid, "--scorer", tiny_gpt2, *SIZE,
             "--output_dir", tmp_path / "two", "--device", "cpu"]  # fmt: skip
    rows = tmp_path / "two" / "rows"
    first, second = fork_two(flags, tmp_path, script=scoreboard)
    second.until(lambda: rows.is_dir() and len(os.listdir(rows)) > 8)
    second.kill()
    assert first.ends() != 0 and "==" not in first.said
    begun = set(os.listdir(rows))
    assert begun < set(os.listdir(whole / "rows"))
    code, _, err = call(*flags)
    assert code == 0, err
    assert untimed(result(tmp_path / "two")) == untimed(result(whole))
    assert begun < set(os.listdir(rows)) == set(os.listdir(whole / "rows"))


# ---------------------------------------------------------------- the text of --quick


@pytest.mark.slow
@pytest.mark.usefixtures("code_read_once", "no_pictures")
def test_quick_needs_no_text_from_outside(call, monkeypatch, tiny_model, tiny_gpt2):
    monkeypatch.setattr(corpus, "hub_rows", None)  # the hub
    code, out, err = call("--quick", "--model", tiny_model, "--baseline", tiny_gpt2, "--scorer",
                          tiny_gpt2, *SIZE, "--output_dir", "board")  # fmt: skip
    assert code == 0, err
    assert "not WikiText-2 but the passages that were written for this project" in out
    assert "passages.txt, test split" in out
    (texts,) = {row["texts"] for row in result("board")["rows"][:1]}
    first = json.loads((Path("board") / texts).read_text().split("\n")[0])
    assert Path(PASSAGES).read_text().startswith(first["prompt"] + first["text"])


def test_the_passages_are_enough_for_what_quick_measures(tmp_path):
    args = ScoreOptions(quick=True, output_dir=str(tmp_path / "board"))
    args.check_flags()
    documents = corpus.load_documents(args.dataset)
    assert len({d.split("\n")[0] for d in documents}) == len(documents)
    assert all(60 <= len(d.split()) <= 110 for d in documents)
    for model in (args.model, args.baseline):
        tokenizer = load_tokenizer(model, needs_mask=False)
        found = scorer.passages(documents, tokenizer, args.prompt_len, args.length)
        assert len(found) >= args.num_samples
        blocks = packing.pack(documents, tokenizer, args.block_size)
        assert len(blocks) >= args.likelihood_blocks


def test_first_sentences_are_prompts():
    """Each with exactly so many tokens after it; texts that are too short, begin with a sentence of
    one word or have none are passed over."""
    tokenizer = load_tokenizer(ScoreOptions().model)
    told = "The river runs to the sea. It is long, it is cold, and boats go on it all day."
    quoted = 'He said, "It is late!" Then he went home to his house and slept for a long day.'
    documents = [told, "The river runs.", "Go! " + told, "no end " * 90, quoted + "\nEnd."]
    found = scorer.beginnings(documents, tokenizer, 8)
    assert [p.prompt for p in found] == [
        "The river runs to the sea.",
        "Go! The river runs to the sea.",
        'He said, "It is late!"',
    ]
    for passage, document in zip(found, (documents[0], documents[2], documents[4]), strict=True):
        text = passage.prompt + passage.continuation
        assert document.startswith(text)
        more = len(encode(tokenizer, text)) - len(encode(tokenizer, passage.prompt))
        assert more == 8


@pytest.mark.usefixtures("code_read_once", "no_pictures")
def test_a_run_after_first_sentences(score):
    code, out, err = score("--prompt_len", "0", "--num_samples", "3", "--output_dir", "board")
    assert code == 0, err
    assert "3 first sentences of the test split, 8 new tokens" in out
    assert {entry["prefix_len"] for entry in result("board")["likelihood"]} == {1}
    code, _, err = score("--prompt_len", "0", "--num_samples", "99", "--output_dir", "other")
    assert code == 2 and "documents with a first sentence and 8 tokens after it" in err


# ---------------------------------------------------------------- tables


def tiny_results(**changes) -> dict:
    row = {"model": "m", "method": "x", "conditional": True, "settings": {}, "seed": 0, "samples": 4,
           "metrics": {"gen_ppl": [123.4, 110.0, 140.0], "nfe": [8, 8, 8]},
           "first": {"prompt": "The", "text": " end", "finished": True}}  # fmt: skip
    data = {
        "title": "T", "about": "", "command": "python studies/scoreboard.py", "data": {"name": "d", "split": "test"},
        "samples": 4, "prompt_len": 2, "length": 3, "batch_size": 2, "scorer": {"name": "s", "hash": "", "compared": ""}, "notes": [],
        "likelihood": [], "rows": [row], "paired_with": "", "paired": [], "hardware": "h",
        "processor": "p", "versions": {"torch": "1"},
    }  # fmt: skip
    return data | changes


def test_a_table_shows_no_digit_too_many():
    shown = report.plain_text(tiny_results())
    assert "120 ± 20" in shown and "123" not in shown
    assert "one of the compared" not in shown
    assert "| 120 ± 20 |" in report.markdown({"results.json": tiny_results()})
    assert report.estimate([None, None, None]).half != report.estimate([None, None, None]).half


def test_a_page_has_no_html_of_a_text_or_a_name():
    data = tiny_results(about="<script>", hardware="<i>", command="python `x` \x1b]0;t\x07")
    data["rows"][0]["model"] = "<b>m"
    data["rows"][0]["first"]["text"] = " <img src=x>\x1b]0;t\x07"
    page = report.markdown({"r.json": report.json.loads(report.dump(data))})
    assert "<" not in page.replace("&lt;", "") and "\x1b" not in page
    assert "&lt;img src=x>" in page and "&lt;script>" in page and "&lt;b>m" in page


def test_several_results_are_one_page(call, tmp_path):
    for name in ("one", "two"):
        path = tmp_path / "results" / name / "results.json"
        path.parent.mkdir(parents=True)
        path.write_text(report.dump(tiny_results(title=f"Part {name}", about="Why.")))
        path.with_name("quality_seconds.png").write_bytes(b"")
    paths = [f"results/{name}/results.json" for name in ("one", "two")]
    _code, out, _ = call("--results", *paths, "--markdown", "tables.md")
    page = Path("tables.md").read_text()
    for said in (out, page):
        assert said.index("Part one") < said.index("Part two") and said.count("Why.") == 2
    assert "--results results/one/results.json results/two/results.json --markdown" in page
    assert "](results/two/quality_seconds.png)" in page and "quality_nfe.png" not in page
    assert "\\[The\\] end (end)" in page


def test_likelihoods_are_compared_block_by_block():
    first = {"model": "a", "prefix_len": 1, "vocabulary": "v", "by_block": [5.0, 6.0, 7.0]}
    entries = [first, {**first, "model": "b", "by_block": [5.5, 6.5, 7.8]},
               {**first, "model": "c", "vocabulary": "w"}]  # fmt: skip
    one, two, three = (board.compared(entry, entries) for entry in entries)
    assert two["more_than"] == "a" and two["more"][0] == pytest.approx(0.6)
    # 0.5, 0.5, 0.8: standard deviation sqrt(0.03), of the mean 0.1.
    assert two["more"][2] == pytest.approx(0.6 + 0.195996, abs=1e-5)
    assert all(v != v for v in one["more"] + three["more"]) and "by_block" not in two


# ---------------------------------------------------------------- mistakes


BAD = {
    "one text": (["--num_samples", "1"], "--num_samples 1"),
    "a page in no folder": (["--markdown", "no/such/R.md"], "no/such/R.md"),
    "prompt beyond the block": (["--prompt_len", "32"], "--block_size 32"),
    "more texts than passages": (["--num_samples", "500"], "--num_samples 500"),
    "a prompt of less than nothing": (["--prompt_len", "-1"], "--prompt_len -1"),
    "beyond the positions": (["--length", "100", "--num_samples", "2"], "64 positions"),
    "results and quick": (["--results", "x.json", "--quick"], "--results"),
    "a masked scorer": (["--scorer", "MASKED"], "--scorer FOLDER"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_gets_one_sentence_and_exit_code_2(call, case, text, grid, tiny_model, tiny_gpt2):
    flags, named = BAD[case]
    flags = [str(tiny_model) if f == "MASKED" else f for f in flags]
    base = ["--dataset", text, "--scorer", tiny_gpt2, *SIZE]
    if not {"--settings", "--results", "--quick"} & set(flags):
        base += ["--settings", grid]
    refused("studies.scoreboard", call(*base, *flags), named)


BAD_ROWS = {
    "unknown sampler": ("sampler = 'confidnce'", "'confidence'"),
    "an option of another sampler": ("sampler = 'seed'\nthreshold = 0.5", "'threshold'"),
    "an option of diffusion": ("model = 'GPT2'\nn_steps = 4", "name options of diffusion"),
    "two rows with one key": ("temperature = [1.0, 1.0]", "rows 1 and 2 of the settings"),
    "two names of one thing": ("sampler = 'seed'\nn_steps = [10, 10]", "are the same"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_gets_one_sentence_before_any_work(call, case, text, tiny_model, tiny_gpt2):
    settings, named = BAD_ROWS[case]
    if "model = " not in settings:
        settings = f"model = '{tiny_model}'\n{settings}"
    Path("grid.toml").write_text(f"[[row]]\n{settings.replace('GPT2', str(tiny_gpt2))}\n")
    code, _, err = call("--dataset", text, "--settings", "grid.toml", "--scorer", tiny_gpt2, *SIZE)
    assert code == 2 and named in err.splitlines()[-1] and "Traceback" not in err
    assert not os.path.exists("runs/scoreboard/generations")


def test_bad_results(call, tmp_path):
    path, text = tmp_path / "results.json", report.dump(tiny_results())
    path.write_text(text)
    assert call("--results", path)[0] == 0
    for changed, named in (
        (text.replace('"version": 2', '"version": 7'), "version 7"),
        (text[:100], "damaged"),
        ("[]", "not of a scoreboard"),
        (text.replace('"batch_size"', '"patch_size"'), "damaged"),
        (text.replace("123.4", '"x"'), "damaged"),
        (text.replace("123.4", "9" * 400), "damaged"),
        (text.replace('"prompt_len": 2', '"prompt_len": NaN'), "damaged"),
    ):
        path.write_text(changed)
        code, out, err = call("--results", path)
        assert (code, out) == (2, "") and named in err and err.count("\n") == 1


def test_the_default_grids_are_valid():
    for quick in (True, False):
        args = ScoreOptions(quick=quick)
        found = rows.expand(args.grid().tables, [args.model, args.baseline])
        for row in found:
            if row.model == args.model:
                row.options.check()
            else:
                row.options.shared().check()
        assert len({(r.model, board.method(r), r.conditional) for r in found}) == len(found)
