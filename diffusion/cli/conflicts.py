"""Combinations of options that mean nothing, as tables that scripts, tests and docs share."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from types import SimpleNamespace
from typing import NamedTuple

from diffusion.errors import UserError


class Conflict(NamedTuple):
    """One combination that is refused."""

    flags: str  # what the user typed, as docs list it: "--guidance with --unconditional"
    applies: Callable[[SimpleNamespace], object]  # all options by name -> whether it is given
    sentence: (
        str  # a format string over the same names: "--guidance {guidance} needs a prompt; ..."
    )


def check_conflicts(conflicts: Iterable[Conflict], *options, **more) -> None:
    """Refuse the first conflict that applies.

    Args:
        options: instances of dataclasses, whose fields the conflicts read by name.
        more: further values by name, such as the prompt.

    Raises:
        UserError: the sentence of that conflict.
    """
    given = {f.name: getattr(o, f.name) for o in options for f in fields(o)} | more
    for conflict in conflicts:
        if conflict.applies(SimpleNamespace(**given)):
            raise UserError(conflict.sentence.format(**given))


def alone(name: str, owners: Iterable[type], allowed: Collection[str], why: str) -> list[Conflict]:
    """One conflict for each option of the dataclasses ``owners`` that does not go with --``name``: all
    but the ``allowed`` ones."""
    return [
        Conflict(
            f"--{name} with --{option.name}",
            lambda o, f=option: getattr(o, name) is not None and getattr(o, f.name) != f.default,
            f"{why}; leave out --{option.name} {{{option.name}}}",
        )
        for owner in owners
        for option in fields(owner)
        if option.name not in allowed
    ]
