"""Draw the pictures of studies/results/ again from the JSON beside them; nothing is measured.

python studies/redraw.py
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion.cli.files import write_atomically
from studies import frontier, likelihood, oracle, scaling, sweep
from studies.board import report
from studies.board.pictures import PICTURES
from studies.board.plotting import Plot, png

# The name of a picture, and of the JSON beside it -> what draws it.
OWN = {
    "sweep": lambda data: png(sweep.figure(data)),
    "scaling": lambda data: png(scaling.figure(data)),
    "frontier": lambda data: png(frontier.figure(data)),
    "likelihood": lambda data: png(likelihood.figure(data)),
    "oracle": lambda data: png(oracle.figure(data)),
    "curves": lambda data: png(curves(data)),
}


def curves(data: dict):
    """Validation nats per token over what was computed, a line for each run's name and layout.

    Each of ``runs`` has the millions of slots computed ``before`` it and in ``each`` of its steps, and as
    ``points`` [step, {layout: nats per token}] of its trainer_state.json.
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    for part in data["runs"]:
        for step, nats in part["points"]:
            for name, value in nats.items():
                at = part["before"] + step * part["each"]
                lines.setdefault(f"{part['name']}, {name}", []).append((at, value))
    plot = Plot()
    (axes,) = plot.panels
    for i, (name, line) in enumerate(lines.items()):
        plot.series(axes, *zip(*sorted(line), strict=True), i, name)
    axes.set_xlabel("million slots computed forward and backward")
    axes.set_ylabel("validation, nats per token")
    return plot.finish("Validation loss over computed slots")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    folder = Path(__file__).parent / "results"
    parser.add_argument("--results", type=Path, default=folder, help="the folder")
    for path in sorted(parser.parse_args().results.glob("*/*.png")):
        data, whole = path.with_suffix(".json"), path.with_name("results.json")
        if path.stem in OWN and data.exists():
            write_atomically(path, OWN[path.stem](json.loads(data.read_text())))
        elif path.name in PICTURES and whole.exists():
            write_atomically(path, PICTURES[path.name].draw(report.load(str(whole))))


if __name__ == "__main__":
    main()
