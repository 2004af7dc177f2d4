"""The tables of docs/samplers.md: what each sampler is, and what it wrote in a run of scoreboard.py.

python studies/samplers.py                              # what they are
python studies/samplers.py --results runs/board/results.json --model roberta-minilm-stories
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion.errors import run
from diffusion.samplers import spec
from diffusion.samplers.catalog import SAMPLERS
from diffusion.samplers.make import sampler_class
from studies.board.report import literal, load, markdown_table
from studies.board.results import measured

WORDS = 12  # of the first text of a row


def facts() -> list[list[str]]:
    """What each sampler is."""
    rows = [["`--sampler`", "what it does", "forward passes, N steps, L tokens", "corrects itself", "options", "source"]]  # fmt: skip
    for name, entry in SAMPLERS.items():
        own = [f"--{o}" if o in spec.SHARED else o for o in spec.options_of(sampler_class(name))]
        options = f"`{' '.join(own)}`" if own else ""
        corrects = "yes" if entry.corrects else "no"
        rows.append([f"`{name}`", entry.line, entry.nfe, corrects, options, entry.source])
    return rows


def numbers(data: dict, model: str | None) -> list[list[str]]:
    """What each row of a scoreboard wrote after its prompts; ``model``: only that one's rows."""
    rows = [row for row in data["rows"] if row["conditional"] and model in (None, row["model"])]
    table = [
        ["how", "tokens a pass", "perplexity", "entropy", "order", "seconds", "its first text"]
    ]
    for row in rows:
        # What all rows have in common says nothing.
        own = {
            name: value
            for name, value in row["settings"].items()
            if name != "sampler"
            and any(r["settings"].get(name) != value for r in rows if r["settings"])
        }
        how = row["settings"].get("sampler", "left to right") if row["settings"] else row["model"]
        how += f" ({', '.join(f'{k} {v}' for k, v in own.items())})" if own else ""
        passes, length = (measured(row, name).value for name in ("nfe", "length"))
        rate = f"{length / passes:.2f}" if passes > 0 else ""
        values = [str(measured(row, name)) for name in ("gen_ppl", "entropy", "order", "seconds")]
        text = literal(row["first"]["text"]).split()[:WORDS] if row["first"] else []
        table.append([how, rate, *values, " ".join(text)])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", help="results.json of scoreboard.py: also what they wrote")
    parser.add_argument("--model", help="only rows of this model")
    args = parser.parse_args()
    print("\n".join(markdown_table(facts())).replace("&lt;", "<"))  # nothing in it is HTML
    if args.results is not None:
        print("\n" + "\n".join(markdown_table(numbers(load(args.results), args.model))))


if __name__ == "__main__":
    run(main)
