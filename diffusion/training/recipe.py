"""The flags of a run in a file: TOML or YAML, a line a flag. Imports nothing heavy."""

import difflib
import json
import re
import sys
import tomllib
import typing
from collections.abc import Iterable
from dataclasses import fields
from enum import Enum

import yaml

from diffusion.cli.files import given_path, read_bytes
from diffusion.cli.flags import kinds_of
from diffusion.errors import UserError

ENDINGS = (".toml", ".yaml", ".yml")


class _Yaml(yaml.SafeLoader):
    """YAML whose 1e-3 is a number, as in YAML 1.2, and not text."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+"), list("-+0123456789")
)


def read_recipe() -> dict:
    """The flags by name of the file that the command line begins with; empty where it begins with
    a flag.

    Raises:
        UserError: there is no such file, or it holds no flags.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "-"
    if name.startswith("-"):
        return {}
    path = given_path(name)
    if path.suffix not in ENDINGS:
        raise UserError(
            f"{name!r} is neither a flag nor a recipe; a recipe is a file of flags that ends in "
            f"{', '.join(ENDINGS)}"
        )
    try:
        text = read_bytes(path).decode()
        found = tomllib.loads(text) if path.suffix == ".toml" else yaml.load(text, _Yaml)
    except OSError as error:
        raise UserError(f"cannot read the recipe {name}: {error.strerror}") from None
    # Text that is nested deeply ends the parsers so.
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"the recipe {name} is damaged: {why}") from None
    if not isinstance(found, dict):
        raise UserError(f"the recipe {name} has no flags; write lines such as 'max_steps = 100'")
    return found


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text (in quotes)",
    list: "a list of texts",
    dict: "a table",
}


def expand(recipe: dict, groups: Iterable[type]) -> None:
    """Put the flags of a recipe in its place on the command line; flags that are typed after them win.

    Args:
        groups: the dataclasses of all flags.

    Raises:
        UserError: an unknown flag (with the nearest name), or a value of another kind.
    """
    if not recipe:
        return
    hints = {name: hint for group in groups for name, hint in typing.get_type_hints(group).items()}
    known = {
        field.name: hints[field.name] for group in groups for field in fields(group) if field.init
    }
    words = []
    for name, value in recipe.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            raise UserError(
                f"the recipe {sys.argv[1]} has {name!r}, which is not a flag; "
                + (f"did you mean {near[0]}?" if near else "see --help and --help_all")
            )
        words += _words(name, value, known[name])
    sys.argv[1:2] = words


def _words(name: str, value, hint) -> list[str]:
    """The words of the command line for a flag of the type ``hint``."""
    if value is None:
        return []
    kinds = {str if issubclass(kind, Enum) else kind for kind in kinds_of(hint)}
    if list in kinds:  # or one text alone
        kinds |= {str}
    fits = type(value) in kinds or (type(value) is int and float in kinds)
    if isinstance(value, list):
        fits = fits and bool(value) and all(isinstance(x, str) for x in value)
    try:
        shown = json.dumps(value)
    except (TypeError, ValueError):  # a date, for example
        shown = str(value)
    if not fits:
        allowed = " or ".join(_NAMES[kind] for kind in _NAMES if kind in kinds)
        raise UserError(f"the recipe {sys.argv[1]} has {name} = {shown}, which must be {allowed}")
    if isinstance(value, list):
        return [f"--{name}", *value]
    return [f"--{name}={value if isinstance(value, str) else shown}"]
