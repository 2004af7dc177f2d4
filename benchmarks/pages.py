"""Fill the tables of RESULTS.md and other pages from the recorded results.

    python benchmarks/pages.py RESULTS.md docs/evaluation.md

A table that is filled stands between two comments. The first names a results.json, the columns, and
for each line its label and which row it is:

    <!-- from docs/results/blocks/results.json: nfe seconds gen_ppl entropy
    GPT-2 = gpt2-small-wikitext: left to right
    `causal` = roberta-small-wikitext: causal (attention block)
    -->
    ...
    <!-- end -->

`tests/scripts/test_benchmarks.py` fails on a page whose numbers differ from what is recorded.
"""

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion.cli.files import write_text
from diffusion.errors import UserError, run
from diffusion.evaluation.results import METRICS, measured

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"(<!-- from (\S+): ([\w ]+)\n(.*?)-->\n).*?(<!-- end -->)", re.DOTALL)
HEADS = {"nfe": "passes", "seconds": "seconds a text"}


def table(source: str, columns: list[str], lines: list[str]) -> str:
    """The Markdown of one table.

    Args:
        source: a results.json, from the root of the repository.
        columns: names of measured quantities.
        lines: ``LABEL = MODEL: METHOD``.
    """
    data = json.loads((ROOT / source).read_text(encoding="utf-8"))
    found = {
        f"{row['model']}: {row['method']}".rstrip(": "): row
        for row in data["rows"]
        if row["conditional"]
    }
    heads = [HEADS.get(name, METRICS[name][0]) for name in columns]
    out = [["", *heads], ["---"] * (1 + len(columns))]
    for line in lines:
        label, _, which = line.partition(" = ")
        if which not in found:
            raise UserError(f"{source} has no row {which!r}; it has: {'; '.join(found)}")
        out.append([label, *(str(measured(found[which], name)) for name in columns)])
    return "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in out)


def filled(text: str) -> str:
    """A page with its tables as they are recorded."""

    def one(match: re.Match) -> str:
        opening, source, columns, lines, end = match.groups()
        return opening + table(source, columns.split(), lines.strip().splitlines()) + end

    return TABLE.sub(one, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path)
    for page in parser.parse_args().pages:
        write_text(page, filled(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    run(main)
