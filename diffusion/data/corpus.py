"""Text from files or from the hub -> documents -> packed blocks of token ids."""

import contextlib
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
_SPLIT_FILES = {"train": "train", "validation": "valid", "test": "test"}
_TABLE_FILES = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}

# ---------------------------------------------------------------- WikiText: words back into text

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
    """The articles of a WikiText file as ordinary text, one paragraph a line.

    Headings are dropped, and so is every sentence with the literal word ``<unk>``: a word nobody
    can know should be neither read nor written by a model.
    """
    documents: list[list[str]] = []
    for line in text.splitlines():
        line = line.strip()
        if _TITLE.fullmatch(line):
            documents.append([])
        elif line and not line.startswith("= "):
            sentences = re.split(r"(?<= [.!?]) (?=[^a-z])", line)
            kept = detokenize(" ".join(s for s in sentences if "<unk>" not in s))
            if len(kept.split()) >= 5:
                if not documents:
                    documents.append([])
                documents[-1].append(kept)
    return ["\n".join(paragraphs) for paragraphs in documents if paragraphs]


def plain_documents(text: str) -> list[str]:
    """Documents of a text file: two blank lines stand between documents, one between paragraphs."""
    documents = (re.sub(r"\n\s*\n", "\n", part).strip() for part in text.split("\n\n\n"))
    return [document for document in documents if document]


# ---------------------------------------------------------------- files, folders, hub


def read_text(path: Path) -> str:
    """The text of a ``.txt`` or ``.txt.xz`` file."""
    try:
        raw = path.read_bytes()
        if path.suffix == ".xz":
            raw = lzma.decompress(raw)
        # Files from Windows may start with a byte order mark and end their lines with \r\n.
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}); convert it, for example with iconv"
        ) from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}; it may be damaged") from None


def _text_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.txt"), *folder.glob("*.txt.xz")])


def _wikitext_file(folder: Path, split: str) -> Path | None:
    """The local file of a WikiText-2 split, under the names its distributions use."""
    stem = _SPLIT_FILES[split]
    for base in (folder / WIKITEXT, folder):
        for name in (f"{stem}.txt", f"{stem}.txt.xz", f"wiki.{stem}.tokens", f"wiki.{stem}.raw"):
            if (base / name).is_file():
                return base / name
    return None


class Table:
    """A data set with a column of text, from the hub or a local file or folder.

    Args:
        name, config, revision: of the data set; a file is one split, whichever is asked for.
        column: whose texts are the documents.
    """

    def __init__(
        self,
        name: str,
        config: str | None,
        split: str,
        column: str = "text",
        revision: str | None = None,
    ):
        self.name, self.config, self.split = name, config, split
        self.column, self.revision = column, revision
        self.path = given_path(name)

    def documents(self) -> list[str]:
        """All of them.

        Raises:
            UserError: the table is not there, cannot be read, or has no such column.
        """
        rows = [row for row in self.rows() if isinstance(row, str)]
        if any(_TITLE.fullmatch(row.strip()) for row in rows):  # WikiText: a row is a line
            return wikitext_documents("\n".join(row.rstrip("\n") for row in rows))
        return [row.strip() for row in rows if row.strip()]

    def rows(self) -> list:
        """What the column holds; errors as those of `documents`."""
        with self._told(), tempfile.TemporaryDirectory() as cache:
            table = self._open(cache, keep_in_memory=self.path.exists())
            self._check(table.column_names)
            return list(table[self.column])

    def stream(self) -> Iterator[str]:
        """The same, a row at a time, of which no more are fetched than are taken; errors come then."""
        with self._told(), tempfile.TemporaryDirectory() as cache:
            rows = iter(self._open(cache, streaming=True))
            while (row := next(rows, None)) is not None:
                self._check(list(row))
                text = row[self.column]
                if isinstance(text, str) and _TITLE.fullmatch(text.strip()):
                    raise UserError(
                        f"data set {self.name} has a line of an article in each row, as WikiText; "
                        "leave out --streaming"
                    )
                if isinstance(text, str) and text.strip():
                    yield text.strip()

    def _open(self, cache: str, **how):
        """The table as the library has it; ``cache``: a folder for its copies and locks of what is on
        this machine already."""
        import datasets

        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are told below
        if not self.path.exists():
            ask_hub_once()
            how["revision"] = self.revision
            return datasets.load_dataset(self.name, self.config, split=self.split, **how)
        bars = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        how["cache_dir"] = cache
        try:
            if self.path.is_file():
                kind = _TABLE_FILES[self.path.suffix]
                return datasets.load_dataset(kind, data_files=str(self.path), split="train", **how)
            return datasets.load_dataset(str(self.path), self.config, split=self.split, **how)
        finally:
            if not bars:
                datasets.enable_progress_bars()

    def _check(self, columns: list[str]) -> None:
        if self.column not in columns:
            raise UserError(
                f"data set {self.name} has no column {self.column!r} (it has {', '.join(columns)}); "
                "give the one that is wanted with --text_column"
            )

    @contextlib.contextmanager
    def _told(self):
        """The library raises many kinds of errors; the user needs one sentence."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if self.path.exists() or (isinstance(error, ValueError) and "split" in str(error)):
                raise UserError(
                    f"cannot read the {self.split} split of data set {self.name}: "
                    f"{first_line(error)}; check the name and --dataset_config"
                ) from None
            raise UserError(
                f"cannot get data set {self.name!r} from the hub (unreachable, or no such data set); "
                "give a local .txt or .txt.xz file or folder, or --dataset_dir with the WikiText-2 "
                "files"
            ) from None


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
        dataset_dir: where ``wikitext-2`` is looked for before the hub is asked.
        column, config, revision: of a table.
        streaming: a table is read as its documents are taken, not at once.

    Raises:
        UserError: missing, unreadable, not UTF-8, or empty.
    """
    path = given_path(name)
    texts = _text_files(path) if path.is_dir() else []
    if name == WIKITEXT:
        documents = _wikitext(split, dataset_dir)
    elif path.is_file() and path.suffix not in _TABLE_FILES:
        documents = plain_documents(read_text(path))
    elif texts:
        documents = [d for file in texts for d in plain_documents(read_text(file))]
    elif not path.exists() and (
        path.suffix in {".txt", ".xz", *_TABLE_FILES} or name.startswith((".", "/", "~"))
    ):
        raise UserError(f"data set {name} does not exist; give a file, a folder or a hub name")
    else:
        table = Table(name, config, split, column, revision)
        if streaming:
            return table.stream()
        documents = table.documents()
    if not documents:
        raise UserError(f"data set {name} has no text in its {split} split; give another")
    return documents


def _wikitext(split: str, dataset_dir: str | None) -> list[str]:
    local = _wikitext_file(given_path(dataset_dir), split) if dataset_dir else None
    if local:
        return wikitext_documents(read_text(local))
    if dataset_dir:
        raise UserError(
            f"no WikiText-2 {split} file in {dataset_dir}; expected "
            f"{WIKITEXT}/{_SPLIT_FILES[split]}.txt or .txt.xz there"
        )
    return Table(*_HUB_WIKITEXT, split).documents()
