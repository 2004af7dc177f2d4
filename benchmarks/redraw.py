"""Draw the pictures of docs/ again from the JSON beside them; nothing is measured.

python benchmarks/redraw.py
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import scaling
from diffusion.cli.files import write_atomically
from diffusion.evaluation import report, sweep
from diffusion.evaluation.pictures import PICTURES
from diffusion.evaluation.plotting import png

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Those that are there: docs/ shows no others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder")
    docs = parser.parse_args().docs
    for path in sorted((docs / "results").glob("*/*.png")):
        drawn = PICTURES[path.name].draw(report.load(str(path.with_name("results.json"))))
        write_atomically(path, drawn)
    for name, figure in {"sweep": sweep.figure, "scaling": scaling.figure}.items():
        path = docs / name / f"{name}.png"
        if path.exists():
            data = json.loads(path.with_suffix(".json").read_text())
            write_atomically(path, png(figure(data)))


if __name__ == "__main__":
    main()
