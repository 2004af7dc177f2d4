"""Fill the tables of RESULTS.md and other pages from the recorded results.

    python studies/pages.py RESULTS.md README.md docs/evaluation.md docs/noise.md

A table that is filled stands between two comments. The first names a results.json, the columns, and
for each line its label and which row it is:

    <!-- from studies/results/blocks/results.json: nfe seconds gen_ppl entropy
    GPT-2 = gpt2-small-wikitext: left to right
    `causal` = roberta-small-wikitext: causal (attention block)
    -->
    ...
    <!-- end -->

Nats of likelihood.py, ± one standard error, stand below ``<!-- nats from FILE: TEXT per_byte, TEXT
per_token, TEXT more`` and lines as ``LABEL = RoBERTa: block4``. The numbers of another benchmark stand below their columns,
each with its head, the list of rows that it is of (of another file, whose name stands before it), and the number:

    <!-- rows from studies/results/constraints.json
    column nats more = tasks/end/rows: more: nats by gpt2-small-books
    GPT-2 = GPT-2 at 1
    -->

Medians of what was timed, with their range, are asked for as ``column HEAD = FILE results/16: median: times_as_fast``.

A number before a comment such as ``<!--WikiText-2 RoBERTa block4-->`` is what likelihood.py has recorded of that
text, model and way of reading, in nats per token.

`tests/scripts/test_benchmarks.py` fails on a page whose numbers differ from what is recorded.
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
INSIDE = r"(?:(?!<!-- |-->).)*?"  # no other comment, where an end is missing
TABLE = re.compile(
    rf"(<!-- from (\S+): ([\w ]+)\n({INSIDE})-->\n){INSIDE}(<!-- end -->)", re.DOTALL
)
NATS = re.compile(
    rf"(<!-- nats from (\S+): ([^\n]+)\n({INSIDE})-->\n){INSIDE}(<!-- end -->)", re.DOTALL
)
ROWS = re.compile(rf"(<!-- rows from (\S+)\n({INSIDE})-->\n){INSIDE}(<!-- end -->)", re.DOTALL)
FIGURE = re.compile(r"[\d.]+(<!--(\S+) (\S+) (\w+)-->)")
LIKELIHOOD = "studies/results/likelihood/likelihood.json"
HEADS = {
    **{name: head for name, (head, _) in METRICS.items()},
    "nfe": "passes",
    "seconds": "seconds a text",
    # Of frontier.json, whose scorers are numbered.
    **{f"gen_ppl_{n}": f"PPL, scorer {n}" for n in (1, 2)},
    **{f"factor_{n}": f"of GPT-2's, {n}" for n in (1, 2)},
    **{f"mauve_{n}": f"MAUVE, {n}" for n in (1, 2)},
    "verdict": "",
}


@cache
def _recorded(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def table(source: str, columns: list[str], lines: list[str]) -> str:
    """The Markdown of one table.

    Args:
        source: a results.json or frontier.json, from the root of the repository.
        columns: names of measured quantities, or ``verdict``.
        lines: ``LABEL = MODEL: METHOD``.
    """
    data = _recorded(ROOT / source)
    found = {
        f"{row['model']}: {row['method']}".rstrip(": "): row
        for row in data["rows"]
        if row["conditional"]
    }
    out = [["", *(HEADS[name] for name in columns)], ["---"] * (1 + len(columns))]
    for line in lines:
        label, _, which = line.partition(" = ")
        if which not in found:
            raise UserError(f"{source} has no row {which!r}; it has: {'; '.join(found)}")
        row = found[which]
        out.append([label, *(row[n] if n == "verdict" else str(measured(row, n)) for n in columns)])
    return _markdown(out)


def nats(source: str, columns: list[str], lines: list[str]) -> str:
    """The same of a likelihood.json; ``columns``: ``TEXT per_token`` or ``TEXT per_byte``."""
    texts = _recorded(ROOT / source)["texts"]
    wanted = [column.rsplit(" ", 1) for column in columns]
    heads = [f"{name}, {unit.replace('_', ' ')}" for name, unit in wanted]
    heads = [head.replace("more", "more per token than GPT-2") for head in heads]
    out = [["", *heads], ["---"] * (1 + len(columns))]
    for line in lines:
        label, _, which = line.partition(" = ")
        model, _, way = which.partition(": ")
        pairs = [texts[name][model][way].get(unit) for name, unit in wanted]
        out.append([label, *("-" if p is None else f"{p[0]:.3f} ± {p[1]:.3f}" for p in pairs)])
    return _markdown(out)


def rows(source: str, lines: list[str]) -> str:
    """The same of any benchmark that writes rows of ``numbers`` and of what they are ``more`` than others, or of
    medians and their ranges; ``lines``: ``column HEAD = LIST/OF/ROWS: numbers, more or median: NAME``, and
    ``LABEL = METHOD``."""
    columns = [line.removeprefix("column ") for line in lines if line.startswith("column ")]
    out = [["", *(column.partition(" = ")[0] for column in columns)], ["---"] * (1 + len(columns))]
    for line in lines[len(columns) :]:
        label, _, which = line.partition(" = ")
        out.append([label, *(_number(source, column, which) for column in columns)])
    return _markdown(out)


def _number(source: str, column: str, which: str) -> str:
    place, kind, name = column.partition(" = ")[2].split(": ", 2)
    *other, path = place.split()
    found = _recorded(ROOT / (other[0] if other else source))
    for key in path.split("/"):
        found = found[key]
    row = {_called(row): row for row in found}[which]
    if kind == "median":
        least, most = row[f"{name}_range"]
        return f"{row[name]:.2f}" + (f" ({least:.2f}-{most:.2f})" if least < most else "")
    return str(estimate(row.get(kind, row)[name]))


def _called(row: dict) -> str:
    """What a page calls a row of a benchmark."""
    own = next((row[key] for key in ("reading", "way", "sampler") if key in row), None)
    return own or ": ".join(row[key] for key in ("model", "method") if row.get(key))


def _markdown(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in rows)


def filled(text: str) -> str:
    """A page with its tables as they are recorded."""

    def one(match: re.Match) -> str:
        opening, source, columns, lines, end = match.groups()
        return opening + table(source, columns.split(), lines.strip().splitlines()) + end

    def likelihood(match: re.Match) -> str:
        opening, source, columns, lines, end = match.groups()
        return opening + nats(source, columns.split(", "), lines.strip().splitlines()) + end

    def benchmark(match: re.Match) -> str:
        opening, source, lines, end = match.groups()
        return opening + rows(source, lines.strip().splitlines()) + end

    def figure(match: re.Match) -> str:
        comment, name, model, way = match.groups()
        texts = _recorded(ROOT / LIKELIHOOD)["texts"]
        return f"{texts[name][model][way]['per_token'][0]:.2f}{comment}"

    try:
        text = FIGURE.sub(figure, text)
        done, tables = TABLE.subn(one, text)
        done, nat_tables = NATS.subn(likelihood, done)
        done, more = ROWS.subn(benchmark, done)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"a table names what is not there: {error}") from None
    if tables + nat_tables + more != len(OPENING.findall(text)):
        raise UserError("a table has no <!-- end -->, or its first line is not as it should be")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path)
    for page in parser.parse_args().pages:
        write_text(page, filled(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    run(main)
