"""Text files are read the same way everywhere: compressed or not, with a byte order mark or without, and
refused where their content is not what their name says."""

import contextlib
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffusion.errors import UserError, cause

COMPRESSED = {
    ".gz": b"\x1f\x8b",
    ".xz": b"\xfd7zXZ\x00",
    ".zst": b"\x28\xb5\x2f\xfd",
}  # and how they begin
PROSE = (".txt", ".md")

# How files begin that are often given as text, and what they are.
_BEGINNINGS = [
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), what)
    for pattern, what in (
        (rb"\x1f\x8b", "gzip data"),
        (rb"\xfd7zXZ\x00", "xz data"),
        (rb"\x28\xb5\x2f\xfd", "zstd data"),
        (rb"BZh[1-9]1AY", "bzip2 data"),
        (rb"PK\x03\x04", "a zip archive, as .docx, .epub and .xlsx are"),
        (rb".{257}ustar", "a tar archive"),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1", "an old Office document"),
        (rb"%PDF-", "a PDF"),
        (rb"\{\\rtf", "an RTF document"),
        (rb"PAR1", "a Parquet file"),
        (rb"ARROW1\x00\x00|\xff\xff\xff\xff.\x00\x00\x00\x10\x00", "an Arrow file"),
        (rb"SQLite format 3\x00", "an SQLite database"),
        (rb"\x7fELF|MZ.{1,200}This program", "a program"),
        (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP", "a picture"),
        (rb"(\xef\xbb\xbf)?\s*(<!doctype html|<html[\s>])", "a web page (HTML)"),
        (rb"(\xef\xbb\xbf)?\s*<\?xml\s", "XML"),
        (
            rb"version https://git-lfs\.github\.com/spec/",
            "a pointer of Git LFS; get the file itself by 'git lfs pull'",
        ),
    )
]
# None stands in text: tabs, ends of lines and pages, and the soft end of a line (\v) do.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_MARK = "\ufeff"  # byte order mark


def ending(path: Path | str) -> str:
    """The ending in small letters without that of a compression: ``Rows.JSONL.gz`` -> ``.jsonl``."""
    path = Path(path)
    if path.suffix.lower() in COMPRESSED:
        path = path.with_suffix("")
    return path.suffix.lower()


def check_ending(path: Path | str, allowed: Iterable[str], what: str) -> None:
    """Refuse a name that ends in none of ``allowed``, with or without a compression; ``what``: the flag
    and the name, for people."""
    allowed = tuple(allowed)
    if ending(path) not in allowed:
        found = repr(ending(path)) if ending(path) else "none"
        raise UserError(
            f"{what}: its ending ({found}) is unknown; known are {', '.join(allowed)}, in any case, each "
            f"also with {', '.join(COMPRESSED)}"
        )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed as its ending says.

    Raises:
        UserError: it cannot be read, is damaged or not UTF-8; whatever is read within this context is
            reported with its place.
    """
    with _reported(path), path.open("rb") as raw:
        kind = path.suffix.lower()
        if kind not in COMPRESSED:
            yield raw
            return
        if kind == ".gz":
            file = gzip.GzipFile(fileobj=raw)
        elif kind == ".xz":
            file = lzma.LZMAFile(raw)  # noqa: SIM115
        else:
            import pyarrow  # the standard library has it from Python 3.14 on

            file = pyarrow.input_stream(raw, compression="zstd")
        with file, io.BufferedReader(file, 1 << 16) as buffered:
            yield buffered


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text ({_undecoded(path, error)}); convert it"
        ) from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        if getattr(error, "strerror", None):
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        why = "it may be damaged or cut"
        begins = COMPRESSED.get(path.suffix.lower())
        if begins and path.is_file():
            with path.open("rb") as file:
                if file.read(len(begins)) != begins:
                    why = (
                        f"it does not begin as {path.suffix} data does: leave out the ending where it is not "
                        "compressed"
                    )
        raise UserError(f"cannot read {path}: {cause(error)}; {why}") from None


def _undecoded(path: Path, error: UnicodeDecodeError) -> str:
    """Where the first bytes are that are no text."""
    if not error.encoding.lower().startswith("utf-8") or not path.is_file():
        return f"{error.encoding}, {error.reason}"
    at = 0
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as first:
                return f"byte {at + first.start}, in line {number}"
            at += len(line)
    return error.reason


def _encoding(start: bytes) -> str:
    """As a byte order mark says."""
    return "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def check_beginning(path: Path, start: bytes, but: tuple[str, ...] = ()) -> None:
    """Refuse what begins as another kind of file does; ``but``: kinds that are right."""
    for pattern, what in _BEGINNINGS:
        if what not in but and pattern.match(start):
            raise UserError(f"{path} is not what its name says: it looks like {what}")
    if not but and _encoding(start) == "utf-8-sig" and 10 * start.count(0) > len(start):
        raise UserError(
            f"{path} is not text: it has control characters (U+0000), as programs and UTF-16 without a "
            "byte order mark do; convert it"
        )


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file one by one, with their ends, each without a byte order mark.

    Raises:
        UserError: as of `opened`; it begins as another kind of file does.
    """
    with opened(path) as file:
        start = file.peek(1024)
        check_beginning(path, start)
        with io.TextIOWrapper(file, _encoding(start), newline="") as text:
            for line in text:
                yield line.removeprefix(_MARK)


def decoded(raw: bytes) -> str:
    """Bytes as text, as a byte order mark says, without it and without those of files that were joined;
    the ends of lines are those of Unix."""
    text = raw.decode(_encoding(raw)).replace("\r\n", "\n")
    if "\n" not in text:  # old files of Macintosh
        text = text.replace("\r", "\n")
    return text.replace(f"\n{_MARK}", "\n").removeprefix(_MARK)


def read_text(path: Path) -> str:
    """The text of a file, by `decoded`.

    Raises:
        UserError: as of `lines`; control characters.
    """
    with opened(path) as file:
        raw = file.read()
        check_beginning(path, raw[:1024])
        text = decoded(raw)
    if found := control_characters(text):
        raise UserError(f"{path} is not text: it has {found}")
    return text


@contextlib.contextmanager
def named(flag: str) -> Iterator[None]:
    """What is wrong with a file is reported with the flag that names it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{flag}: {error}") from None


def read_prose(path: Path, column: str = "text") -> str:
    """`read_text` of a file that is to hold text for people.

    Raises:
        UserError: it looks like a table or a notebook.
    """
    text = read_text(path)
    if what := _looks_like(text, column):
        raise UserError(f"{path} is not plain text: it looks like {what}")
    return text


def control_characters(text: str) -> str:
    """A description of the first control character of what is no text, because it has a NUL, or more
    than one control character in 1,000; else ""."""
    first = _CONTROL.search(text)
    if first is None or ("\x00" not in text and 1000 * stray(text) <= len(text)):
        return ""
    line = text.count("\n", 0, first.start()) + 1
    return f"control characters, the first (U+{ord(first[0]):04X}) in line {line}"


def stray(text: str) -> int:
    """The number of control characters in a text."""
    return len(_CONTROL.findall(text))


def _looks_like(text: str, column: str) -> str:
    """What a text is, where it is a table or a notebook; else ""."""
    start = text[: 1 << 16].lstrip()
    first = [line.strip() for line in start.split("\n")[:200] if line.strip()]
    if re.match(r'\{\s*"(cells|nbformat|nbformat_minor|metadata)"\s*:', start):
        return "a Jupyter notebook; save its text in another file"
    objects = sum(is_json(line, dict) for line in first[:10])
    if start[:1] == "{" and 2 * objects >= len(first[:10]):
        return "JSON lines; let its name end in .jsonl"
    if start[:1] in ("{", "[") and is_json(text):
        return "JSON; let its name end in .json"
    names = re.fullmatch(r'"?\w+"?([,;\t|]"?\w+"?)+', first[0] if first else "")
    if names and column in re.findall(r"\w+", first[0]):
        return "a table with a header; let its name end in .csv or .tsv"
    tabs = {line.count("\t") for line in first[:-1]}
    if len(first) > 3 and len(tabs) == 1 and tabs != {0}:
        return "a table with tabs between its columns; let its name end in .tsv"
    return ""


def is_json(line: str, kind: type = object) -> bool:
    """Whether a line is JSON, of a kind."""
    try:
        return isinstance(json.loads(line), kind)
    except (ValueError, RecursionError):
        return False
