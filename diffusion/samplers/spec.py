"""A sampler and its options in one string, ``remdm:eta=0.02,remask=cap``. Imports no torch.

The options of a sampler are the described parameters of its constructor, most often fields:

    eta: Annotated[float, Range(0, 1), "probability of re-masking a token"] = 0.02

The checks, ``--list_samplers``, the tables in docs/ and the Python API read them from there.
"""

import inspect
import typing
from typing import NamedTuple

from diffusion.cli.checks import one_of, within
from diffusion.errors import UserError
from diffusion.samplers.catalog import ALIASES, OLD_FLAGS, SAMPLERS

SHARED = ("n_steps", "schedule")  # parameters that are flags of their own


class Range(NamedTuple):
    """The values of a number; ``most`` None: no upper bound."""

    least: float
    most: float | None = None


class Choices(dict):
    """The values of a word, and what each means; hashable, as `Annotated` needs it."""

    __hash__ = object.__hash__


class Option(NamedTuple):
    """One parameter of a sampler's constructor."""

    name: str
    kind: type  # int, float or str
    default: object
    help: str
    range: Range | None
    choices: dict[str, str]  # value -> what it means; empty: any value

    def read(self, text: str, flag: str):
        """The value that a user wrote as ``text`` after ``flag``, or a `UserError`."""
        if self.choices:
            return one_of(flag, text, self.choices)
        try:
            value = self.kind(text)
        except ValueError:
            kind = "whole number" if self.kind is int else "number"
            raise UserError(f"{flag} {text!r} is not a {kind}; give one") from None
        if self.range is not None:
            within(flag, value, *self.range)
        return value

    def describe(self) -> str:
        """One line for people: name, default, help, range."""
        default = "" if self.default is None else f"={self.default}"
        least, most = self.range or (None, None)
        bounds = "" if least is None else f", from {least:g}"
        bounds += "" if most is None else f" to {most:g}"
        return f"{self.name}{default}: {self.help}{bounds}"


def options_of(kind: type) -> dict[str, Option]:
    """The options of a sampler class by name: the parameters of its constructor that say what they
    are; the program sets others."""
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        notes = {type(note): note for note in getattr(parameter.annotation, "__metadata__", ())}
        if str in notes:
            value = parameter.annotation.__origin__
            found[name] = Option(
                name,
                next(t for t in (*typing.get_args(value), value) if t is not type(None)),
                None if parameter.default is parameter.empty else parameter.default,
                notes[str],
                notes.get(Range),
                notes.get(Choices, {}),
            )
    return found


def split(spec: str) -> tuple[str, dict[str, str]]:
    """The name in ``name:key=value,...``, and the options as they were written, or a `UserError`."""
    name, colon, rest = spec.partition(":")
    name = one_of("--sampler", ALIASES.get(name, name), SAMPLERS)
    own: dict[str, str] = {}
    for item in rest.split(",") if colon else ():
        key, _, value = (part.strip() for part in item.partition("="))
        if not (key and value):
            raise UserError(
                f"--sampler {spec}: {item!r} is not of the form option=value; write for example "
                "--sampler remdm:eta=0.02,remask=cap"
            )
        own[key] = value
    return name, own


def join(name: str, own: dict) -> str:
    """The inverse of `split`."""
    return name + ":" * bool(own) + ",".join(f"{key}={value}" for key, value in own.items())


def read_options(name: str, kind: type, own: dict[str, str]) -> dict:
    """The values of the options ``own`` of the sampler ``name``, as its class ``kind`` takes them, or
    a `UserError`."""
    known = {key: option for key, option in options_of(kind).items() if key not in SHARED}
    values = {}
    for key, text in own.items():
        flag = f"--sampler {name}:{key}"
        if key in SHARED:
            raise UserError(f"{flag}: {key} is a flag of its own; write --{key} {text}")
        if not known:
            raise UserError(f"{flag}: {name} has no options; leave it out")
        option = known[one_of(f"--sampler {name} option", key, known)]
        values[key] = option.read(text, flag)
    return values


# Flags of earlier versions: the sentence that names the new spelling.
GONE = {
    f"--{old}": f"--{old} is now an option of its sampler: write --sampler {new}=VALUE; --list_samplers has all of them"
    for old, new in OLD_FLAGS.items()
}
