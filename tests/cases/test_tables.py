"""Tables are read as written: CSV, TSV, JSON, Parquet and Arrow."""

import json
import re

import pyarrow
import pytest
from pyarrow import parquet

from diffusion.data.corpus import load_documents
from diffusion.errors import UserError

TEXT = [f"A sentence about hill {i}." for i in range(200)]
ROWS = "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(TEXT))
CSV = "id,text\n" + "".join(f"{i},{t}\n" for i, t in enumerate(TEXT))
TSV = CSV.replace(",", "\t")


def rows(*values) -> str:
    return "".join(json.dumps({"text": value}) + "\n" for value in values)


READ = {
    "words for nothing": ("a.csv", "id,text\n1,NA\n2,null\n3,None\n4,nan\n", ["NA", "null", "None", "nan"]),
    "digits": ("a.csv", "text\n007\n1.0\n1e5\n", ["007", "1.0", "1e5"]),
    "digits of tsv": ("a.tsv", "id\ttext\n1\t007\n", ["007"]),
    "truths": ("a.csv", "text\nTrue\nfalse\n", ["True", "false"]),
    "an index": ("a.csv", ",text\n0,one\n1,two\n", ["one", "two"]),
    "quotes": ("a.csv", 'id,text\n1,"He said ""hi"", twice"\n2,"two\nlines"\n',
               ['He said "hi", twice', "two\nlines"]),
    "lines in tsv": ("a.tsv", 'id\ttext\n1\t"two\nlines"\n', ["two\nlines"]),
    "a byte order mark": ("a.csv", b'\xef\xbb\xbf"text",id\none,1\n', ["one"]),
    "Windows": ("a.csv", CSV.replace("\n", "\r\n"), TEXT),
    "an old Macintosh": ("a.csv", CSV.replace("\n", "\r"), TEXT),
    "UTF-16 of Excel": ("a.tsv", TSV.encode("utf-16"), TEXT),
    "UTF-16 of PowerShell": ("a.jsonl", ROWS.encode("utf-16"), TEXT),
    "the separator of Excel": ("a.csv", "sep=;\n" + CSV.replace(",", ";"), TEXT),
    "empty lines above": ("a.csv", "\n \n" + CSV, TEXT),
    "empty lines": ("a.csv", CSV.replace("\n", "\n\n"), TEXT),
    "a long field": ("a.csv", "text\n" + "word " * 40_000 + "\n", [("word " * 40_000).strip()]),
    "joined files": ("a.jsonl", f"\ufeff{ROWS}\ufeff{ROWS}", TEXT + TEXT),
    "line separators": ("a.jsonl", '{"text": "a\u2028b\u0085c"}\n', ["a\u2028b\u0085c"]),
    "a list": ("a.json", json.dumps([{"text": t} for t in TEXT], indent=2), TEXT),
    "lines": ("a.json", ROWS, TEXT),
    "an object": ("a.json", '{\n "text": "one"\n}', ["one"]),
    "rows that look like titles": ("a.jsonl", rows("= Overview =", "Short one."),
                                   ["= Overview =", "Short one."]),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_a_table_is_read_as_it_is_written(read, case):
    name, content, texts = READ[case]
    documents, said = read(name, content)
    assert documents == texts
    n = f"{len(texts):,}"
    s = "" if n == "1" else "s"
    assert said == f'read {n} document{s} from column "text" of {n} row{s} in 1 file'


SOME = {
    "empty rows": ("a.jsonl", rows("one", None, "", "  ", "two"), 2, "5 rows in 1 file; 3 rows empty"),
    "a short row": ("a.csv", CSV.replace("7,A sentence about hill 7.\n", "7\n"), 199,
                    "1 row left out, the first: row 8 of a.csv (line 9) has 1 field, and the header has 2"),
    "a long row": ("a.csv", CSV.replace("hill 7.", "hill, 7."), 199, "(line 9) has 3 fields"),
    "a row below others": ("a.csv", ("\nsep=;\n" + CSV + "1,2,3\n").replace(",", ";"), 200,
                          "row 201 of a.csv (line 204)"),
    "a header again": ("a.csv", CSV + CSV, 400, "row 201 of a.csv (line 202) is the header again"),
    "one number": ("a.jsonl", ROWS + rows(3), 200, "line 201 of a.jsonl has a number in column 'text'"),
    "half a character": ("a.jsonl", ROWS + '{"text": "a \\ud800"}\n', 200, "a lone surrogate"),
    "too deep": ("a.jsonl", ROWS + "[" * 99_999 + "\n", 200, "line 201 of a.jsonl is nested too deeply"),
    "a name twice": ("a.jsonl", ROWS + '{"text": "a", "text": "b"}\n', 200, "'text' stands twice"),
    "no character": ("a.jsonl", rows("a\0b", *TEXT), 200, "line 1 of a.jsonl has control characters"),
    "a stray character": ("a.jsonl", rows(*TEXT, "\x1a" + "word " * 999), 201,
                          "1 file; 1 control character inside documents"),
    "two lines in one": ("a.jsonl", ROWS.replace('hill 7."}\n', ""), 198, "line 8 of a.jsonl is no JSON"),
    "quotes of the text": (
        "a.tsv",
        (TSV * 3).replace("\tA sentence about hill 7.", '\t"Hello', 1).replace("hill 9.", '9."', 1),
        597, "row 8 of a.tsv (line 9) has a quote that holds the 2 lines after it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SOME)
def test_what_is_left_out_is_counted_and_named(read, case):
    name, content, number, words = SOME[case]
    documents, said = read(name, content)
    assert len(documents) == number and said.startswith(f"read {number} documents from ")
    assert words in said


MANY = {
    "a comma at the end": ("a.csv", "title,text,tags\n" + 'Note,A text,"a b",\n' * 80,
                           "80 of 80 rows of a.csv cannot be used: row 1 of a.csv (line 2) has 4 fields, and the "
                           "header has 3"),
    "commas in the text": ("a.csv", CSV[:2000].replace("sentence", "sentence, long"), "has 3 fields"),
    "backslashes": ("a.csv", 'id,text\n1,"He said \\"hi\\" twice"\n', "',' expected after"),
    "objects": ("a.jsonl", rows(*[{"body": "x", "lang": "en"}] * 80),
                "80 of 80 rows of a.jsonl cannot be used: line 1 of a.jsonl has an object in column 'text'"),
    "half lists": ("a.jsonl", rows(*["a", ["b"]] * 30), "30 of 60 rows of a.jsonl cannot be used: line 2 of"),
    "numbers": ("a.jsonl", rows(1.5), "a number in column 'text'"),
    "truths": ("a.jsonl", rows(True), "has true or false in column"),
    "cut": ("a.jsonl", ROWS[:2000] + '\n{"text": "cut', "is no JSON (Unterminated string starting at, column"),
    "a missing column": ("a.jsonl", ROWS + '{"id": 3}\n' * 30, "line 201 of a.jsonl has no column 'text' (it has id)"),
    "lists": ("a.jsonl", '["a", "b"]\n' * 9, "line 1 of a.jsonl is a list"),
    "texts": ("a.jsonl", '"a"\n' * 9, "line 1 of a.jsonl is a text"),
    "Python": ("a.jsonl", "{'text': 'a'}\n", "line 1 of a.jsonl is no JSON"),
    "commas after rows": ("a.jsonl", '{"text": "a"},\n' * 9, "line 1 of a.jsonl is no JSON (Extra data"),
    "columns": ("a.json", json.dumps({"text": TEXT}), "has a list in column 'text'"),
    "a quote that swallows rows": (
        "a.csv", CSV.replace("5,A", '5,"A', 1).replace("150,A", '150,"B" c', 1),
        "146 of 200 rows of a.csv cannot be used: row 6 of a.csv (line 7) is damaged",
    ),
    "the same with its end": (
        "a.csv", CSV.replace("5,A", '5,"A', 1).replace("hill 150.", '150."', 1),
        "row 6 of a.csv (line 7) has a quote that holds the 145 lines after it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MANY)
def test_more_than_one_bad_row_in_a_hundred_is_refused(tmp_path, read, case, monkeypatch):
    monkeypatch.setattr("diffusion.data.report._ENOUGH_BAD", 10**6)  # the stream to its end, too
    name, content, words = MANY[case]
    documents, said = read(name, content)
    assert documents is None and words in said and "--skip_bad" in said
    documents, said = read(name, content, skip_bad=True)
    assert "left out, the first: " in said or "has no text in its train split" in said


def test_a_stream_of_bad_rows_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("3\n" * 500)
    with pytest.raises(UserError, match=r"^100 of 100 rows"):
        list(load_documents(str(path), streaming=True))


NEVER = {
    "a semicolon": ("a.csv", CSV.replace(",", ";"), "seem to be separated by ';', and those of .csv are by ','"),
    "a semicolon after quotes": ("a.csv", '"id";"text"\n"1";"One."\n', "seem to be separated by ';'"),
    "a comma": ("a.tsv", CSV, "seem to be separated by ','"),
    "tabs": ("a.csv", TSV, r"seem to be separated by '\t'"),
    "no header": ("a.csv", "1,One.\n2,Two.\n", "no column 'text' (it has 1, One.)"),
    "capitals": ("a.csv", "ID,Text\n1,One.\n", "no column 'text' (it has ID, Text); name the column"),
    "a space": ("a.csv", "id, text\n1,One.\n", "it has id, ' text'"),
    "two columns": ("a.csv", "text,text\na,b\n", "a.csv has several columns 'text'"),
    "a quote without end": ("a.csv", CSV + '77,"never\nends\n', "row 201 of a.csv (line 202) begins a quote that"),
    "not UTF-8": ("a.csv", CSV.replace("hill 7", "h\xe9ll").encode("latin-1"), "a.csv is not UTF-8 text (byte 217, in "
                                                                           "line 9)"),
    "JSON not UTF-8": ("a.jsonl", b'{"text": "caf\xe9"}\n', "not UTF-8 text (byte 13, in line 1)"),
    "a cut list": ("a.json", json.dumps([{"text": "one"}], indent=1)[:-9], "line 3, column 11"),
    "objects of jq": ("a.json", '{\n"text": "a"\n}\n{\n"text": "b"\n}', "Extra data, line 4"),
    "a list of lines": ("a.jsonl", '[{"text": "a"},\n{"text": "b"}]', "let its name end in .json"),
    "data inside": ("a.json", '{\n"data": [{"text": "a"}]}', "one JSON object, which has no column 'text' (it has data)"),
    "nothing": ("a.csv", "", "has no text in its train split"),
    "a header": ("a.csv", "id,text\n", "of 0 rows in 1 file"),
    "no rows": ("a.json", "[]", "has no text"),
}  # fmt: skip


@pytest.mark.parametrize("case", NEVER)
def test_a_table_that_is_not_understood_is_refused(read, case):
    name, content, words = NEVER[case]
    documents, said = read(name, content, skip_bad=True)
    assert documents is None and words in said


# ---------------------------------------------------------------- typed formats

COLUMNS = {
    "dictionary": (pyarrow.array(TEXT).dictionary_encode(), "read 200 documents"),
    "large": (pyarrow.array(TEXT, pyarrow.large_string()), "read 200 documents"),
    "some null": (pyarrow.array(["a", None, "", " "] * 5), "5 documents from .*20 rows in 1 file; 15 rows empty"),
    "all null": (pyarrow.array([None] * 5, pyarrow.null()), "no text .*5 rows empty"),
    "bytes": (pyarrow.array([b"a", b"b"]), "row 1 of a has bytes in column 'text'"),
    "numbers": (pyarrow.array([1, 2]), "2 of 2 rows .* row 1 of a has a number"),
    "lists": (pyarrow.array([None, ["a"]]), "row 2 of a has a list"),
    "objects": (pyarrow.array([{"a": "x"}]), "row 1 of a has an object"),
    "not UTF-8": (pyarrow.array([b"\xff"]).view(pyarrow.string()), "row 1 of a is not UTF-8 text"),
}  # fmt: skip


def write(path, table, kind: str) -> None:
    if kind == "parquet":
        parquet.write_table(table, path)
        return
    begin = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(path), "wb") as file, begin(file, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
@pytest.mark.parametrize("case", COLUMNS)
def test_typed_columns(tmp_path, read, case, kind):
    values, words = COLUMNS[case]
    name = "a.parquet" if kind == "parquet" else "a.arrow"
    if case == "not UTF-8" and kind == "parquet":
        pytest.skip("the library does not write it")
    write(tmp_path / name, pyarrow.table({"id": range(len(values)), "text": values}), kind)
    _, said = read(name)
    assert re.search(words.replace("of a ", f"of {name} "), said), said


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_damaged_typed_files_say_where(tmp_path, read, kind):
    name = "a.parquet" if kind == "parquet" else "a.arrow"
    write(tmp_path / name, pyarrow.table({"story": TEXT}), kind)
    assert "no column 'text' (it has story)" in read(name)[1]
    assert read(name, column="story")[0] == TEXT
    whole = (tmp_path / name).read_bytes()
    for content in (whole[:-300], whole[:20], b"x", b""):
        documents, said = read(name, content, column="story")
        assert documents is None and said.startswith(f"cannot read {name}")
