"""Draw validation nats per token over what was computed, from the states that finetune.py leaves.

    python studies/curves.py studies/results/training/curves.json       # the picture beside it
    python studies/curves.py CURVES.json --add "GPT-2" 33.8 2.048e-3 causal runs/gpt2/trainer_state.json

``--add`` adds a run to the file, which may be new: its name in the picture, the millions of slots computed
forward and backward before it and in each of its steps, the name of its only loss if it has one, and its
``trainer_state.json``.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion.cli.files import write_atomically, write_text
from diffusion.errors import UserError, run
from studies.board.plotting import Plot, png

SHOWN = ("causal", "block4", "block16", "full")
NATS = "_nats_per_token"


def points(state: dict, only: str) -> list:
    """[step, {layout: nats per token}] of each evaluation; ``only``: of a run with one loss."""
    found = []
    for entry in state["log_history"]:
        if "eval_nats_per_token" in entry:
            names = {
                key.removeprefix("eval_").removesuffix(NATS): value
                for key, value in entry.items()
                if key.startswith("eval_") and key.endswith(NATS)
            }
            nats = {name: names[name] for name in SHOWN if name in names}
            found.append([entry["step"], nats or {only: entry["eval_nats_per_token"]}])
    return found


def draw(data: dict) -> bytes:
    """A PNG: a line for each run's name and layout."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for part in data["runs"]:
        for step, nats in part["points"]:
            for name, value in nats.items():
                at = part["before"] + step * part["each"]
                lines.setdefault(f"{part['name']}, {name}", []).append((at, value))
    plot = Plot()
    (axes,) = plot.panels
    for i, (name, line) in enumerate(lines.items()):
        x, y = zip(*sorted(line), strict=True)
        plot.series(axes, x, y, i, name)
    axes.set_xlabel("million slots computed forward and backward")
    axes.set_ylabel("validation, nats per token")
    axes.legend()
    return png(plot.figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("curves", type=Path)
    parser.add_argument("--add", nargs=5, metavar=("NAME", "BEFORE", "EACH", "ONLY", "STATE"))
    args = parser.parse_args()
    data = json.loads(args.curves.read_text()) if args.curves.exists() else {"runs": []}
    if args.add:
        name, before, each, only, path = args.add
        state = json.loads(Path(path).read_text())
        new = {"name": name, "before": float(before), "each": float(each)}
        data["runs"].append({**new, "points": points(state, only)})
        write_text(args.curves, json.dumps(data, indent=1) + "\n")
    if not data["runs"]:
        raise UserError(f"{args.curves} has no runs; add one by --add")
    target = args.curves.with_suffix(".png")
    write_atomically(target, draw(data))
    print(f"saved {target}")


if __name__ == "__main__":
    run(main)
