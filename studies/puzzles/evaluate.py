"""How many unseen puzzles a model solves, by sampler, forward passes and training.

    python studies/puzzles/evaluate.py runs/sudoku6/test.jsonl --model weights/roberta-sudoku6 \
        --baseline weights/gpt2-sudoku6 --output studies/results/puzzles/sudoku6.json

A puzzle is solved if the whole text is right and all that is given is kept (`boards`). The masked model writes with
the ordinary loop under each sampler; a column says whether the best token is taken (temperature 0) or one is
drawn (1). GPT-2 continues the puzzle, greedily and by samples, of which the checker picks a solution: no
selection can do better. Its passes are those of all samples, of one slot each but the first; the masked model
computes its whole canvas in each pass, so that slots are compared, too. Where the folders of the models have
checkpoints of their training, each is a point of the curves, on the first `--curve_count` puzzles. Shares have Wilson's 95 % interval, differences
Newcombe's, which is made of these.
"""

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from diffusion.autoregressive import CausalWriter, load_causal_writer
from diffusion.canvas import Canvas
from diffusion.cli.console import say
from diffusion.cli.files import write_atomically
from diffusion.errors import UserError, run
from diffusion.generate import Writer, load_writer
from diffusion.noise import Absorbing
from diffusion.options import GenerationOptions, SamplingOptions
from diffusion.text import encode
from studies import common
from studies.board import metrics
from studies.board.plotting import Plot, plain_log, png
from studies.board.report import aligned
from studies.board.scorer import estimate_json
from studies.puzzles.boards import BLANK, KINDS
from studies.puzzles.make import BETWEEN, read_puzzles

STEPS = (1, 2, 4, 8, 16, 64)  # at most one blank a pass, so 64 is a pass a blank
RANDOM = ("first-hitting", 1.0, None)  # order and tokens are random
ORDERED = ("confidence:score=margin", 0.0, 64)
# (sampler, temperature, n_steps); a cell a pass at the end of the sampler's steps
GRID = [
    RANDOM,
    ("first-hitting", 0.0, None),
    *((f"confidence:score={score}", 0.0, n) for score in ("probability", "margin", "entropy")
      for n in STEPS),
    *((f"threshold:threshold={x}", 0.0, None) for x in (0.5, 0.7, 0.9, 0.99)),
    *((name, t, n) for name, t in (("p2", 0.0), ("remdm", 0.0), ("remdm", 1.0)) for n in (16, 32)),
    ("wino", 0.0, None),
]  # fmt: skip
SAMPLES = (1, 2, 5, 10, 20)  # of GPT-2
# Sudoku 9x9, a masked model of 6 million parameters: random order, largest margin first.
PUBLISHED = {"arXiv:2502.06768, 9x9, random order": 0.07, "the same, largest margin first": 0.9}


def canvas(tokenizer, puzzles: list[str]) -> Canvas:
    """``<s>`` and each puzzle, with masks for its blanks."""
    ids = torch.tensor([[tokenizer.bos_token_id, *encode(tokenizer, p)] for p in puzzles])
    blank = ids == tokenizer.convert_tokens_to_ids(BLANK)
    if ids.shape[1] != 1 + len(puzzles[0]):
        raise UserError("the tokenizer of the model has not a token for each character of a puzzle")
    ids = Absorbing.of(tokenizer).corrupt(ids, blank)
    return Canvas(ids, ~blank, torch.zeros_like(blank))


def by_diffusion(writer, puzzles: list[str], setting: tuple, seed: int, batch_size: int):
    """(texts, mean forward passes, mean slots) of a sampler."""
    sampler, temperature, n_steps = setting
    options = GenerationOptions(
        sampler=sampler, n_steps=n_steps, temperature=temperature, top_k=0, top_p=1.0, seed=seed
    )
    texts, nfe, slots = [], 0, 0
    for start in range(0, len(puzzles), batch_size):
        some = puzzles[start : start + batch_size]
        samples = range(start, start + len(some))
        *_, last = writer.denoise(canvas(writer.tokenizer, some), options, samples, may_end=False)
        texts += [writer.tokenizer.decode(ids) for ids in last.ids[:, 1:].tolist()]
        nfe, slots = nfe + int(last.nfe.sum()), slots + int(last.slots.sum())
    return texts, nfe / len(puzzles), slots / len(puzzles)


def by_gpt2(writer: CausalWriter, kind, puzzles: list[str], temperature: float, sample: int, batch):
    """The same of one sample of GPT-2."""
    prompts, size = [puzzle + BETWEEN for puzzle in puzzles], len(kind.answer(puzzles[0]))
    options = SamplingOptions(
        length=size, temperature=temperature, top_k=0, top_p=1.0, seed=sample
    ).fitted(writer.positions)
    texts, slots = [], 0
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        *_, last = writer.generate(some, options, range(start, start + len(some)))
        answers = [writer.tokenizer.decode(ids) for ids in last.ids[:, -size:].tolist()]
        pairs = zip(puzzles[start : start + batch], answers, strict=True)
        texts += [kind.assembled(puzzle, answer) for puzzle, answer in pairs]
        slots += int(last.slots.sum())
    return texts, size, slots / len(puzzles)


def solved(kind, puzzles: list[str], texts: list[str]) -> list[bool]:
    return [kind.solves(puzzle, text) for puzzle, text in zip(puzzles, texts, strict=True)]


def row(right: list[bool], passes: float, slots: float, **what) -> dict:
    share = estimate_json(metrics.share(sum(right), len(right)))
    return what | {"solved": share, "passes": passes, "slots": slots}


def difference(first: list[float], second: list[float]) -> list[float]:
    """A share minus another, each with its interval, and the interval of the difference (method 10 of
    Newcombe 1998, which takes them as independent: paired on the same puzzles it is the narrower)."""
    (p, low, high), (q, least, most) = first, second
    return [p - q, p - q - math.hypot(p - low, most - q), p - q + math.hypot(high - p, q - least)]


def checkpoints(folder: str, slots: int) -> Iterator[tuple[int, Path]]:
    """(training slots, folder) of each checkpoint, rows of ``slots`` without accumulation."""
    for path in Path(folder).glob("checkpoint-*"):
        state = json.loads((path / "trainer_state.json").read_text())
        yield state["global_step"] * state["train_batch_size"] * slots, path


def measure(args, kind, puzzles: list[str], load=load_writer, load_causal=load_causal_writer):
    """(rows of samplers and of GPT-2, rows of the curves)."""
    table, curve, batch = [], [], args.batch_size
    few = puzzles[: args.curve_count]
    if args.model:
        writer: Writer = load(args.model)
        for setting in GRID:
            texts, *cost = by_diffusion(writer, puzzles, setting, args.seed, batch)
            names = dict(zip(("sampler", "temperature", "n_steps"), setting, strict=True))
            table.append(row(solved(kind, puzzles, texts), *cost, **names))
            say(shown(table[-1]))
        for seen, path in sorted(checkpoints(args.model, 1 + len(puzzles[0]))):
            writer = load(str(path))
            for name, setting in (("random order", RANDOM), ("largest margin", ORDERED)):
                texts, *cost = by_diffusion(writer, few, setting, args.seed, batch)
                right = solved(kind, few, texts)
                curve.append(row(right, *cost, model=f"RoBERTa, {name}", seen=seen))
    if args.baseline:
        writer = load_causal(args.baseline)
        texts, *cost = by_gpt2(writer, kind, puzzles, 0.0, args.seed, batch)
        table.append(
            row(solved(kind, puzzles, texts), *cost, sampler="GPT-2, greedy", temperature=0.0)
        )
        say(shown(table[-1]))
        right = [False] * len(puzzles)
        for n in range(1, max(SAMPLES) + 1):
            texts, passes, slots = by_gpt2(writer, kind, puzzles, 1.0, args.seed + n, batch)
            right = [a or b for a, b in zip(right, solved(kind, puzzles, texts), strict=True)]
            if n in SAMPLES:
                name = f"GPT-2, best of {n}"
                table.append(row(right, n * passes, n * slots, sampler=name, temperature=1.0))
                say(shown(table[-1]))
        size = 1 + len(puzzles[0] + BETWEEN) + len(kind.answer(puzzles[0]))
        for seen, path in sorted(checkpoints(args.baseline, size)):
            texts, *cost = by_gpt2(load_causal(str(path)), kind, few, 0.0, args.seed, batch)
            right = solved(kind, few, texts)
            curve.append(row(right, *cost, model="GPT-2, greedy", seen=seen))
    return table, curve


def against(table: list[dict]) -> list[dict]:
    """The best setting of diffusion minus each of GPT-2, and minus random order."""
    theirs = [r for r in table if r["sampler"].startswith("GPT-2")]
    ours = [r for r in table if r not in theirs]
    if not ours:
        return []
    chosen = next(r for r in ours if (r["sampler"], r["n_steps"]) == (ORDERED[0], ORDERED[2]))
    others = [r for r in ours if r["sampler"] == RANDOM[0]] + theirs
    return [
        {
            "first": chosen["sampler"],
            "second": other["sampler"],
            "temperature": other["temperature"],
            "difference": difference(chosen["solved"], other["solved"]),
            "slots": [chosen["slots"], other["slots"]],
        }
        for other in others
    ]


# ---------------------------------------------------------------- shown


def shown(found: dict) -> str:
    name = found["sampler"] + (f", {found['n_steps']} steps" if found.get("n_steps") else "")
    low, high = found["solved"][1:]
    return (
        f"{name}, temperature {found['temperature']:g}: {found['solved'][0]:.1%} ({low:.1%} to "
        f"{high:.1%}), {found['passes']:.1f} passes, {found['slots']:.0f} slots"
    )


def markdown(record: dict) -> str:
    lines = [["sampler", "steps", "temperature", "solved, %", "95 %", "passes", "slots"]]
    for found in record["results"]:
        share, low, high = (f"{100 * x:.1f}" for x in found["solved"])
        cost = f"{found['passes']:.1f}", f"{found['slots']:.0f}"
        steps = str(found.get("n_steps") or "")
        temperature = f"{found['temperature']:g}"
        lines.append([found["sampler"], steps, temperature, share, f"{low} to {high}", *cost])
    differences = [["largest margin minus", "temperature", "points", "95 %"]]
    for found in record["differences"]:
        value, low, high = (f"{100 * x:+.1f}" for x in found["difference"])
        name, temperature = found["second"], f"{found['temperature']:g}"
        differences.append([name, temperature, value, f"{low} to {high}"])
    return "\n".join([*aligned(lines, 1), "", *aligned(differences, 1)])


def figure(record: dict):
    """Solved share over forward passes of each sampler, and over training slots."""
    plot = Plot(2)
    lines: dict[str, list] = {}
    for found in record["results"]:
        name = re.sub(r" of \d+$", " of n", found["sampler"]).split(":threshold")[0]
        name += "" if found["temperature"] == 0 or "GPT-2" in name else ", temperature 1"
        lines.setdefault(name, []).append((found["passes"], found["solved"]))
    curves: dict[str, list] = {}
    for found in record["curve"]:
        curves.setdefault(found["model"], []).append((found["seen"], found["solved"]))
    for axes, found, first in zip(plot.panels, (lines, curves), (0, len(lines)), strict=True):
        for i, (name, points) in enumerate(found.items(), first):
            x, shares = zip(*sorted(points), strict=True)
            value, low, high = ([100 * y for y in column] for column in zip(*shares, strict=True))
            errors = [
                [a - b for a, b in zip(*pair, strict=True)]
                for pair in ((value, low), (high, value))
            ]
            plot.series(axes, x, value, i, name, (None, errors), linewidth=1)
            if found is curves:  # the legend has the samplers
                plot.label(axes, name, x[-1], value[-1])
        if found:
            seen = [x for points in found.values() for x, _ in points]
            plain_log(axes.xaxis, min(seen), max(seen))
        axes.set(ylabel="solved, %", ylim=(-3, 103))
    for (name, share), line in zip(PUBLISHED.items(), (":", "--"), strict=True):
        plot.level(plot.panels[0], name, 100 * share, line)
    plot.panels[0].set_xlabel("forward passes")
    plot.panels[1].set_xlabel("training slots")
    return plot.finish(f"Unseen puzzles solved: {record['kind']}, {record['puzzles']} puzzles")


def main() -> None:
    parser = common.flags(__doc__, "model", "baseline", model=None, baseline=None)
    parser.add_argument("puzzles", help="test.jsonl of make.py")
    parser.add_argument("--count", type=int, default=1000, help="puzzles [1000]")
    parser.add_argument("--curve_count", type=int, default=300, help="for a point of a curve [300]")
    parser.add_argument("--batch_size", type=int, default=100, help="puzzles [100]")
    parser.add_argument("--seed", type=int, default=0)
    args = common.read(parser, count=1, curve_count=1, batch_size=1)
    if not (args.model or args.baseline):
        raise UserError("nothing to evaluate; give --model, --baseline or both")
    kinds, puzzles = zip(*read_puzzles(args.puzzles, args.count), strict=True)
    table, curve = measure(args, KINDS[kinds[0]], list(puzzles))
    where = torch.device("cpu"), torch.float32
    found = {
        "kind": kinds[0],
        "puzzles": len(puzzles),
        "differences": against(table),
        "curve": curve,
    }
    record = common.save(args, "puzzles", *where, results=table, **found)
    print(markdown(record))
    if args.output:
        write_atomically(Path(args.output).with_suffix(".png"), png(figure(record)))


if __name__ == "__main__":
    run(main)
