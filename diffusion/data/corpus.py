"""Text from files, folders or the hub -> documents."""

import contextlib
import itertools
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from diffusion.cli import reading
from diffusion.cli.files import given_path
from diffusion.data import formats
from diffusion.data.formats import Bad
from diffusion.data.report import Report
from diffusion.errors import UserError, cause
from diffusion.models.hub import ask_hub_once

WIKITEXT = "wikitext-2"
# On the hub the "raw" variant is taken: it has the words that the other replaces by <unk>.
_HUB_WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1")
_WIKITEXT_NAMES = (WIKITEXT, "salesforce/wikitext", "wikitext")  # in small letters

# ---------------------------------------------------------------- WikiText and plain text

_TITLE = re.compile(r"= [^=](.*[^=])? =")
_UNSPACED = (
    (re.compile(r" @([-,.])@ "), r"\1"),
    (re.compile(r" ([,.;:!?%)\]}])"), r"\1"),
    (re.compile(r"([(\[{$£€#]) "), r"\1"),
    (re.compile(r" ('(?:s|re|ve|ll|d|m|t)?|n't)\b"), r"\1"),
    (re.compile(r" ('(?=[\s.,;:!?)]|$))"), r"\1"),
    (re.compile(r" ?/ ?"), "/"),
    (re.compile(r' ?" ([^"]*?) "'), r' "\1"'),
    (re.compile(r"  +"), " "),
)


def detokenize(line: str) -> str:
    """A line of word-level WikiText as ordinary text: ``1 @,@ 200 m ( 4 ft )`` -> ``1,200 m (4 ft)``."""
    for pattern, replacement in _UNSPACED:
        line = pattern.sub(replacement, line)
    return line.strip()


def wikitext_documents(text: str) -> list[str]:
    """The articles of a WikiText file as ordinary text, one paragraph a line, without headings and
    sentences with the literal word ``<unk>``."""
    documents: list[list[str]] = [[]]
    for line in map(str.strip, text.splitlines()):
        if _TITLE.fullmatch(line):
            documents.append([])
        elif line and not line.startswith("= "):
            sentences = re.split(r"(?<= [.!?]) (?=[^a-z])", line)
            kept = detokenize(" ".join(s for s in sentences if "<unk>" not in s))
            if len(kept.split()) >= 5:
                documents[-1].append(kept)
    return ["\n".join(paragraphs) for paragraphs in documents if paragraphs]


def plain_documents(text: str) -> list[str]:
    """The documents of a text file: two blank lines stand between documents."""
    return _paragraphs(text)[0]


def _paragraphs(text: str) -> tuple[list[str], int]:
    """(the documents, the number of blank lines in them that became ends of lines)"""
    found = [re.subn(r"\n\s*\n", "\n", part.strip()) for part in text.split("\n\n\n")]
    return [document for document, _ in found if document], sum(number for _, number in found)


# ---------------------------------------------------------------- files and folders

# Written by the library datasets beside the tables of a data set.
_NOTES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def find_files(
    name: str, split: str, config: str | None, report: Report, endings: tuple[str, ...]
) -> list[Path] | None:
    """The files of a data set in their order; None: it is a name on the hub.

    A file is itself. A folder is all files with one of the ``endings`` below it, sorted; hidden ones are
    left out. Where their names tell splits apart, or its card does, they are those of the split.

    Raises:
        UserError: it does not exist, its ending is unknown, or a folder has no such file or split.
    """
    path = given_path(name)
    if path.is_dir():
        return _files_below(path, split, config, report, endings)
    if path.is_file():
        reading.check_ending(path, endings, f"data set {name}")
        return [path]
    if path.exists():
        raise UserError(f"data set {name} is neither a file nor a folder; give one of them")
    if reading.ending(path) in formats.ENDINGS or name.startswith((".", "/", "~")):
        raise UserError(f"data set {name} does not exist; give a file, a folder or a hub name")
    if name.count("/") > 1 or not name.strip():
        raise UserError(f"data set {name!r} is neither a file nor a folder, nor a name on the hub")
    return None


def _files_below(
    folder: Path, split: str, config: str | None, report: Report, endings: tuple[str, ...]
) -> list[Path]:
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if (real := os.path.realpath(root)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        saved = (
            _saved_files(Path(root)) if {"state.json", "dataset_info.json"} <= set(names) else None
        )
        for file in names:
            known, path = reading.ending(file) in endings, Path(root, file)
            if file.startswith(".") and known:
                report.leave_out("hidden", file)
            elif file in _NOTES or (saved is not None and known and file not in saved):
                report.leave_out("made by the library datasets", file)
            elif not known and not file.startswith("."):
                report.leave_out("of another kind", file)
            elif known:
                found.append(path)
    card = folder / "README.md"
    if card.is_file() and reading.read_text(card).startswith("---\n"):
        found = [path for path in found if path != card]
        report.leave_out("the card of the data set", card.name)
        if re.search(r"^configs:", reading.read_text(card).split("\n---")[0], re.MULTILINE):
            return _files_of_card(folder, split, config, endings)
    if not found:
        raise UserError(
            f"data set {folder} has no file with a known ending below it; known are "
            f"{', '.join(endings)}, each also with {', '.join(reading.COMPRESSED)}"
        )
    return _of_split(folder, sorted(found), split, report)


def _refuse_folder(error: OSError):
    raise UserError(f"cannot read the folder {error.filename}: {error.strerror}")


def _saved_files(folder: Path) -> set[str]:
    """The tables of a folder that ``save_to_disk`` has written; others are copies of steps on the way."""
    try:
        state = json.loads(reading.read_text(folder / "state.json"))
        return {file["filename"] for file in state["_data_files"]}
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"cannot read {folder / 'state.json'}: {cause(error)}") from None


def _of_split(folder: Path, files: list[Path], split: str, report: Report) -> list[Path]:
    """The files of a split, where all of them name one, or several do: ``train-00000-of-00002.parquet``,
    ``stories_test.jsonl``, ``dev/a.txt``."""
    named = {file: _split_of(file.relative_to(folder)) for file in files}
    splits = set(named.values()) - {None}
    if not splits or (None in named.values() and len(splits) == 1):
        return files
    if split not in splits:
        raise UserError(
            f"data set {folder} has no {split} split, by the names of its files (it has "
            f"{', '.join(sorted(splits))}); give the file that is meant"
        )
    for file, its in named.items():
        if its != split:
            why = f"of the {its} split" if its else "of no split"
            report.leave_out(why, file.name)
    return [file for file in files if named[file] == split]


def _split_of(path: Path) -> str | None:
    stem = path.name.lower()
    while Path(stem).suffix in (*reading.COMPRESSED, *formats.ENDINGS):
        stem = Path(stem).stem
    stem = re.sub(r"([-_.]?\d+)?([-_.]of[-_.]\d+)?$", "", stem)
    for split, words in _SPLITS.items():
        if re.search(rf"(^|[-_. ])({'|'.join(words)})$", stem):
            return split
    folders = [folder.lower() for folder in path.parts[:-1]]
    return next((s for s, words in _SPLITS.items() if set(words) & set(folders)), None)


def _files_of_card(
    folder: Path, split: str, config: str | None, endings: tuple[str, ...]
) -> list[Path]:
    """Those that the card of a folder lists for a split."""
    try:
        with tempfile.TemporaryDirectory() as cache:
            builder = _datasets().load_dataset_builder(str(folder), config, cache_dir=cache)
        found = builder.config.data_files
        if split not in found:
            raise UserError(f"data set {folder} has no {split} split (it has {', '.join(found)})")
        for file in found[split]:
            reading.check_ending(file, endings, f"data set {folder}: {file}")
        return [Path(file) for file in found[split]]
    except UserError:
        raise
    except Exception as error:  # the library raises many kinds
        raise UserError(
            f"cannot read the {split} split of data set {folder}: {cause(error)}; check the name and "
            "--dataset_config"
        ) from None


def rows_of(path: Path, report: Report) -> Iterator[tuple[str, Any]]:
    """(where it is, its value or a `Bad`) of each row of a table."""
    kind = reading.ending(path)
    what = "line" if kind in formats.LINES else "row"
    with report.file():
        for number, value in formats.TABLES[kind](path, report.column):
            report.rows += 1
            yield f"{what} {number} of {path}", value


# ---------------------------------------------------------------- the hub

_AS_WRITTEN = {"index_col": False, "na_filter": False}  # of CSV, which the library guesses about


class _File(str):
    """The whole of a text file."""


def _datasets():
    import datasets

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are reported by the caller
    return datasets


def hub_rows(
    name: str, split: str, config: str | None, revision: str | None, report: Report
) -> Iterator[tuple[str, Any]]:
    """(where it is, its value or a `Bad`) of each row of a data set on the hub; a text file is a row.

    Raises:
        UserError: it does not exist, cannot be read, or has no such column.
    """
    ask_hub_once()
    datasets, column = _datasets(), report.column
    datasets.enable_progress_bars()
    with _hub_errors(name, split, "get"):
        builder = datasets.load_dataset_builder(name, config, revision=revision)
    kind = type(builder).__module__.rpartition(".")[2]
    how = {
        "csv": {**_AS_WRITTEN, "converters": {column: str}},
        "text": {"sample_by": "document"},
    }.get(kind, {})
    how |= {"revision": revision, "split": split, "streaming": report.streaming}
    with _hub_errors(name, split, "read"), warnings.catch_warnings():
        warnings.filterwarnings("error", ".*loss of data.*")  # of rows longer than the header
        for number, row in enumerate(datasets.load_dataset(name, config, **how), 1):
            where = f"row {number} of {name}"
            if kind == "text":
                yield where, _File(row["text"])
                continue
            report.rows += 1
            if column not in row:
                raise UserError(
                    f"data set {name} {formats.no_column(column, list(row))}; name the column of the "
                    "text by --text_column"
                )
            yield where, row[column]


@contextlib.contextmanager
def _hub_errors(name: str, split: str, do: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the library raises many kinds
        if isinstance(error, ValueError) and re.search("(?i)split|config", str(error)):
            raise UserError(
                f"cannot read the {split} split of data set {name}: {cause(error)}; check the name and "
                "--dataset_config"
            ) from None
        why = ask_hub_once() if do == "get" else ""
        why = why or f"{cause(error)}; check the name"
        instead = "a local file or folder"
        if name == _HUB_WIKITEXT[0]:
            instead = "--dataset_dir with the WikiText-2 files"
        raise UserError(
            f"cannot {do} data set {name!r} from the hub: {why}, or give {instead}"
        ) from None


def load_records(
    name: str,
    split: str,
    read: Callable[[Any], Any],
    one: str,
    many: str,
    form: str,
    *,
    reader: str,
    config: str | None = None,
    column: str,
    revision: str | None = None,
    report: Report,
) -> list:
    """What ``read`` makes of the rows of a data set that hold lists: JSON lines, another table that can
    hold lists, a folder, or a name on the hub.

    Args:
        read: the value of ``column`` -> a record, or None where it is none.
        one, many, form: of a record, for people.
        reader: the flag or script that reads them.
        report: is filled; ``column`` and ``name`` are set here.

    Raises:
        UserError: missing, unreadable, or too many rows that are no record.
    """
    report.name, report.column = name, column
    if reading.ending(name) in set(formats.ENDINGS) - set(formats.TYPED):
        raise UserError(f"{name} has no {many}; {reader} reads JSON lines of {form}")
    files = find_files(name, split, config, report, formats.TYPED)
    if files is None:
        rows = hub_rows(name, split, config, revision, report)
    else:
        rows = itertools.chain.from_iterable(rows_of(file, report) for file in files)
    found = []
    for where, row in rows:
        if isinstance(row, Bad):
            report.note_bad(where, row.why, row.rows)
        elif row is None or row == []:
            report.empty += 1
        elif record := read(row):
            found.append(record)
        else:
            report.note_bad(where, f"is not a {one}, {form}")
    report.documents = len(found)
    report.check()
    if not found:
        raise UserError(f"data set {name} has no {many} in its {split} split; give another")
    return found


# ---------------------------------------------------------------- documents


def texts(rows: Iterable[tuple[str, Any]], report: Report) -> Iterator[str]:
    """The values of a column that are text, without white space at both ends; all else is counted."""
    for where, value in rows:
        if isinstance(value, Bad):
            report.note_bad(where, value.why, value.rows)
        elif value is None or (isinstance(value, str) and not value.strip()):
            report.empty += 1
        elif not isinstance(value, str):
            kind = formats.kind_of(value)
            report.note_bad(where, f"has {kind} in column {report.column!r}, and not text")
        elif why := _no_text(value):
            report.note_bad(where, why)
        else:
            if stray := reading.stray(value):
                report.changed["control character", "inside documents"] += stray
            report.documents += 1
            yield value.strip()


def _no_text(value: str) -> str:
    """Why a string is no text; else ""."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return "has half of a character (a lone surrogate)"
    found = reading.control_characters(value)
    return found and f"has {found} of its text"


def _plain(text: str, name: str, report: Report) -> Iterator[str]:
    """The documents of a text file."""
    report.texts += 1
    documents, blank = _paragraphs(text)
    if not documents:
        report.leave_out("without text", name)
    report.documents += len(documents)
    if blank:
        report.changed["blank line", "inside documents became line breaks"] += blank
    if stray := reading.stray(text):
        report.changed["control character", "inside documents"] += stray
    yield from documents


def load_documents(
    name: str,
    split: str = "train",
    dataset_dir: str | None = None,
    config: str | None = None,
    *,
    column: str = "text",
    revision: str | None = None,
    streaming: bool = False,
    wikitext: bool = False,
    report: Report | None = None,
) -> Iterable[str]:
    """The documents of a data set.

    Args:
        name: ``wikitext-2``, a file with an ending of `formats.ENDINGS`, a folder, or a name on the hub.
        split: ``train``, ``validation`` or ``test``. A file is one split.
        dataset_dir: where ``wikitext-2`` is looked for before the hub.
        column: of a table.
        streaming: return an iterator, which reads as far as it is used.
        wikitext: it is WikiText, line by line; known of ``wikitext-2`` and of its names on the hub.
        report: is filled; ``column``, ``name`` and ``streaming`` are set here.

    Raises:
        UserError: missing, unreadable, not UTF-8, empty, or too many bad rows.
    """
    report = Report() if report is None else report
    report.name, report.column, report.streaming = name, column, streaming
    if wikitext or name.lower() in _WIKITEXT_NAMES:
        if streaming:
            raise UserError(f"each row of data set {name} is a line; leave out --streaming")
        found = _wikitext(name, split, dataset_dir, config, revision, report)
    else:
        files = find_files(name, split, config, report, formats.ENDINGS)
        found = _documents(name, files, split, config, revision, report)
    found = _checked(found, split, report)
    return found if streaming else list(found)


def _checked(documents: Iterable[str], split: str, report: Report) -> Iterator[str]:
    yield from documents
    report.check()
    if not report.documents:
        raise UserError(
            f"data set {report.name} has no text in its {split} split; give another ({report})"
        )


def _documents(name, files, split, config, revision, report: Report) -> Iterator[str]:
    if files is None:
        for where, value in hub_rows(name, split, config, revision, report):
            if isinstance(value, _File):
                yield from _plain(value, where, report)
            else:
                yield from texts([(where, value)], report)
    for file in files or ():
        if reading.ending(file) in reading.PROSE:
            yield from _plain(reading.read_prose(file, report.column), file.name, report)
        else:
            yield from texts(rows_of(file, report), report)


def _wikitext(name, split, dataset_dir, config, revision, report: Report) -> list[str]:
    """The articles of a split: of ``wikitext-2`` from a local file under one of its usual names, or the
    hub."""
    files = None
    if name == WIKITEXT and dataset_dir is not None:
        files = [_wikitext_file(dataset_dir, split)]
    elif name == WIKITEXT:
        (name, config), revision = _HUB_WIKITEXT, None
    elif name.lower() not in _WIKITEXT_NAMES or given_path(name).exists():
        files = find_files(name, split, config, report, formats.ENDINGS)
    lines: list[str] = []
    if files is None:
        lines = [value for _, value in hub_rows(name, split, config, revision, report)]
    for file in files or ():
        if file.suffix in (".tokens", ".raw") or reading.ending(file) in reading.PROSE:
            report.texts += 1
            lines.append(reading.read_text(file))
        else:
            for where, value in rows_of(file, report):
                if isinstance(value, str):
                    lines.append(value)
                elif value is not None:
                    why = value.why if isinstance(value, Bad) else f"has {formats.kind_of(value)}"
                    report.note_bad(where, why, getattr(value, "rows", 1))
    found = wikitext_documents("\n".join(line.rstrip("\n") for line in lines))
    report.documents = len(found)
    report.how = "as WikiText: without headings and sentences with <unk>, and detokenized"
    return found


def _wikitext_file(dataset_dir: str, split: str) -> Path:
    folder, stem = given_path(dataset_dir), split.replace("validation", "valid")
    endings = ("", *reading.COMPRESSED)
    names = [f"{stem}.txt{end}" for end in endings] + [
        f"wiki.{stem}.{k}" for k in ("tokens", "raw")
    ]
    for path in (base / name for base in (folder / WIKITEXT, folder) for name in names):
        if path.is_file():
            return path
    raise UserError(f"no WikiText-2 {split} file in {dataset_dir}; expected {WIKITEXT}/{stem}.txt")
