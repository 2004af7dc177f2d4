"""What the studies share: their flags, tasks that are timed in turns, and one form of results.

A result is a JSON object with the name of its ``study``, the machine and library versions
(`hardware.record`), the flags as ``options``, and ``results``, a list of rows. A number that varies
over rounds is there twice: as the median (``seconds``) and as ``[least, most]`` (``seconds_range``).
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from diffusion import hardware
from diffusion.cli.checks import within
from diffusion.cli.console import say
from diffusion.cli.files import check_file, write_text

FLAGS = {
    "model": {"default": "roberta-small-wikitext", "help": "a masked language model"},
    "baseline": {"default": "gpt2-small-wikitext", "help": "an autoregressive model"},
    "scorers": {"nargs": "+", "default": ["gpt2-small-books"], "help": "models that judge texts"},
    "dataset_dir": {"help": "folder with local WikiText-2 files"},
    "length": {"type": int, "default": 256, "help": "tokens of a text"},
    "repeats": {"type": int, "default": 5, "help": "measured rounds"},
    "device": {"default": "auto"},
    "dtype": {"default": "auto", "choices": ["auto", *hardware.DTYPES]},
    "output": {"help": "file for the results, as JSON"},
}


def flags(about: str, *names: str, **defaults) -> argparse.ArgumentParser:
    """A parser with some of `FLAGS`; ``defaults`` replace theirs. ``--output`` is always there but with
    ``output=None``."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    if defaults.get("output", "") is not None:
        names = (*names, "output")
    for name in names:
        own = {"default": defaults[name]} if name in defaults else {}
        parser.add_argument(f"--{name}", **FLAGS[name] | own)
    return parser


def read(parser: argparse.ArgumentParser, **least: int) -> argparse.Namespace:
    """The flags of this run, checked as far as possible before anything is measured; from here on all
    cores are used.

    Args:
        least: the smallest value allowed for a flag; ``repeats`` is at least 1 anyway.
    """
    args = parser.parse_args()
    for name, lowest in ({"repeats": 1} | least).items():
        values = getattr(args, name, lowest)
        for value in values if isinstance(values, list) else [values]:
            within(f"--{name}", value, lowest, None)
    if getattr(args, "output", None):
        check_file("--output", args.output)
    hardware.use_all_cores()
    return args


def chosen(args: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """What ``--device`` and ``--dtype`` ask for."""
    device = hardware.choose_device(args.device)
    return device, hardware.choose_dtype(args.dtype, device)


def in_turns(tasks: dict[str, Callable[[], float]], repeats: int, warm: int = 1) -> dict:
    """Name -> what a task returned in each round, such as its seconds. The order is reversed from one
    round to the next; the first ``warm`` rounds do not count."""
    found: dict[str, list] = {name: [] for name in tasks}
    for number in range(warm + repeats):
        for name in tasks if number % 2 else reversed(tasks):
            value = tasks[name]()
            if number >= warm:
                found[name].append(value)
    return found


def spread(name: str, values: Iterable[float]) -> dict:
    """The median of some values, and the least and the most of them."""
    values = sorted(values)
    return {name: statistics.median(values), f"{name}_range": [values[0], values[-1]]}


def shown(row: dict, name: str, digits: int = 2) -> str:
    """``median (least-most)`` of a row."""
    least, most = row[f"{name}_range"]
    return f"{row[name]:.{digits}f} ({least:.{digits}f}-{most:.{digits}f})"


def save(args: argparse.Namespace, study: str, device, dtype, **record) -> dict:
    """Write what was measured, and on what, to ``--output`` if it is given; returns the record."""
    options = {name: value for name, value in vars(args).items() if name != "output"}
    options = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
    record = {"study": study, **hardware.record(device, dtype), "options": options, **record}
    if args.output:
        write_text(Path(args.output), json.dumps(record, indent=1) + "\n")
        say(f"saved {args.output}")
    return record
