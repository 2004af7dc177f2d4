"""The files that text is read from: one table, ending -> reader.

A reader yields (number, value) for each row of a table, where ``value`` is what the column holds there, of
whatever type, or a `Bad` that says what is wrong with the row. Nothing is guessed or converted: the header
decides which column is which, and in CSV and TSV every value is text.
"""

import csv
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from pyarrow import parquet

from diffusion.cli import reading
from diffusion.data.report import counted
from diffusion.errors import UserError, cause

_BATCH = 1000  # rows of a Parquet file that are read at once


class Bad(NamedTuple):
    """What stands instead of a value: "has 4 fields, and the header 3".

    Attributes:
        rows: how many were taken for one, by a quote that does not end where it should.
    """

    why: str
    rows: int = 1


# (Number of the row, or of the line of JSON lines, from 1; value or Bad).
Rows = Iterator[tuple[int, Any]]


def no_column(column: str, columns: list[str]) -> str:
    """That a row, or a file, does not have a column."""
    some = ", ".join(name if name == name.strip() and name else repr(name) for name in columns[:20])
    some = some if len(some) <= 300 else some[:300] + " ..."
    return f"has no column {column!r} (it has {some or 'none'})"


def _check_columns(path: Path, column: str, columns: list[str]) -> None:
    if columns.count(column) != 1:
        why = no_column(column, columns)
        if column in columns:
            why = f"has several columns {column!r}"
        raise UserError(f"{path} {why}; name the column of the text by --text_column")


# ---------------------------------------------------------------- JSON


def _loads(text: str, column: str):
    """JSON; ValueError also where an object has the column twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict:
        if [name for name, _ in pairs].count(column) > 1:
            raise ValueError(f"the name {column!r} stands twice in an object")
        return dict(pairs)

    several = text.count(f'"{column}"') > 1
    return json.loads(text, object_pairs_hook=once if several else None)


def _cell(row, column: str):
    if not isinstance(row, dict):
        return Bad(f"is {kind_of(row)}, and has to be an object with the names of columns")
    return row[column] if column in row else Bad(no_column(column, list(row)))


def kind_of(value) -> str:
    """What a value is called in JSON."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    kinds |= {type(None): "null", bytes: "bytes"}
    number = (
        "a number" if isinstance(value, int | float) else f"a value of type {type(value).__name__}"
    )
    return kinds.get(type(value), number)


def json_lines(path: Path, column: str) -> Rows:
    """A JSON object a line; empty lines are no rows."""
    begun = False
    for number, line in enumerate(reading.lines(path), 1):
        line = line.strip()
        if not line:
            continue
        if not begun and line[0] == "[" and not reading.is_json(line):
            raise UserError(
                f"{path} is not JSON lines: it begins a list; let its name end in .json"
            )
        begun = True
        try:
            yield number, _cell(_loads(line, column), column)
        except RecursionError:
            yield number, Bad("is nested too deeply")
        except ValueError as error:
            yield number, Bad(f"is no JSON ({_place(error)})")


def json_list(path: Path, column: str) -> Rows:
    """A list of JSON objects, or a single one; where the first line is a whole object, JSON lines."""
    start = next(filter(None, (line.strip() for line in reading.lines(path))), "")
    if start[:1] not in ("[", "{") or reading.is_json(start, dict):
        yield from json_lines(path, column)
        return
    try:
        found = _loads(reading.read_text(path), column)
    except RecursionError:
        raise UserError(f"cannot read {path}: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(
            f"cannot read {path} as JSON: {_place(error)}; it may be damaged or cut"
        ) from None
    if isinstance(found, list):
        yield from ((number, _cell(row, column)) for number, row in enumerate(found, 1))
    elif column in found:
        yield 1, found[column]
    else:
        raise UserError(
            f"{path} is one JSON object, which {no_column(column, list(found))}; give a list of objects, or "
            "an object a line (.jsonl)"
        )


def _place(error: ValueError) -> str:
    """What is wrong with JSON, and where."""
    if not isinstance(error, json.JSONDecodeError):
        return cause(error)
    line = f"line {error.lineno}, " if error.lineno > 1 else ""
    return f"{error.msg}, {line}column {error.colno}"


# ---------------------------------------------------------------- CSV and TSV


def _separated(path: Path, column: str, delimiter: str) -> Rows:
    csv.field_size_limit(sys.maxsize)  # a field may hold a book
    source, above, first = reading.lines(path), 0, ""
    for first in source:  # empty lines may stand above the header
        above += 1
        if said := re.fullmatch(r"sep=(.)\s*", first):  # as Excel writes it
            delimiter = said[1]
        elif first.strip():
            break
    _check_header(path, column, first, delimiter)
    records = csv.reader(itertools.chain([first], source), delimiter=delimiter, strict=True)
    try:
        header = next(records, [])
    except csv.Error as error:
        raise UserError(f"cannot read the header of {path}: {error}") from None
    if not header:
        return
    _check_columns(path, column, header)
    at, number = header.index(column), 0
    while True:
        before, damage = records.line_num, None
        try:
            fields = next(records, None)
        except csv.Error as error:
            fields, damage = [], str(error)
        if fields is None:
            return
        if not fields and damage is None:
            continue
        number += 1
        line, lines = above + before, records.line_num - before
        if damage and "unexpected end" in damage:
            raise UserError(
                f"row {number} of {path} (line {line}) begins a quote that never ends; mend it"
            )
        why = f"is damaged: {damage}" if damage else _fault(fields, header, delimiter, lines)
        yield number, Bad(f"(line {line}) {why}", lines) if why else fields[at]


def _check_header(path: Path, column: str, first: str, delimiter: str) -> None:
    """Refuse what has JSON, or another separator, where the header is to be."""
    if reading.is_json(first, dict):
        raise UserError(f"{path} is no table: it looks like JSON lines; let its name end in .jsonl")
    for other in ",;\t|":
        names = [name.strip().strip('"') for name in first.split(other)]
        if delimiter not in first and len(names) > 1 and column in names:
            raise UserError(
                f"{path} has no column {column!r}: its columns seem to be separated by {other!r}, and those "
                f"of {reading.ending(path)} are by {delimiter!r}; convert it"
            )


def _fault(fields: list[str], header: list[str], delimiter: str, lines: int) -> str:
    """Why a row of so many lines is none of the table; else ""."""
    if len(fields) != len(header):
        return f"has {counted(len(fields), 'field')}, and the header has {len(header)}"
    if fields == header:
        return "is the header again"
    if any("\n" in field and _swallows(field, delimiter, len(header)) for field in fields):
        return f"has a quote that holds the {lines - 1} lines after it"
    return ""


def _swallows(field: str, delimiter: str, columns: int) -> bool:
    """Whether a quoted field holds other rows, because its quotes are part of the text: lines with tabs
    in TSV, and in CSV eight and more that all have as many commas as a row."""
    if delimiter == "\t":
        return "\t" in field
    inner = field.split("\n")[1:-1]
    return columns > 1 and len(inner) >= 8 and all(x.count(delimiter) == columns - 1 for x in inner)


def comma_separated(path: Path, column: str) -> Rows:
    """CSV as of RFC 4180: a header, then rows of as many fields."""
    return _separated(path, column, ",")


def tab_separated(path: Path, column: str) -> Rows:
    """The same with tabs."""
    return _separated(path, column, "\t")


# ---------------------------------------------------------------- Arrow and Parquet


def _values(path: Path, column: str, batches) -> Rows:
    number = 0
    try:
        for batch in batches:
            for value in batch.column(batch.schema.get_field_index(column)):
                number += 1
                try:
                    yield number, value.as_py()
                except UnicodeDecodeError as error:
                    yield number, Bad(f"is not UTF-8 text (byte {error.start} of it)")
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"cannot read {path} after row {number}: {cause(error)}; it may be damaged or cut"
        ) from None


def _table(path: Path, column: str, open_it: Callable) -> Rows:
    with reading.opened(path) as file:
        start = file.peek(512)[:512]
        try:
            source = file
            if path.suffix.lower() in reading.COMPRESSED:
                source = pyarrow.BufferReader(file.read())
            schema, batches = open_it(source, start, column)
        except (pyarrow.ArrowException, OSError) as error:
            if not isinstance(error, pyarrow.ArrowException) and error.errno:
                raise
            reading.check_beginning(path, start, but=("a Parquet file", "an Arrow file"))
            raise UserError(
                f"cannot read {path}: {cause(error)}; it may be damaged or cut"
            ) from None
        _check_columns(path, column, schema.names)
        yield from _values(path, column, batches)


def _open_parquet(source, start: bytes, column: str):
    file = parquet.ParquetFile(source)
    return file.schema_arrow, file.iter_batches(_BATCH, columns=[column])


def _open_arrow(source, start: bytes, column: str):
    if not start.startswith(b"ARROW1"):
        stream = pyarrow.ipc.open_stream(source)
        return stream.schema, stream
    file = pyarrow.ipc.open_file(source)
    batches = (file.get_batch(i) for i in range(file.num_record_batches))
    return file.schema, batches


def parquet_rows(path: Path, column: str) -> Rows:
    """A Parquet file, row group by row group."""
    return _table(path, column, _open_parquet)


def arrow_rows(path: Path, column: str) -> Rows:
    """An Arrow file or stream, as data sets are saved on disk."""
    return _table(path, column, _open_arrow)


# ---------------------------------------------------------------- the table of formats

TABLES: dict[str, Callable[[Path, str], Rows]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_list,
    ".csv": comma_separated,
    ".tsv": tab_separated,
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
}
ENDINGS = (*reading.PROSE, *TABLES)
LINES = (".jsonl", ".ndjson")
TYPED = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow")  # their columns may hold lists
