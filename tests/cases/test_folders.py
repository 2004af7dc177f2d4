"""Folders have one rule, and what is left out of them is said."""

import json
import os
import re

import datasets
import pytest

from diffusion.data import corpus
from diffusion.data.corpus import load_documents
from diffusion.data.report import Report
from diffusion.errors import UserError

TEXT = [f"A sentence about hill {i}." for i in range(9)]
ROWS = "".join(json.dumps({"text": t}) + "\n" for t in TEXT)
CARD = "---\nlicense: mit\n---\n# A data set\n"


def fill(folder, files: dict[str, str]) -> None:
    """Files of a folder ``d`` by their paths."""
    for name, content in files.items():
        path = folder / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


FOLDERS = {
    "all below, sorted": (
        {"b.txt": "two", "a.md": "one", "below/deep/c.txt": "three", "z.jsonl": ROWS},
        ["one", "two", "three", *TEXT],
        'read 12 documents from column "text" of 9 rows in 1 file and 3 text files',
    ),
    "hidden": (
        {"a.txt": "one", ".b.txt": "no", ".DS_Store": "no", ".git/c.txt": "no"},
        ["one"],
        "1 file left out, hidden: .b.txt",
    ),
    "of a Macintosh": ({"a.txt": "one", "._a.txt": "no"}, ["one"], "hidden: ._a.txt"),
    "other endings": (
        {"a.txt": "one", "p.png": "", "q.pdf": "", "LICENSE": ""},
        ["one"], "3 files left out, of another kind: ",
    ),
    "paragraphs": (
        {"a.txt": "one\n\ntwo\n\n\nthree", "s/a.txt": "one\n\ntwo\n\n\nthree"},
        ["one\ntwo", "three"] * 2, "2 blank lines inside documents became line breaks",
    ),
    "an empty file": ({"a.txt": "one", "b.txt": ""}, ["one"], "1 file left out, without text: b.txt"),
    "a card": ({"README.md": CARD, "a.jsonl": ROWS}, TEXT, "the card of the data set: README.md"),
    "a page": ({"README.md": "One.", "a.jsonl": ROWS}, ["One.", *TEXT], "1 text file"),
    "splits": (
        {"train.jsonl": ROWS, "test.jsonl": ROWS, "dev.csv": "x\n1\n", "README.md": "no"}, TEXT,
        "1 file left out, of the test split: test.jsonl",
    ),
    "splits in shards": (
        {"data/train-00000-of-00002.jsonl": ROWS, "data/train-00001-of-00002.jsonl": ROWS,
         "data/test-00000-of-00001.jsonl": ROWS}, TEXT * 2, "in 2 files; 1 file left out, of the test split",
    ),
    "folders of splits": (
        {"train/a.txt": "one", "valid/b.txt": "no", "test/c.txt": "no"}, ["one"],
        "of the validation split: b.txt",
    ),
    "splits at the end of names": (
        {"stories_train.jsonl": ROWS, "stories_dev.jsonl": ROWS}, TEXT, "stories_dev.jsonl"
    ),
    "names that hold a word": ({"protest.txt": "a", "contest.txt": "b"}, ["b", "a"], "2 text files"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_folders(tmp_path, read, case):
    files, texts, words = FOLDERS[case]
    fill(tmp_path, files)
    documents, said = read("d")
    assert documents == texts and words in said, said


REFUSED = {
    "nothing": ({"a.pdf": ""}, "no file with a known ending below it; known are .txt, .md"),
    "another column": ({"a.jsonl": ROWS, "b.csv": "x,y\n1,2\n"}, "b.csv has no column 'text' (it has x, y)"),
    "settings": ({"a.txt": "one", "config.json": '{"a": 1}'}, "config.json has no column 'text'"),
    "a broken file": ({"a.jsonl": ROWS * 99, "b.jsonl": "not JSON\n"}, "line 1 of d/b.jsonl is no JSON"),
    "zeros": ({"a.txt": "one", "below/b.txt": "\0" * 99}, "d/below/b.txt is not text"),
    "another split": ({"test.txt": "one"}, "d has no train split, by the names of its files (it has test)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_folders_that_are_refused(tmp_path, read, case):
    files, words = REFUSED[case]
    fill(tmp_path, files)
    documents, said = read("d")
    assert documents is None and words in said, said


def test_splits_and_links(tmp_path, read):
    fill(tmp_path, {"train.txt": "one", "test.txt": "two", "other/x.pdf": ""})
    assert read("d", split="test")[0] == ["two"]
    assert "has no validation split" in read("d", split="validation")[1]
    os.symlink(tmp_path / "d", tmp_path / "d" / "other" / "loop")  # leads back
    assert read("d")[0] == ["one"]
    os.symlink("/nowhere", tmp_path / "d" / "train-2.txt")
    assert "cannot read d/train-2.txt: No such file" in read("d")[1]


def test_what_save_to_disk_has_written(tmp_path, read):
    """As it is, without the copies that steps on the way have left there."""
    one = datasets.Dataset.from_dict({"text": TEXT})
    one.save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "cache-1.arrow").write_bytes(
        (tmp_path / "one" / "data-00000-of-00001.arrow").read_bytes()
    )
    documents, said = read("one")
    assert documents == TEXT and "made by the library datasets: " in said
    both = datasets.DatasetDict(train=one, test=one.select(range(2)))
    both.save_to_disk(tmp_path / "both")
    assert read("both")[0] == TEXT and read("both", split="test")[0] == TEXT[:2]
    assert read("both", split="validation")[0] is None


# ---------------------------------------------------------------- WikiText, and what is not

WIKITEXT = " = A =\n\n It is 1 @,@ 200 m long . \n = = B = =\n This is <unk> . And so it goes on and on .\n"
ARTICLE = ["It is 1,200 m long.\nAnd so it goes on and on."]


def test_wikitext_is_what_is_called_so(tmp_path, read):
    """A table in which a row looks like a title is a table."""
    lines = "".join(
        json.dumps({"text": line}) + "\n" for line in WIKITEXT.splitlines(keepends=True)
    )
    (tmp_path / "a.jsonl").write_text(lines)
    assert len(read("a.jsonl")[0]) == 4
    for name, content in (("a.jsonl", lines), ("a.txt", WIKITEXT)):
        (tmp_path / name).write_text(content)
        report = Report()
        found = load_documents(str(tmp_path / name), wikitext=True, report=report)
        assert found == ARTICLE and "as WikiText: without headings" in str(report)


# ---------------------------------------------------------------- the hub, by the same rules

HUB = {
    "CSV": ("train.csv", "id,text\n1,NA\n2,007\n3,null\n", ["NA", "007", "null"]),
    "TSV": ("train.tsv", "id\ttext\n1\tNA\n2\t5\n", ["NA", "5"]),
    "text": ("train.txt", "one\n\ntwo\n\n\nthree\n", ["one\ntwo", "three"]),
    "JSON": ("train.jsonl", ROWS + '{"text": null}\n', TEXT),
    "commas": ("train.csv", "a,text,b\n" + "x,y,z,\n" * 9, "loss of data"),
    "fields": ("train.csv", "id,text\n1,a\n2,b,c\n", "Expected 2 fields in line 3, saw 3"),
    "objects": ("train.jsonl", '{"text": {"a": 1}}\n', "row 1 of .* has an object in column 'text'"),
    "cut": ("train.jsonl", ROWS + '{"text": "cut', "quotation mark"),
    "column": ("train.jsonl", '{"a": "x"}\n', r"no column 'text' \(it has a\); name the column"),
    "split": ("test.jsonl", ROWS, r"cannot read the train split.*\['test'\]"),
}  # fmt: skip


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", HUB)
def test_data_sets_of_the_hub(tmp_path, monkeypatch, case, streaming):
    """The library reads a folder as it reads the hub."""
    name, content, expected = HUB[case]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_text(content)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(corpus, "ask_hub_once", lambda: None)
    monkeypatch.setattr(corpus, "find_files", lambda *_: None)
    report = Report()
    try:
        found = list(load_documents(str(tmp_path / "set"), streaming=streaming, report=report))
        assert found == expected and str(report).startswith(f"read {len(expected)} documents")
    except UserError as error:
        assert isinstance(expected, str) and re.search(expected, str(error)), error
        assert "\n" not in str(error)
