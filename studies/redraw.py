"""Draw the pictures of docs/ again from the JSON beside them; nothing is measured.

python studies/redraw.py
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion.cli.files import write_atomically
from studies import curves, frontier, likelihood, scaling
from studies.board import report, sweep
from studies.board.pictures import PICTURES
from studies.board.plotting import png

ROOT = Path(__file__).resolve().parents[1]
# Each with its data beside it, under the same name: those as a PNG.
OWN = {
    "sweep/sweep": lambda data: png(sweep.figure(data)),
    "scaling/scaling": lambda data: png(scaling.figure(data)),
    "results/frontier/frontier": lambda data: png(frontier.figure(data)),
    "results/likelihood/likelihood": lambda data: png(likelihood.figure(data)),
    "training/curves": curves.draw,
}


def main() -> None:
    """Those that are there: docs/ shows no others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder")
    docs = parser.parse_args().docs
    for name, draw in OWN.items():
        path = docs / f"{name}.png"
        if path.exists():
            write_atomically(path, draw(json.loads(path.with_suffix(".json").read_text())))
    for path in sorted((docs / "results").glob("*/*.png")):
        if path.name in PICTURES and path.with_name("results.json").exists():
            drawn = PICTURES[path.name].draw(report.load(str(path.with_name("results.json"))))
            write_atomically(path, drawn)


if __name__ == "__main__":
    main()
