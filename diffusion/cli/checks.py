"""What options may be: values against the metadata of their fields, and combinations that mean nothing
as tables that scripts, tests and docs share."""

import difflib
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import NamedTuple

from diffusion.errors import UserError

MOST = 10**9  # of anything that is counted, where an option has no bound of its own


def check_values(options) -> None:
    """Refuse values of a dataclass outside the ``range``, the ``choices`` or not ``below`` what their
    fields name; None is no value."""
    for option in fields(options):
        value, flag = getattr(options, option.name), f"--{option.name}"
        if value is None:
            continue
        if "choices" in option.metadata:
            one_of(flag, value, option.metadata["choices"])
        if "range" in option.metadata:
            within(flag, value, *option.metadata["range"])
        if "below" in option.metadata and not value < option.metadata["below"]:
            raise UserError(f"{flag} {value} must be below {option.metadata['below']}")


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


class Conflict(NamedTuple):
    """One combination that is refused."""

    flags: str  # what the user typed, as docs list it: "--guidance with --unconditional"
    applies: Callable[[SimpleNamespace], object]  # all options by name -> whether it is given
    sentence: str  # a format string over the same names: "--guidance {guidance} needs a prompt"


def clash(one: str, other: str, sentence: str) -> Conflict:
    """Two options that exclude each other, by the names of their flags; `prompt` is the argument."""
    flags = " with ".join("PROMPT" if name == "prompt" else f"--{name}" for name in (one, other))
    return Conflict(flags, lambda o: {one, other} <= o.given, sentence)


def _given(flag: str, o) -> bool:
    """Whether a flag is given; whether ``--flag value`` has, or lists, that value."""
    name, _, value = flag.removeprefix("--").partition(" ")
    if not value or value.startswith("{"):
        return name in o.given
    found = getattr(o, name)
    return value in found if isinstance(found, list) else found == value


def conflict(flags: str, why: str) -> Conflict:
    """``--a with --b``, ``--a without --b`` or ``--a --b without --c``, and why, of --a."""
    left, word, other = re.split(" (with|without) ", flags)
    ours = [f"--{flag.strip()}" for flag in left.split("--")[1:]]
    end = f"leave out {other}" if word == "with" else f"add {other}, or leave out {ours[-1]}"

    def applies(o) -> bool:
        return all(_given(flag, o) for flag in ours) and _given(other, o) == (word == "with")

    return Conflict(flags, applies, f"{ours[0]} {why}; {end}")


def check_conflicts(conflicts: Iterable[Conflict], *options, **more) -> None:
    """Refuse the first conflict that applies, by a `UserError`.

    It may read the values of all options by name (the fields of ``options``, and ``more``, such as the
    prompt) and ``given``: the names of the flags whose values are not the defaults, such as ``sampler``
    or, for a switch turned off, ``no_cache``; of ``more`` what is neither None nor False.
    """
    given = {name for name, value in more.items() if value is not None and value is not False}
    values = {}
    for group in options:
        for option in fields(group):
            made = option.default_factory is not MISSING
            default = option.default_factory() if made else option.default
            values[option.name] = getattr(group, option.name)
            if values[option.name] != default:
                given.add(f"no_{option.name}" if default is True else option.name)
    values |= more  # what is known from elsewhere, such as the noise of the model, counts
    found = SimpleNamespace(**values, given=given)
    for conflict in conflicts:
        if conflict.applies(found):
            raise UserError(conflict.sentence.format(**values))
