"""The rows of a scoreboard: what they are made of, what determines them, and where they are kept.

A row is one way of writing measured on one set of prompts. Its texts are kept under a key of
everything that determines them, its numbers under a key of that and of everything that measures
them, so a run that was stopped resumes, and other metrics need no new texts.
"""

import ast
import dataclasses
import difflib
import hashlib
import itertools
import json
import math
import tomllib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusion.cli.files import write_text
from diffusion.cli.reading import check_ending, named, read_text
from diffusion.errors import UserError, cause
from diffusion.options import GenerationOptions
from diffusion.samplers.catalog import OLD_FLAGS

ROOT = Path(__file__).resolve().parents[2]
VERSION = 2  # of the files; another number makes older ones unreadable

REAL, SHUFFLED, REPEATED = CONTROLS = "real text", "shuffled text", "repeated text"


@dataclass(frozen=True)
class Row:
    """One row: a model with its options, or one of `CONTROLS` with none."""

    model: str
    conditional: bool  # after prompts, or from nothing
    options: GenerationOptions | None = None

    def settings(self) -> dict:
        """The options that differ from the defaults, for tables; full attention is none."""
        if self.options is None:
            return {}
        default, given = (
            dataclasses.asdict(o.drawn()) for o in (GenerationOptions(), self.options)
        )
        if given["attention"] == "full":  # nothing to speak of
            default["attention"] = "full"
        return {name: value for name, value in given.items() if value != default[name]}


# ---------------------------------------------------------------- grids


@dataclass(frozen=True)
class Grid:
    """The rows of a file of settings."""

    tables: list[dict]  # see `expand`
    title: str = "Scoreboard"
    about: str = ""  # what the rows are to show


def read_grid(path: str) -> Grid:
    """A TOML file: ``title`` and ``about``, and ``[[row]]`` tables, each of which gets the
    ``[defaults]`` it does not replace."""
    try:
        check_ending(path, (".toml",), f"--settings {path}")
        with named("--settings"):
            data = tomllib.loads(read_text(Path(path)))
    except (ValueError, RecursionError) as error:  # not TOML, an integer without end
        raise UserError(f"--settings {path} is not TOML: {cause(error)}") from None
    tables, defaults = data.get("row"), data.get("defaults", {})
    words = {name: data[name] for name in ("title", "about") if name in data}
    unknown = set(data) - {"row", "defaults", *words}
    if unknown:
        raise UserError(f"--settings {path} has {sorted(unknown)[0]!r}; only title, about, "
                        "[defaults] and [[row]] tables may stand there")  # fmt: skip
    for name, value in words.items():
        if not isinstance(value, str):
            raise UserError(f"--settings {path}: {name} = {value!r} must be text in quotes")
    rows = isinstance(tables, list) and all(isinstance(table, dict) for table in tables)
    if not rows or not isinstance(defaults, dict) or not tables:
        raise UserError(f"--settings {path} has no [[row]] table; give at least one")
    return Grid([{**defaults, **table} for table in tables], **words)


def expand(tables: Sequence[dict], models: Sequence[str]) -> list[Row]:
    """The rows of a grid: a list as a value makes a row of each of its elements.

    Args:
        tables: ``model`` (default: each of ``models``), ``conditional`` (default true) and any
            field of `GenerationOptions`.

    Raises:
        UserError: an unknown field, a value of another type, no or an empty list.
    """
    fields = _field_types()
    rows = []
    for number, table in enumerate(tables, start=1):
        where = f"row {number} of the settings"
        for name in table:
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"use {', '.join(fields)}"
                raise UserError(f"{where} has the unknown field {name!r}; {hint}")
        full = {"model": list(models), "conditional": True, **table}
        values = [value if isinstance(value, list) else [value] for value in full.values()]
        for name, choices in zip(full, values, strict=True):
            for value in choices:
                _check_type(where, name, value, fields[name])
            if not choices:
                raise UserError(f"{where} has no value for {name!r}; give at least one")
        for combination in itertools.product(*values):
            chosen = dict(zip(full, combination, strict=True))
            model, conditional = chosen.pop("model"), chosen.pop("conditional")
            rows.append(Row(model, conditional, GenerationOptions.from_dict(chosen)))
    return rows


def _field_types() -> dict[str, tuple[type, ...]]:
    hints = typing.get_type_hints(GenerationOptions)
    types_of = {"model": (str,), "conditional": (bool,)}
    for field in dataclasses.fields(GenerationOptions):
        hint = hints[field.name]
        union = isinstance(hint, types.UnionType)
        members = typing.get_args(hint) if union else (hint,)
        types_of[field.name] = tuple(t for t in members if t is not type(None))
    return types_of | dict.fromkeys(OLD_FLAGS, (str, int, float))


def _check_type(where: str, name: str, value, allowed: tuple[type, ...]) -> None:
    number = float in allowed and type(value) is int  # temperature = 1
    plain = tuple(t for t in allowed if isinstance(t, type))
    if plain and type(value) not in plain and not number:
        wanted = " or ".join(t.__name__ for t in plain)
        raise UserError(f"{where}: {name} = {value!r} must be of type {wanted}")


# ---------------------------------------------------------------- keys


def digest(value) -> str:
    """A hash of anything that JSON can write, the same in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def model_digest(model, tokenizer) -> str:
    """A hash of all weights, the configuration and the tokenizer, wherever they came from."""
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().to("cpu").contiguous().flatten()
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(flat.view(torch.uint8).numpy())
    config = {k: v for k, v in model.config.to_dict().items() if not k.startswith("_")}
    total.update(json.dumps(config, sort_keys=True, default=str).encode())
    vocabulary = sorted(tokenizer.get_vocab().items())
    total.update(json.dumps(vocabulary).encode())
    return total.hexdigest()[:20]


def code_digest(*modules: str) -> str:
    """A hash of the source of modules, by name (``diffusion.generate``, ``studies.board.scorer``),
    and of all that they import from the same two packages.

    Raises:
        ValueError: there is no such module. A hash of nothing would never change.
    """
    seen: dict[str, str] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if not path.is_file():
            raise ValueError(f"there is no module {name} in {ROOT}")
        seen[name] = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(seen[name])):
            if isinstance(node, ast.ImportFrom) and node.module.startswith(
                ("diffusion", "studies.")
            ):
                if ROOT.joinpath(*node.module.split(".")).is_dir():  # a package: modules of it
                    todo += [f"{node.module}.{alias.name}" for alias in node.names]
                else:
                    todo.append(node.module)
    return digest(seen)


def check_distinct(keys: Sequence[str], names: Sequence[str]) -> None:
    """Refuse two rows that would measure the same."""
    seen: dict[str, int] = {}
    for i, key in enumerate(keys):
        if key in seen:
            raise UserError(
                f"rows {seen[key] + 1} and {i + 1} of the settings are the same ({names[i]}); "
                "remove one, or give it another seed"
            )
        seen[key] = i


# ---------------------------------------------------------------- files


class Store:
    """The folder of a scoreboard: ``generations/KEY.jsonl`` and ``rows/KEY.json``, each there
    whole or not at all."""

    def __init__(self, folder: Path):
        self.folder = folder

    def texts_path(self, key: str) -> Path:
        return self.folder / "generations" / f"{key}.jsonl"

    def row_path(self, key: str) -> Path:
        return self.folder / "rows" / f"{key}.json"

    def has_texts(self, key: str) -> bool:
        return self.texts_path(key).exists()

    def has_row(self, key: str) -> bool:
        return self.row_path(key).exists()

    def write_texts(self, key: str, samples: Sequence[dict]) -> None:
        self._write(self.texts_path(key), samples)

    def read_texts(self, key: str, number: int) -> list[dict]:
        """The samples of a file of generations.

        Raises:
            UserError: empty, damaged, or not ``number`` texts.
        """
        path = self.texts_path(key)
        again = "delete it, and its texts are written again"
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
            samples = [json.loads(line) for line in lines if line.strip()]
            if not samples:
                raise UserError(f"the generations file {path} is empty; {again}")
            for sample in samples:
                _check_sample(sample)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"the generations file {path} is damaged; {again}") from None
        if len(samples) != number:
            raise UserError(f"the generations file {path} has {len(samples)} texts, {number} are "
                            f"expected; {again}")  # fmt: skip
        return samples

    def write_row(self, key: str, row: dict) -> None:
        check = digest(json.loads(json.dumps(row)))  # as it will be read
        row = {"version": VERSION, "check": check, **row}
        self._write(self.row_path(key), [row])

    @staticmethod
    def _write(path: Path, lines: Sequence[dict]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in lines))

    def read_row(self, key: str) -> dict:
        """A row, or an entry of the likelihoods, as it was written.

        Raises:
            UserError: damaged, or of another version.
        """
        path = self.row_path(key)
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            version = row.pop("version")
            row.pop("asked", None)  # of older rows
            check = row.pop("check", None)  # older rows have none
            if check is not None and check != digest(row):
                raise ValueError("it was changed")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(f"the row {path} is damaged; delete it, and it is measured again") from None  # fmt: skip
        if version != VERSION:
            raise UserError(
                f"the row {path} is of version {version!r}, and this program writes version "
                f"{VERSION}; delete it, or use another --output_dir"
            )
        return row

    def misfits(self, keys: Sequence[str]) -> str | None:
        """A sentence on the stored rows that none of ``keys`` finds, if some of these are missing."""
        stored = {path.stem for path in (self.folder / "rows").glob("*.json")}
        missing, others = set(keys) - stored, stored - set(keys)
        if not missing or not others:
            return None
        return (
            f"{len(others)} of {len(stored)} stored rows in {self.folder} do not fit, because the "
            "program, its libraries, the settings or the machine changed since; "
            f"{len(missing)} are measured again"
        )


def _check_sample(sample: dict) -> None:
    """Refuse a text of a store with ValueError, KeyError or TypeError."""
    numbers = [*sample["ids"], sample["nfe"]]
    fine = isinstance(sample["ids"], list) and all(
        type(n) is int and 0 <= n < 2**31 for n in numbers
    )
    fine &= all(isinstance(sample[name], str) for name in ("text", "prompt"))
    fine &= type(sample["finished"]) is bool and 0 <= sample["seconds"] < math.inf
    if not fine:
        raise ValueError("a value of another kind")
    (sample["text"] + sample["prompt"]).encode("utf-8")
