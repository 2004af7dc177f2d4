"""Text from files or from the hub -> documents -> packed blocks of token ids."""

import lzma
import re
import tempfile
from pathlib import Path

from diffusion.cli.files import given_path
from diffusion.errors import UserError, first_line
from diffusion.models.loading import ask_hub_once

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


def _table_documents(name: str, config: str | None, split: str) -> list[str]:
    """Documents of a data set with a ``text`` column, from the hub or a local file or folder."""
    import datasets

    path = given_path(name)
    try:
        if path.exists():
            with tempfile.TemporaryDirectory() as cache:  # the library insists on copying it
                table = _local_table(path, config, split, cache)
        else:
            ask_hub_once()
            table = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library raises many kinds; the user needs one sentence
        if path.exists() or (isinstance(error, ValueError) and "split" in str(error)):
            raise UserError(
                f"cannot read the {split} split of data set {name}: {first_line(error)}; check "
                "the name and --dataset_config"
            ) from None
        raise UserError(
            f"cannot get data set {name!r} from the hub (unreachable, or no such data set); give a "
            "local .txt or .txt.xz file or folder, or --dataset_dir with the WikiText-2 files"
        ) from None
    if "text" not in table.column_names:
        raise UserError(
            f"data set {name} has no column 'text' (it has {', '.join(table.column_names)}); "
            "rename the one that holds the text"
        )
    rows = [row for row in table["text"] if isinstance(row, str)]
    if any(_TITLE.fullmatch(row.strip()) for row in rows):  # WikiText: a row is a line of its file
        return wikitext_documents("\n".join(row.rstrip("\n") for row in rows))
    return [row.strip() for row in rows if row.strip()]


def _local_table(path: Path, config: str | None, split: str, cache: str):
    """A table from parquet, JSON lines or CSV; a file is one split, whichever is asked for."""
    import datasets

    quiet = {"cache_dir": cache, "keep_in_memory": True}
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if path.is_file():
            kind = _TABLE_FILES[path.suffix]
            return datasets.load_dataset(kind, data_files=str(path), split="train", **quiet)
        return datasets.load_dataset(str(path), config, split=split, **quiet)
    finally:
        if not bars:
            datasets.enable_progress_bars()


def load_documents(
    name: str, split: str = "train", dataset_dir: str | None = None, config: str | None = None
) -> list[str]:
    """The documents of a data set.

    Args:
        name: ``wikitext-2``, a ``.txt``/``.txt.xz`` file, a table with a ``text`` column (parquet,
            JSON lines, CSV), a folder of either, or a name on the hub.
        split: ``train``, ``validation`` or ``test``. A file or a folder of text is one split.
        dataset_dir: where ``wikitext-2`` is looked for before the hub is asked.

    Raises:
        UserError: missing, unreadable, not UTF-8, or empty.
    """
    path = given_path(name)
    if name == WIKITEXT:
        folder = given_path(dataset_dir) if dataset_dir else None
        local = _wikitext_file(folder, split) if folder else None
        if local:
            documents = wikitext_documents(read_text(local))
        elif dataset_dir:
            raise UserError(
                f"no WikiText-2 {split} file in {dataset_dir}; expected "
                f"{WIKITEXT}/{_SPLIT_FILES[split]}.txt or .txt.xz there"
            )
        else:
            documents = _table_documents(*_HUB_WIKITEXT, split)
    elif path.is_file() and path.suffix in _TABLE_FILES:
        documents = _table_documents(name, config, split)
    elif path.is_file():
        documents = plain_documents(read_text(path))
    elif path.is_dir() and _text_files(path):
        documents = [d for file in _text_files(path) for d in plain_documents(read_text(file))]
    elif path.is_dir():
        documents = _table_documents(name, config, split)
    elif path.suffix in {".txt", ".xz"} or name.startswith((".", "/", "~")):
        raise UserError(f"data set {name} does not exist; give a file, a folder or a hub name")
    else:
        documents = _table_documents(name, config, split)
    if not documents:
        raise UserError(f"data set {name} has no text in its {split} split; give another")
    return documents
