"""Compare models of several seeds prompt by prompt, from the stored rows of a scoreboard.

    python studies/paired.py studies/results/soft --model soft --against plain long
    python studies/paired.py studies/results/noise --model uniform --against absorbing --scorer runs/another

Models are called NAME-SEED. For each sampler and number of steps: the perplexity of all texts of the model's
seeds together, and its ratio to that of the others: nats and tokens of a prompt are summed over the seeds
that both have, and prompts are drawn again (95 %).
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from diffusion.errors import UserError, run
from studies.board import metrics

WHAT = ("sampler", "n_steps")


def read(folder: Path, scorer: str | None) -> dict[tuple, dict[tuple, dict]]:
    """For each sampler and number of steps the rows by (name, other settings, seed).

    Raises:
        UserError: several scorers have judged them, and none is named.
    """
    found, scorers = defaultdict(dict), set()
    for path in sorted((folder / "rows").glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        settings = row["settings"]
        if not set(WHAT) <= set(settings):
            continue  # real text, GPT-2
        judge = row.get("scorer", "no scorer that is named")
        if scorer is not None and Path(scorer).name != judge:
            continue
        scorers.add(judge)
        name, _, seed = row["model"].rpartition("-")
        more = tuple(sorted((k, v) for k, v in settings.items() if k not in WHAT))
        found[tuple(settings[key] for key in WHAT)][name, more, seed] = row
    if len(scorers) > 1:
        raise UserError(
            f"{folder} was judged by {' and '.join(sorted(scorers))}; choose one by --scorer"
        )
    return found


def pooled(rows: list[dict]) -> np.ndarray:
    """(prompts, 2) nats and tokens, summed over the rows."""
    return np.sum([row["nats"] for row in rows], axis=0)


def perplexity(rows: list[dict]) -> str:
    nats, tokens = pooled(rows).T
    return str(metrics.bootstrap(metrics.perplexity, nats, tokens))


def factor(rows: list[dict], others: list[dict]) -> str:
    """The perplexity of some rows as a multiple of that of others, with its interval."""
    found = metrics.paired_difference(pooled(rows), pooled(others))
    value, low, high = (math.exp(x) for x in (found.value, found.low, found.high))
    return f"{value:.2f} ({low:.2f}-{high:.2f})"


def compare(rows: dict[tuple, dict], one: tuple, other: tuple) -> tuple[str, str, int] | None:
    """(factor, perplexity of the other, number of seeds) of two (name, other settings)."""
    seeds = sorted(
        set.intersection(*({s for *kind, s in rows if tuple(kind) == k} for k in (one, other)))
    )
    if not seeds:
        return None
    first, second = ([rows[(*kind, seed)] for seed in seeds] for kind in (one, other))
    return factor(first, second), perplexity(second), len(seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="The --output_dir of scoreboard.py.")
    parser.add_argument("--model", required=True, help="NAME of the models NAME-SEED.")
    parser.add_argument("--against", nargs="+", default=[], help="Names of other models.")
    parser.add_argument("--with", nargs="+", default=[], dest="options",
                        help="Options of the same models, compared with none.")  # fmt: skip
    parser.add_argument("--scorer", help="Whose opinion, where several have judged the texts.")
    args = parser.parse_args()
    found = read(args.folder, args.scorer)
    if not any(name == args.model for rows in found.values() for name, *_ in rows):
        raise UserError(
            f"{args.folder} has no rows of {args.model}-1 and so on"
            f"{f' by {args.scorer}' * bool(args.scorer)}; run studies/scoreboard.py with that --output_dir"
        )
    print(f"| sampler, steps | {args.model} | against | its | factor | seeds |")
    print("|---|---|---|---|---|---|")
    for (sampler, steps), rows in sorted(found.items()):
        plain = (args.model, ())
        kinds = {tuple(kind) for *kind, _ in rows}
        others = [(name, ()) for name in args.against]
        others += sorted(
            (name, more) for name, more in kinds
            if name == args.model and any(key in args.options for key, _ in more)
        )  # fmt: skip
        for other in others:
            if (found_both := compare(rows, plain, other)) is None:
                continue
            ratio, theirs, seeds = found_both
            own = perplexity([row for (*kind, _), row in rows.items() if tuple(kind) == plain])
            settings = ", ".join(f"{key} {value}" for key, value in other[1]) or other[0]
            print(f"| `{sampler}`, {steps} | {own} | {settings} | {theirs} | {ratio} | {seeds} |")


if __name__ == "__main__":
    run(main)
