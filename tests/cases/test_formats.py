"""One table of formats: endings in any case, compressed or not, and content that is not what a name says."""

import gzip
import json
import lzma
import sys

import pyarrow
import pytest

from diffusion.cli import console
from diffusion.data import formats
from diffusion.data.report import Report
from diffusion.editing.options import text_or_file
from diffusion.errors import UserError
from diffusion.training.arguments import read_recipe
from diffusion.views import record
from studies.board.rows import read_grid

TEXT = [f"A sentence about hill {i}." for i in range(30)]
PROSE = "\n\n\n".join(TEXT) + "\n"
CONTENT = {
    ".txt": PROSE,
    ".md": PROSE,
    ".jsonl": "".join(json.dumps({"text": t}) + "\n" for t in TEXT),
    ".json": json.dumps([{"text": t} for t in TEXT]),
    ".csv": "id,text\n" + "".join(f"1,{t}\n" for t in TEXT),
    ".tsv": "id\ttext\n" + "".join(f"1\t{t}\n" for t in TEXT),
}
CONTENT[".ndjson"] = CONTENT[".jsonl"]
PACKED = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: pyarrow.compress(raw, codec="zstd", asbytes=True),
}


def arrow() -> bytes:
    table, sink = pyarrow.table({"text": TEXT}), pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def parquet() -> bytes:
    from pyarrow.parquet import write_table

    write_table(pyarrow.table({"text": TEXT}), sink := pyarrow.BufferOutputStream())
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("packed", ["", *PACKED])
@pytest.mark.parametrize("ending", formats.ENDINGS)
def test_every_ending_in_any_case_and_compressed(read, ending, packed):
    raw = {".arrow": arrow, ".parquet": parquet}.get(ending, lambda: CONTENT[ending].encode())()
    raw = PACKED[packed](raw) if packed else raw
    for name in (
        f"a{ending}{packed}",
        f"A{ending}{packed}".upper(),
        f"b.c{ending.title()}{packed}",
    ):
        documents, said = read(name, raw)
        assert documents == TEXT, said


UNKNOWN = [
    *("a.rst", "noending", "a.txt.bak", "a.txt~", "a.txt.bz2", "a.zip", "a.tar.gz", "a.tgz", "a.docx", "a.pdf"),
    *("a.xlsx", "a.html", "a.text", "a.log", "a.feather", "a.jsonlines", "a.gz", ".txt", "a.yaml", "a.xml"),
]  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_ending_is_refused_with_those_that_are_known(read, name):
    documents, said = read(name, PROSE)
    assert documents is None and said.startswith("data set ") and f"{name}: its ending (" in said
    for known in (*formats.ENDINGS, *PACKED):
        assert known in said


@pytest.mark.parametrize("packed", PACKED)
def test_damaged_compression(read, packed):
    raw = PACKED[packed](PROSE.encode() * 9)
    middle = len(raw) // 2
    for content, words in (
        (raw[:-9], "it may be damaged or cut"),
        (raw[:middle] + b"UUUU" + raw[middle + 4 :], "it may be damaged or cut"),
        (PROSE, f"does not begin as {packed} data does"),
        (PACKED[packed](raw), "it looks like "),
    ):
        documents, said = read(f"a.txt{packed}", content)
        assert documents is None and words in said, said
    assert read(f"a.jsonl{packed}", PACKED[packed](b'{"text": "a"}\n') * 2)[0] == ["a", "a"]


# ---------------------------------------------------------------- content

NOTEBOOK = json.dumps({"cells": [{"source": ["x"]}], "metadata": {}, "nbformat": 4}, indent=1)
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"
OTHER = {
    "zeros": ("a.txt", bytes(4000), "control characters (U+0000)"),
    "one zero": ("a.txt", PROSE + "\0", "U+0000"),
    "colours": ("a.txt", "\x1b[31mred\x1b[0m line\n" * 9, "control characters, the first (U+001B) in line 1"),
    "a manual": ("a.md", "N\bNA\bAM\bME\bE\n" * 9, "(U+0008)"),
    "UTF-16": ("a.txt", PROSE.encode("utf-16-le"), "UTF-16 without a byte order mark"),
    "UTF-16 of a table": ("a.jsonl", CONTENT[".jsonl"].encode("utf-16-be"), "UTF-16 without"),
    "a notebook": ("a.txt", NOTEBOOK, "a Jupyter notebook"),
    "a cut notebook": ("a.md", NOTEBOOK[:40], "a Jupyter notebook"),
    "JSON lines": ("a.txt", CONTENT[".jsonl"], "JSON lines; let its name end in .jsonl"),
    "JSON": ("a.txt", '[1, {"a": 2}]', "JSON; let"),
    "CSV": ("a.txt", CONTENT[".csv"], "a table with a header"),
    "TSV": ("a.txt", "".join(f"hello {i}\tbonjour {i}\n" for i in range(9)), "tabs between its columns"),
    "a page": ("a.txt", "<!DOCTYPE html>\n<html>", "a web page"),
    "a failed download": ("a.jsonl", "<html><body>404</body>", "a web page"),
    "a pointer": ("a.jsonl", LFS, "git lfs pull"),
    "a pointer to Parquet": ("a.parquet", LFS, "git lfs pull"),
    "JSON lines in CSV": ("a.csv", CONTENT[".jsonl"], "JSON lines"),
    "Parquet": ("a.csv", parquet(), "a Parquet file"),
    "Arrow": ("a.txt", arrow(), "an Arrow file"),
    "CSV in Parquet": ("a.parquet", CONTENT[".csv"], "cannot read a.parquet"),
    "gzip": ("a.txt", gzip.compress(b"text"), "gzip data"),
    "PDF": ("a.txt", "%PDF-1.4\n", "a PDF"),
    "Word": ("a.txt", b"PK\x03\x04abc", ".docx"),
    "old Word": ("a.txt", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
    "RTF": ("a.txt", "{\\rtf1 hello}", "an RTF document"),
    "XML": ("a.txt", "<?xml version='1.0'?><a/>", "XML"),
    "a picture": ("a.txt", b"\x89PNG\r\n\x1a\n", "a picture"),
    "a program": ("a.txt", b"\x7fELF", "a program"),
    "an archive": ("a.txt", b"a" * 257 + b"ustar\x0000", "a tar archive"),
    "Latin-1": ("a.txt", b"One\ncaf\xe9", "not UTF-8 text (byte 7, in line 2)"),
    "Shift-JIS": ("a.txt", "日本".encode("shift-jis"), "not UTF-8 text (byte 0, in line 1)"),
    "nothing": ("a.txt", "", "has no text"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER)
def test_content_that_is_not_what_the_name_says(read, case):
    name, content, words = OTHER[case]
    documents, said = read(name, content)
    assert documents is None and words in said, said


FINE = {
    "code": "def f(x):\n\treturn {\n\t\t'a': 1}",
    "a footnote": "[1]\nA footnote about hills.",
    "braces": "{curly} prose begins here.\nAnd goes on.",
    "an example": '{"a": 1}\nThis is an example of JSON.\nIt has lines.\nMore.',
    "a page of Markdown": "<h1 align='center'>Hi</h1>\nText.",
    "verses": "The first,\n\tindented,\n\t\tthen more.",
    "a list of words": "text, words, commas\nand more",
}


@pytest.mark.parametrize("case", FINE)
def test_text_that_begins_like_something_else(read, case):
    documents, said = read("a.md", FINE[case])
    assert documents == [FINE[case]], said


ENDS = {
    "Windows": "one\r\ntwo\r\n\r\n\r\nthree",
    "an old Macintosh": "one\rtwo\r\r\rthree",
    "UTF-16": "one\ntwo\n\n\nthree".encode("utf-16"),
    "joined files": "\ufeffone\ntwo\n\n\n\ufeffthree",
}


@pytest.mark.parametrize("case", ENDS)
def test_ends_of_lines_and_byte_order_marks(read, case):
    assert read("a.txt", ENDS[case])[0] == ["one\ntwo", "three"]


def test_what_is_changed_is_said(read):
    documents, said = read("a.txt", "One.\n\nTwo.\n \nThree.\n\n\nFour.\x1a" + " word" * 999)
    assert documents[0] == "One.\nTwo.\nThree."
    assert said == (
        "read 2 documents from 1 text file; 2 blank lines inside documents became line breaks; 1 control "
        "character inside documents"
    )


# ---------------------------------------------------------------- other files that are read


def test_recipes(tmp_path, monkeypatch):
    content = b"\xef\xbb\xbfmax_steps = 2\n"
    for name, raw in (
        ("a.toml", content),
        ("B.TOML", content),
        ("c.toml.gz", gzip.compress(content)),
    ):
        (tmp_path / name).write_bytes(raw)
        monkeypatch.setattr("sys.argv", ["finetune.py", str(tmp_path / name)])
        read_recipe()
        assert sys.argv[1:] == ["--max_steps=2"]
    (tmp_path / "d.toml").write_bytes(gzip.compress(content))
    monkeypatch.setattr("sys.argv", ["finetune.py", str(tmp_path / "d.toml")])
    with pytest.raises(UserError, match="it looks like gzip data"):
        read_recipe()


def test_texts_to_edit(tmp_path):
    for name, raw in (
        ("a.txt", "\ufeffOne.\r\nTwo.\r\n".encode()),
        ("A.MD", b"One.\nTwo.\n"),
        ("a.txt.xz", lzma.compress(b"One.\nTwo.")),
        ("b.txt", "One.\nTwo.".encode("utf-16")),
    ):
        (tmp_path / name).write_bytes(raw)
        assert text_or_file(str(tmp_path / name), "--rewrite") == "One.\nTwo."
    for name, content, words in (
        ("a.jsonl", '{"text": "a"}', "--score .* its ending .'.jsonl'. is unknown"),
        (
            "c.txt",
            '{"text": "a"}\n',
            "--score: .*c.txt is not plain text: it looks like JSON lines",
        ),
        ("d.txt", "\0", "--score: .*d.txt is not text"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=words):
            text_or_file(str(tmp_path / name), "--score")
    with pytest.raises(UserError, match="there is no such file"):
        text_or_file("no.TXT.gz", "--score")


def test_prompts_of_a_pipe():
    for raw in (
        b"\xef\xbb\xbfOne\r\nTwo",
        "One\nTwo\n".encode("utf-16"),
        b"One\n\n\xef\xbb\xbfTwo\n",
    ):
        assert console.decoded(raw).replace("\n\n", "\n").strip().split("\n") == ["One", "Two"]


def test_settings_and_replays(tmp_path):
    (tmp_path / "a.TOML").write_bytes(b"\xef\xbb\xbf[[row]]\nmodel = 'x'\n")
    assert read_grid(str(tmp_path / "a.TOML")).tables
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf{}"))
    with pytest.raises(UserError, match="is not a comparison"):
        record.load(str(tmp_path / "b.json.gz"))
    for load in (read_grid, record.load):
        (tmp_path / "c.yaml").write_text("{}")
        with pytest.raises(UserError, match=r"ending .'\.yaml'. is unknown"):
            load(str(tmp_path / "c.yaml"))


def test_reports_of_several_data_sets_add_up():
    one = Report("a", documents=3, rows=4, tables=1, empty=1)
    two = Report("b", documents=2, texts=2)
    two.leave_out("hidden", ".x.txt")
    assert str(one + two) == (
        'read 5 documents from column "text" of 4 rows in 1 file and 2 text files; 1 row empty; 1 file '
        "left out, hidden: .x.txt"
    )
