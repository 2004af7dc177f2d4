"""Dataclasses of options -> command-line flags, the same way in every script."""

import argparse
import copy
import difflib
import sys
from collections.abc import Iterable, Sequence

from diffusion.errors import UserError

# Metadata of a field that `options.check_values` and lists of flags read, and argparse does not know.
_CHECKED = ("range", "below", "choices", "owners", "shared", "rare")


def parse_flags(
    dataclasses: Iterable[type], description: str, prompt_help: str | None = None
) -> list:
    """One filled instance of each dataclass, then the positional prompt (or None) if
    ``prompt_help`` describes one.

    Raises:
        UserError: unknown flag (with the nearest name), missing or malformed value.
    """
    from transformers import HfArgumentParser  # a second to import; it does not import torch

    class Parser(HfArgumentParser):
        @staticmethod
        def _parse_dataclass_field(parser, option):
            known = {k: v for k, v in option.metadata.items() if k not in _CHECKED}
            option = copy.copy(option)
            option.metadata = known
            HfArgumentParser._parse_dataclass_field(parser, option)

        def error(self, message: str):
            raise UserError(f"{message}; see --help")

    parser = Parser(
        dataclasses, description=description, allow_abbrev=False, formatter_class=_Formatter
    )
    if prompt_help is not None:
        parser.add_argument("prompt", nargs="?", help=prompt_help)
    for argument in sys.argv[1:]:
        # Which argparse takes for the end of all flags.
        if argument.startswith("--") and argument.endswith("=--"):
            raise UserError(f"{argument[:-3]} has the value '--', which is none; see --help")
    arguments = list(_with_explicit_booleans(parser, sys.argv[1:]))
    *filled, unknown = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        name = unknown[0].split("=")[0]
        near = difflib.get_close_matches(name, flags, n=1)
        if not name.startswith("-"):
            raise UserError(f"{name!r} is one argument too many; put a prompt of several words "
                            "in quotes")  # fmt: skip
        raise UserError(
            f"unknown flag {name}; " + (f"did you mean {near[0]}?" if near else "see --help")
        )
    if prompt_help is not None:
        filled[-1] = filled[-1].prompt
    return filled


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """`--interpolate A B` where the values have names, and for `--no_live` what it does; argparse
    would write `A [B ...]`, HfArgumentParser repeat the help of `--live`."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if isinstance(action.metavar, tuple):
            return " ".join(action.metavar)
        return super()._format_args(action, default_metavar)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action, argparse._StoreFalseAction):
            return f"Turn --{action.dest} off."
        return super()._get_help_string(action)


def _with_explicit_booleans(parser: argparse.ArgumentParser, arguments: Sequence[str]):
    """``--json PROMPT`` as ``--json=true PROMPT``: a flag that may take true or false would
    otherwise swallow the prompt. A flag that may take other values, as --fsdp full_shard, is left."""
    from transformers.hf_argparser import string_to_bool

    optional = {
        flag
        for action in parser._actions
        if action.type is string_to_bool and action.nargs == "?"
        for flag in action.option_strings
    }
    values = {"yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"}
    literal = False  # everything after "--"
    for i, argument in enumerate(arguments):
        literal = literal or argument == "--"
        following = arguments[i + 1].lower() if i + 1 < len(arguments) else ""
        bare = argument in optional and following not in values and not literal
        yield f"{argument}=true" if bare else argument
