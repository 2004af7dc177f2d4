"""The flags of a run in a file: TOML or YAML, a line a flag. Imports nothing heavy."""

import json
import sys
import tomllib

import yaml

from diffusion.cli.files import given_path
from diffusion.errors import UserError

ENDINGS = (".toml", ".yaml", ".yml")


def read_recipe() -> None:
    """Replace the file that the command line begins with by the flags it holds, which are then read
    as if they were typed; flags that are typed after it win.

    Raises:
        UserError: there is no such file, or it holds no flags.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "-"
    if name.startswith("-"):
        return
    path = given_path(name)
    if path.suffix not in ENDINGS:
        raise UserError(
            f"{name!r} is neither a flag nor a recipe; a recipe is a file of flags that ends in "
            f"{', '.join(ENDINGS)}"
        )
    try:
        text = path.read_bytes().decode()
        found = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"cannot read the recipe {name}: {error.strerror}") from None
    # Text that is nested deeply ends the parsers so.
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"the recipe {name} is damaged: {why}") from None
    if not isinstance(found, dict):
        raise UserError(f"the recipe {name} has no flags; write lines such as 'max_steps = 100'")
    sys.argv[1:2] = [word for flag, value in found.items() for word in _words(flag, value)]


def _words(name: str, value) -> list[str]:
    """The words of the command line for a flag and its value."""
    if value is None:
        return []
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"]
