"""Dataclasses of options -> command-line flags and their help, the same way in every script.

The metadata of a field holds ``help``; ``group``, its heading in the help (else the first line of the
class); ``rare`` where only ``--help_all`` lists it; ``off``, the help of ``--no_NAME``; ``metavar``, the
name of its value; ``nargs`` and ``action`` of argparse; and what `checks.check_values` reads.
"""

import argparse
import difflib
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from enum import Enum

from diffusion.errors import UserError

TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
# Headings of the help, in their order; those of other classes follow.
TEXT, WRITTEN, SHOWN, MODEL = "The text", "How it is written", "What is shown", "The model"


def flag(default, help: str, **metadata):
    """A field of a dataclass of options."""
    metadata = {"help": help, **metadata}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


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
    before = words[: words.index("--")] if "--" in words else words
    everything = "--help_all" in before
    parser = _parser(classes, description, prompt_help, everything)
    if everything or {"-h", "--help"} & set(before):
        print(parser.format_help().rstrip())
        sys.exit(0)
    given = _read(parser, words, gone)
    filled = [
        owner(**{f.name: given[f.name] for f in fields(owner) if f.name in given})
        for owner in classes
    ]
    return filled if prompt_help is None else [*filled, given["prompt"]]


def read_flags(classes: Iterable[type], words: Sequence[str]) -> dict:
    """The values of the flags in ``words``, by name; errors as of `parse_flags`."""
    return _read(_parser(classes, None, None, everything=True), words, {})


def help_text(classes: Iterable[type], description: str) -> str:
    """What ``--help`` prints."""
    return _parser(classes, description, None, everything=False).format_help().rstrip()


def _read(parser: "_Parser", words: Sequence[str], gone: Mapping[str, str]) -> dict:
    flags = parser._option_string_actions
    truths = {name for name, action in flags.items() if action.type is _truth}
    found, unknown = parser.parse_known_args(list(_spelled(words, truths)))
    if unknown:
        word = unknown[0].split("=")[0]
        near = difflib.get_close_matches(word, flags, n=1, cutoff=0.8)
        advice = f"did you mean {near[0]}?" if near else "see --help"
        if not word.startswith("-"):
            advice = "put a text of several words in quotes"
        message = f"unrecognized arguments: {' '.join(unknown)}; {advice}"
        raise UserError(gone.get(word, message))
    return vars(found)


class _Help(argparse.RawDescriptionHelpFormatter):
    def _format_action_invocation(self, action) -> str:
        words = [action.metavar] if isinstance(action.metavar, str) else action.metavar or []
        return " ".join([*action.option_strings[:1], *words]).rstrip() or "PROMPT"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message}; see --help")


def _parser(
    classes: Iterable[type], description: str | None, prompt_help: str | None, everything: bool
) -> _Parser:
    """The parser; ``everything``: its help has rare flags and more than the first sentence of each."""
    parser = _Parser(
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        usage=argparse.SUPPRESS,
        description=(description or "").strip(),
        epilog="" if everything else "--help_all lists all flags.",
        formatter_class=lambda prog: _Help(prog, max_help_position=30, width=100),
    )
    groups = {title: parser.add_argument_group(title) for title in (TEXT, WRITTEN, SHOWN, MODEL)}
    if prompt_help is not None:
        groups[TEXT].add_argument("prompt", nargs="?", default=None, help=prompt_help)
    for owner in classes:
        heading = (owner.__doc__ or "").split("\n")[0].rstrip(".:")
        hints = typing.get_type_hints(owner)
        for option in (option for option in fields(owner) if option.init):
            title = option.metadata.get("group", heading)
            if title not in groups:
                groups[title] = parser.add_argument_group(title)
            _add(groups[title], option, kinds_of(hints[option.name]), everything)
    return parser


def _add(group, option: Field, kinds: set[type], everything: bool) -> None:
    """Add the flag of a field; of a truth also ``--no_NAME``, which the help lists if it is on."""
    default = option.default if option.default_factory is MISSING else option.default_factory()
    name, text = option.name, option.metadata.get("help", "")
    text = text if everything or ". " not in text else text.split(". ")[0] + "."
    if default is True:
        text = option.metadata.get("off", f"Turn off: {text}")
    elif default not in (None, False, ""):
        shown = " ".join(default) if isinstance(default, list) else default
        text += f" [{getattr(shown, 'value', shown)}]"
    hidden, listed = argparse.SUPPRESS, everything or not option.metadata.get("rare")
    text = text.strip().replace("%", "%%") if listed else hidden
    if bool in kinds:
        on, off = (hidden, text) if default is True else (text, hidden)
        group.add_argument(f"--no_{name}", action="store_false", dest=name, help=off)
        group.add_argument(f"--{name}", type=_truth, metavar="", help=on)
        return
    kind = next((kind for kind in (float, int) if kind in kinds), str)
    names = {float: "X", int: "N", str: "TEXT" if list in kinds else "NAME"}
    how = {"nargs": "+"} if list in kinds and str not in kinds else {}
    for values in (k for k in kinds if isinstance(k, type) and issubclass(k, Enum)):
        how["choices"] = [value.value for value in values]
    how |= {k: option.metadata[k] for k in ("nargs", "action", "metavar") if k in option.metadata}
    group.add_argument(f"--{name}", **{"type": kind, "metavar": names[kind], "help": text, **how})


def kinds_of(hint) -> set[type]:
    """The types that a value may have by a type hint; of a list `list` alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return set().union(*map(kinds_of, typing.get_args(hint)))
    return {typing.get_origin(hint) or hint}


def _truth(word: str) -> bool:
    if word.lower() not in TRUE + FALSE:
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return word.lower() in TRUE


def _spelled(words: Sequence[str], truths: set[str]) -> Iterator[str]:
    """The words with ``--json PROMPT`` as ``--json=true PROMPT``: the flag would take the prompt."""
    for i, word in enumerate(words):
        if word == "--":
            yield from words[i:]
            return
        bare = word in truths and (i + 1 == len(words) or words[i + 1].lower() not in TRUE + FALSE)
        yield f"{word}=true" if bare else word
