"""Text from files or from the hub -> documents -> packed blocks of token ids."""

import lzma
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffusion.cli.files import given_path
from diffusion.errors import UserError, first_line
from diffusion.models.hub import ask_hub_once

WIKITEXT = "wikitext-2"
# On the hub the "raw" variant is taken: it has the words that the other replaces by <unk>.
_HUB_WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1")
_TABLE_FILES = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}

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
    documents = (re.sub(r"\n\s*\n", "\n", part).strip() for part in text.split("\n\n\n"))
    return list(filter(None, documents))


def read_text(path: Path) -> str:
    """The text of a ``.txt`` or ``.txt.xz`` file."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".xz":
            raw = lzma.decompress(raw)
        # Files from Windows may start with a byte order mark and end their lines with \r\n.
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); convert it") from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}; it may be damaged") from None


def table_rows(
    name: str,
    split: str,
    config: str | None = None,
    column: str = "text",
    revision: str | None = None,
    streaming: bool = False,
) -> Iterator:
    """The values of a ``column`` of a data set, from the hub or a local file (one split, whatever
    ``split`` is) or folder. With ``streaming`` rows are fetched as they are taken.

    Raises:
        UserError: the table does not exist, cannot be read, or has no such column.
    """
    try:
        with tempfile.TemporaryDirectory() as cache:  # for copies and locks of local files
            for row in _open_table(name, split, config, revision, cache, streaming):
                if column not in row:
                    raise UserError(
                        f"data set {name} has no column {column!r} (it has {', '.join(row)}); "
                        "name the column of the text with --text_column"
                    )
                yield row[column]
    except UserError:
        raise
    except Exception as error:  # the library raises many kinds
        if given_path(name).exists() or (isinstance(error, ValueError) and "split" in str(error)):
            raise UserError(
                f"cannot read the {split} split of data set {name}: {first_line(error)}; "
                "check the name and --dataset_config"
            ) from None
        raise UserError(
            f"cannot get data set {name!r} from the hub (unreachable, or no such data set); give "
            "a local file or folder, or --dataset_dir with the WikiText-2 files"
        ) from None


def _open_table(name, split, config, revision, cache, streaming):
    import datasets

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are reported by the caller
    how, path = {"streaming": streaming, "split": split}, given_path(name)
    if not path.exists():
        ask_hub_once()
        datasets.enable_progress_bars()
        return datasets.load_dataset(name, config, revision=revision, **how)
    datasets.disable_progress_bars()
    how |= {"cache_dir": cache} | ({} if streaming else {"keep_in_memory": True})
    if path.is_file():
        how |= {"data_files": str(path), "split": "train"}
        return datasets.load_dataset(_TABLE_FILES[path.suffix], **how)
    return datasets.load_dataset(str(path), config, **how)


def _documents(rows: Iterable, name: str) -> Iterator[str]:
    """The documents of a table in which each row is one."""
    for text in rows:
        text = text.strip() if isinstance(text, str) else ""
        if _TITLE.fullmatch(text):
            raise UserError(f"each row of data set {name} is a line; leave out --streaming")
        if text:
            yield text


def _table_documents(rows: Iterable, name: str) -> list[str]:
    rows = [row for row in rows if isinstance(row, str)]
    if any(_TITLE.fullmatch(row.strip()) for row in rows):  # WikiText: a row is a line
        return wikitext_documents("\n".join(row.rstrip("\n") for row in rows))
    return list(_documents(rows, name))


def load_documents(
    name: str,
    split: str = "train",
    dataset_dir: str | None = None,
    config: str | None = None,
    *,
    column: str = "text",
    revision: str | None = None,
    streaming: bool = False,
) -> Iterable[str]:
    """The documents of a data set.

    Args:
        name: ``wikitext-2``, a ``.txt``/``.txt.xz`` file, a table with a column of text (parquet,
            JSON lines, CSV), a folder of either, or a name on the hub.
        split: ``train``, ``validation`` or ``test``. A file or a folder of text is one split.
        dataset_dir: where ``wikitext-2`` is looked for before the hub.

    Raises:
        UserError: missing, unreadable, not UTF-8, or empty.
    """
    path = given_path(name)
    texts = sorted([*path.glob("*.txt"), *path.glob("*.txt.xz")])  # of a folder
    if path.is_file() and path.suffix not in _TABLE_FILES:
        texts = [path]
    endings = {".txt", ".xz", *_TABLE_FILES}
    if name == WIKITEXT:
        documents = _wikitext(split, dataset_dir)
    elif texts:
        documents = [d for file in texts for d in plain_documents(read_text(file))]
    elif not path.exists() and (path.suffix in endings or name.startswith((".", "/", "~"))):
        raise UserError(f"data set {name} does not exist; give a file, a folder or a hub name")
    else:
        rows = table_rows(name, split, config, column, revision, streaming)
        if streaming:
            return _documents(rows, name)
        documents = _table_documents(rows, name)
    if not documents:
        raise UserError(f"data set {name} has no text in its {split} split; give another")
    return documents


def _wikitext(split: str, dataset_dir: str | None) -> list[str]:
    """The articles of a split, from a local file under one of its usual names, or the hub."""
    if dataset_dir is None:
        name, config = _HUB_WIKITEXT
        return _table_documents(table_rows(name, split, config), name)
    folder, stem = given_path(dataset_dir), split.replace("validation", "valid")
    names = (f"{stem}.txt", f"{stem}.txt.xz", f"wiki.{stem}.tokens", f"wiki.{stem}.raw")
    for path in (base / name for base in (folder / WIKITEXT, folder) for name in names):
        if path.is_file():
            return wikitext_documents(read_text(path))
    raise UserError(f"no WikiText-2 {split} file in {dataset_dir}; expected {WIKITEXT}/{stem}.txt")
