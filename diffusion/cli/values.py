"""Values against what the metadata of their options allows."""

import difflib
import sys
from dataclasses import fields

from diffusion.errors import UserError

MOST = 10**9  # of anything that is counted, where an option has no bound of its own


def check_values(options) -> None:
    """Refuse values of a dataclass outside the ``range``, the ``choices`` or not ``below`` what their
    fields name; None is no value."""
    for option in fields(options):
        value = getattr(options, option.name)
        if value is None:
            continue
        if "choices" in option.metadata:
            one_of(f"--{option.name}", value, option.metadata["choices"])
        if "range" in option.metadata:
            within(f"--{option.name}", value, *option.metadata["range"])
        if "below" in option.metadata and not value < option.metadata["below"]:
            raise UserError(f"--{option.name} {value} must be below {option.metadata['below']}")


def within(flag: str, value: float, least: float, most: float | None) -> None:
    if most is None and isinstance(value, int) and value > MOST:
        raise UserError(f"{flag} {value} must be at most {MOST}")
    if not least <= value <= (sys.float_info.max if most is None else most):  # nor nan
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(f"{flag} {value} must be a number {allowed}")


def one_of(flag: str, value: str, names) -> str:
    if value in names:
        return value
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"{flag} {value!r} is unknown; {hint}use one of {', '.join(names)}")
