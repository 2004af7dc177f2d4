"""Dataclasses of options -> command-line flags and their help, the same way in every script.

The metadata of a field holds ``help``; ``group``, its heading in the help (else the first line of the
class); ``rare`` where only ``--help_all`` lists it; ``metavar``, the name of its value; ``nargs``,
``const`` and ``action`` of argparse; and what `values.check_values` reads.
"""

import argparse
import difflib
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from enum import Enum

from diffusion.errors import UserError

TRUTHS = {
    **dict.fromkeys(("yes", "true", "t", "y", "1"), True),
    **dict.fromkeys(("no", "false", "f", "n", "0"), False),
}
# Headings of the help, in their order; those of other classes follow.
TEXT, WRITTEN, SHOWN, MODEL = "The text", "How it is written", "What is shown", "The model"
HEADINGS = (TEXT, WRITTEN, SHOWN, MODEL)
COLUMN, WIDTH = 30, 100  # where the help of a flag begins and ends


def flag(default, help: str, **metadata):
    """A field of a dataclass of options."""
    return field(default=default, metadata={"help": help, **metadata})


def parse_flags(
    classes: Sequence[type],
    description: str | None,
    prompt_help: str | None = None,
    gone: Mapping[str, str] = types.MappingProxyType({}),
) -> list:
    """One filled instance of each dataclass, then the positional prompt (or None) if
    ``prompt_help`` describes one. ``--help`` and ``--help_all`` are answered here.

    Args:
        description: the docstring of the script.
        gone: flags of earlier versions, with the sentence that names the new spelling.

    Raises:
        UserError: an unknown flag, a missing or malformed value.
    """
    words = sys.argv[1:]
    asked = words[: words.index("--")] if "--" in words else words
    if {"-h", "--help", "--help_all"} & set(asked):
        print(help_text(classes, description, prompt_help, everything="--help_all" in asked))
        sys.exit(0)
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    truths = set()  # flags that may stand alone, as true
    for owner in classes:
        hints = typing.get_type_hints(owner)
        for option in (option for option in fields(owner) if option.init):
            if _add(parser, option, kinds_of(hints[option.name])):
                truths.add(f"--{option.name}")
    if prompt_help is not None:
        parser.add_argument("prompt", nargs="?", default=None)
    found, unknown = parser.parse_known_args(list(_spelled(words, truths)))
    for word in unknown:
        if (name := word.split("=")[0]) in gone:
            raise UserError(gone[name])
    if unknown:
        near = difflib.get_close_matches(unknown[0].split("=")[0], parser.flags, n=1, cutoff=0.8)
        advice = f"did you mean {near[0]}?" if near else "see --help"
        if not unknown[0].startswith("-"):
            advice = "put a text of several words in quotes"
        parser.error(f"unrecognized arguments: {' '.join(unknown)}", advice)
    given = vars(found)
    filled = [
        owner(**{f.name: given[f.name] for f in fields(owner) if f.name in given})
        for owner in classes
    ]
    return filled if prompt_help is None else [*filled, found.prompt]


class _Parser(argparse.ArgumentParser):
    @property
    def flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings]

    def error(self, message: str, advice: str = "see --help"):
        raise UserError(f"{message}; {advice}")


def _add(parser: argparse.ArgumentParser, option: Field, kinds: set[type]) -> bool:
    """Add the flag of a field; whether it may stand alone, as true."""
    name = option.name
    if bool in kinds:
        parser.add_argument(f"--no_{name}", action="store_false", dest=name)
        parser.add_argument(f"--{name}", type=_truth, nargs="?", const=True)
        return True
    kind = next((kind for kind in (float, int) if kind in kinds), str)
    how = {"nargs": "+"} if list in kinds and str not in kinds else {}
    for names in (k for k in kinds if isinstance(k, type) and issubclass(k, Enum)):
        how["choices"] = [name.value for name in names]
    how |= {k: option.metadata[k] for k in ("nargs", "const", "action") if k in option.metadata}
    parser.add_argument(f"--{name}", type=kind, **how)
    return False


def kinds_of(hint) -> set[type]:
    """The types that a value may have by a type hint; of a list `list` alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return set().union(*map(kinds_of, typing.get_args(hint)))
    return {typing.get_origin(hint) or hint}


def _truth(word: str) -> bool:
    if word.lower() not in TRUTHS:
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return TRUTHS[word.lower()]


def _spelled(words: Sequence[str], truths: set[str]) -> Iterator[str]:
    """The words with flags as argparse knows them: ``--num-samples`` is ``--num_samples``, and
    ``--json PROMPT`` is ``--json=true PROMPT``, since the flag would otherwise take the prompt."""
    for i, word in enumerate(words):
        if word == "--":
            yield from words[i:]
            return
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            if value == "--":  # which argparse takes for the end of all flags
                raise UserError(f"{name} has the value '--', which is none; see --help")
            word = name.replace("-", "_").replace("__", "--", 1) + equals + value
        bare = word in truths and (i + 1 == len(words) or words[i + 1].lower() not in TRUTHS)
        yield f"{word}=true" if bare else word


# ---------------------------------------------------------------- help


def help_text(
    classes: Iterable[type], description: str | None, prompt_help: str | None, everything: bool
) -> str:
    """The description, then the flags with their defaults in groups.

    Args:
        everything: rare flags, too, and all that the help of a flag says, not its first sentence.
    """
    groups: dict[str, list[str]] = {heading: [] for heading in HEADINGS}
    for owner in classes:
        documented = owner.__doc__ and not owner.__doc__.startswith(f"{owner.__name__}(")
        title = owner.__doc__.split("\n")[0].rstrip(".:") if documented else owner.__name__
        hints = typing.get_type_hints(owner)
        for option in fields(owner):
            if option.init and (everything or not option.metadata.get("rare")):
                group = groups.setdefault(option.metadata.get("group", title), [])
                group += _lines(option, kinds_of(hints[option.name]), everything)
    if prompt_help is not None:
        groups[TEXT][:0] = _columns("  PROMPT", prompt_help)
    lines = [(description or "").strip()]
    for title, flags in groups.items():
        lines += ["", f"{title}:", *flags] if flags else []
    return "\n".join([*lines, "" if everything else "\n--help_all lists all flags."]).rstrip()


def _lines(option: Field, kinds: set[type], everything: bool) -> list[str]:
    """The help of one flag."""
    default = option.default if option.default_factory is MISSING else option.default_factory()
    text = option.metadata.get("help", "")
    text = text if everything or ". " not in text else text.split(". ")[0] + "."
    if default is True:
        return _columns(f"  --no_{option.name}", option.metadata.get("off", f"Turn off: {text}"))
    name = f"  --{option.name}"
    if bool not in kinds:
        metavar = option.metadata.get("metavar") or _metavar(kinds)
        name += f" {' '.join(metavar) if isinstance(metavar, tuple) else metavar}"
    default = " ".join(default) if isinstance(default, list) else getattr(default, "value", default)
    shown = "" if default in (None, "") or default is False else f" [{default}]"
    return _columns(name, text + shown)


def _metavar(kinds: set[type]) -> str:
    return "X" if float in kinds else "N" if int in kinds else "TEXT" if list in kinds else "NAME"


def _columns(name: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH - COLUMN, break_on_hyphens=False) or [""]
    if len(name) > COLUMN - 2:
        return [name, *(f"{'':{COLUMN}}{line}" for line in lines)]
    return [f"{name:{COLUMN}}{lines[0]}".rstrip(), *(f"{'':{COLUMN}}{line}" for line in lines[1:])]
