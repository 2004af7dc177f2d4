"""Fill the tables of RESULTS.md and other pages from the recorded results.

    python studies/pages.py studies/RESULTS.md README.md docs/noise.md

A table stands between two comments. The first names a JSON file, the columns, and for each line its label
and the row it shows:

    <!-- from studies/results/blocks/results.json: nfe seconds gen_ppl entropy
    GPT-2 = gpt2-small-wikitext: left to right
    -->
    ...
    <!-- end -->

Several may stand in a line, with `` ; `` between. That is for a results.json or frontier.json. Nats of likelihood.py, ± one standard error, stand after
``<!-- nats from FILE: TEXT per_byte, TEXT per_token, TEXT more`` with rows such as ``RoBERTa: block4``. For
any other study ``<!-- rows from FILE`` is followed by one line a column, ``column HEAD = [FILE] LIST: KIND:
NAME``: the list of rows in the file, whether the number is among a row's ``numbers``, a difference from the
first row (``more``), or a ``median`` with its range, and what it is called. `tests/studies/test_pages.py`
fails on a page whose numbers differ from what is recorded.
"""

import argparse
import json
import re
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion.cli.files import write_text
from diffusion.errors import UserError, run
from studies.board.results import METRICS, estimate, measured

ROOT = Path(__file__).resolve().parent.parent
OPENING = re.compile("^<!-- (nats |rows )?from ", re.MULTILINE)
TABLE = re.compile(
    r"(<!-- (nats |rows )?from ([^\s:]+)(?:: ([^\n]+))?\n((?:(?!<!-- |-->).)*?)-->\n)"
    r"(?:(?!<!-- |-->).)*?(<!-- end -->)",
    re.DOTALL,
)
HEADS = {
    **{name: head for name, (head, _) in METRICS.items()},
    "nfe": "NFE",
    "seconds": "seconds a text",
    "verdict": "",
    # Of frontier.json, whose scorers are numbered.
    **{f"gen_ppl_{n}": f"PPL, scorer {n}" for n in (1, 2)},
    **{f"factor_{n}": f"ratio to GPT-2, {n}" for n in (1, 2)},
}


@cache
def _recorded(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def table(source: str, columns: list[str], lines: list[tuple[str, str]]) -> list[list[str]]:
    """The cells of a table of a results.json or frontier.json; ``columns``: names of metrics, or
    ``verdict``; ``lines``: (label, MODEL: METHOD)."""
    rows = (row for row in _recorded(ROOT / source)["rows"] if row["conditional"])
    found = {f"{row['model']}: {row['method']}".rstrip(": "): row for row in rows}
    cells = [["", *(HEADS[name] for name in columns)]]
    for label, which in lines:
        if which not in found:
            raise UserError(f"{source} has no row {which!r}; it has: {'; '.join(found)}")
        row = found[which]
        numbers = (row[n] if n == "verdict" else str(measured(row, n)) for n in columns)
        cells.append([label, *numbers])
    return cells


def nats(source: str, columns: list[str], lines: list[tuple[str, str]]) -> list[list[str]]:
    """The same of a likelihood.json; ``columns``: ``TEXT per_token``, ``TEXT per_byte``, ``TEXT more``."""
    texts = _recorded(ROOT / source)["texts"]
    wanted = [column.rsplit(" ", 1) for column in columns]
    units = {"per_token": "per token", "per_byte": "per byte", "more": "minus GPT-2, per token"}
    cells = [["", *(f"{text}, {units[unit]}" for text, unit in wanted)]]
    for label, which in lines:
        model, _, reading = which.partition(": ")
        pairs = [texts[text][model][reading].get(unit) for text, unit in wanted]
        cells.append([label, *("-" if p is None else f"{p[0]:.3f} ± {p[1]:.3f}" for p in pairs)])
    return cells


def rows(source: str, lines: list[tuple[str, str]]) -> list[list[str]]:
    """The same of any other study; ``lines``: first ``(column HEAD, [FILE] LIST: KIND: NAME)``."""
    columns = [what for label, what in lines if label.startswith("column ")]
    cells = [["", *(label.removeprefix("column ") for label, _ in lines[: len(columns)])]]
    for label, which in lines[len(columns) :]:
        cells.append([label, *(_number(source, column, which) for column in columns)])
    return cells


def _number(source: str, column: str, which: str) -> str:
    place, kind, name = column.split(": ", 2)
    *other, path = place.split()
    found = _recorded(ROOT / (other[0] if other else source))
    for key in path.split("/"):
        found = found[key]
    row = {_name(row): row for row in found}[which]
    if kind == "median":
        least, most = row[f"{name}_range"]
        return f"{row[name]:.2f}" + (f" ({least:.2f}-{most:.2f})" if least < most else "")
    return str(estimate(row.get(kind, row)[name]))


def _name(row: dict) -> str:
    """What a page calls a row of a study."""
    own = next((row[key] for key in ("reading", "way", "sampler") if key in row), None)
    return own or ": ".join(row[key] for key in ("model", "method") if row.get(key))


def filled(text: str) -> str:
    """A page with its tables as they are recorded."""

    def one(match: re.Match) -> str:
        opening, kind, source, columns, lines, end = match.groups()
        parts = [part.partition(" = ")[::2] for part in re.split(r"\n| ; ", lines.strip())]
        if kind == "rows ":
            cells = rows(source, parts)
        elif kind == "nats ":
            cells = nats(source, columns.split(", "), parts)
        else:
            cells = table(source, columns.split(), parts)
        shown = [f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in cells]
        shown.insert(1, "|---" * len(cells[0]) + "|\n")
        return opening + "".join(shown) + end

    try:
        done, tables = TABLE.subn(one, text)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"a table names what does not exist: {error}") from None
    if tables != len(OPENING.findall(text)):
        raise UserError("a table has no <!-- end -->, or its first line is malformed")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path)
    for page in parser.parse_args().pages:
        write_text(page, filled(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    run(main)
