"""Values against what the metadata of their options allows."""

import difflib
from collections.abc import Iterable
from dataclasses import fields

from diffusion.errors import UserError

MOST = 10**9  # of anything that is counted, where an option has no bound of its own


def check_values(options, names: Iterable[str] | None = None) -> None:
    """Refuse values outside the ``range`` or the ``choices`` of their fields; None is no value.

    Args:
        options: an instance of a dataclass.
        names: look at these fields alone.
    """
    for option in fields(options):
        value = getattr(options, option.name)
        if value is None or (names is not None and option.name not in names):
            continue
        if "choices" in option.metadata:
            one_of(f"--{option.name}", value, option.metadata["choices"])
        if "range" in option.metadata:
            within(f"--{option.name}", value, *option.metadata["range"])
        if "below" in option.metadata and not value < option.metadata["below"]:
            raise UserError(f"--{option.name} {value} must be below {option.metadata['below']}")


def at_least(flag: str, value: float, least: float) -> None:
    if not value >= least or value == float("inf"):  # "not >=" catches nan
        raise UserError(f"{flag} {value} must be a number of at least {least}")


def within(flag: str, value: float, least: float, most: float | None) -> None:
    if most is None and isinstance(value, int) and value > MOST:
        raise UserError(f"{flag} {value} must be at most {MOST}")
    if most is None:
        at_least(flag, value, least)
    elif not least <= value <= most:
        raise UserError(f"{flag} {value} must be a number from {least} to {most}")


def one_of(flag: str, value: str, names) -> str:
    if value in names:
        return value
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"{flag} {value!r} is unknown; {hint}use one of {', '.join(names)}")
