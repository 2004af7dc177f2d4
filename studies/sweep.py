"""Seconds against new tokens, for GPT-2 and for diffusion at several numbers of steps.

    python studies/sweep.py --output_dir runs/sweep
    python studies/sweep.py --model roberta-base --baseline gpt2 --sampler ancestral --output_dir runs/sweep

Both models write one text of 32 tokens and more, up to what both have room for; diffusion in 4 to 64 steps
on the full canvas. sweep.json has all times, sweep.png their medians.
"""

import dataclasses
import json
import statistics
import sys
from collections import deque
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion import hardware
from diffusion.autoregressive import load_causal_writer
from diffusion.canvas import prompt_ids
from diffusion.cli import console
from diffusion.cli.files import write_atomically, write_text
from diffusion.errors import UserError, run
from diffusion.generate import load_writer
from diffusion.measure import measure
from diffusion.options import GenerationOptions
from diffusion.samplers.catalog import STEPPED
from studies import common
from studies.board.plotting import Plot, plain_log, png

PROMPT = "The"
LENGTHS = (32, 64, 128, 256, 512, 1024)  # as far as both models reach, and the most they can
STEPS = (4, 8, 16, 32, 64)


def main() -> None:
    parser = common.flags(__doc__, "model", "baseline", "repeats", "device", "dtype", output=None)
    parser.add_argument("--sampler", default="confidence", help="one with a number of steps")
    parser.add_argument("--output_dir", default="runs/sweep", type=Path)
    args = common.read(parser)
    generation = GenerationOptions(sampler=args.sampler, attention="full")
    generation.check()
    if args.sampler.partition(":")[0] not in STEPPED:
        raise UserError(
            f"--sampler {args.sampler} has no number of steps; use {', '.join(STEPPED)}"
        )
    device, dtype = common.chosen(args)
    names = {args.model: load_writer, args.baseline: load_causal_writer}
    kind = str(dtype).removeprefix("torch.")
    writers = [load(name, None, str(device), kind) for name, load in names.items()]
    sweep(writers, generation, args.repeats, args.output_dir)


def sweep(writers: list, generation: GenerationOptions, repeats: int, folder: Path) -> None:
    """Measure and write sweep.json and sweep.png into ``folder``."""
    diffusion, baseline = writers
    if diffusion.tokenizer.get_vocab() != baseline.tokenizer.get_vocab():
        raise UserError(
            "a sweep compares seconds for as many tokens, which say nothing when the tokenizers "
            "differ; choose a --baseline with the tokenizer of --model"
        )
    reach = min(writer.positions for writer in writers)
    longest = reach - max(len(prompt_ids(w.tokenizer, [PROMPT], reach)[0]) for w in writers)
    lengths = [n for n in LENGTHS if n < longest] + [longest]
    jobs = []
    for length in lengths:
        own = dataclasses.replace(generation.shared(), length=length, max_len=reach)
        jobs.append((baseline, own))
        for steps in STEPS:
            # The confidence order writes a token a step at least, and makes no more steps.
            if steps <= length or generation.sampler_name != "confidence":
                options = dataclasses.replace(generation, length=length, max_len=reach)
                jobs.append((diffusion, dataclasses.replace(options, n_steps=steps)))

    lasts = measure(jobs, PROMPT, repeats, keep=lambda steps: deque(steps, maxlen=1).pop())
    results = []
    for (writer, options), runs in zip(jobs, lasts, strict=True):
        kind, steps = (
            ("diffusion", options.n_steps) if writer is diffusion else ("autoregressive", None)
        )
        seconds = [last.seconds for last in runs]
        results.append({
            "model": Path(writer.name).name, "kind": kind, "steps": steps, "new_tokens": options.length,
            "nfe": int(runs[-1].nfe[0]), "seconds": seconds, "median": statistics.median(seconds),
        })  # fmt: skip
        console.put(f"{kind}, {steps or options.length} steps, {options.length} tokens: "
                    f"{results[-1]['median']:.3f} s")  # fmt: skip
    data = {
        "format": "roberta-diffusion sweep",
        "version": 1,
        "sampler": dataclasses.replace(generation, n_steps=None).describe(),
        "repeats": repeats,
        **hardware.record(diffusion.device, diffusion.dtype),
        "results": results,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "sweep.json", json.dumps(data, indent=1) + "\n")
    write_atomically(folder / "sweep.png", png(figure(data)))
    console.say(f"saved {folder / 'sweep.json'} and {folder / 'sweep.png'}")


def _curves(data: dict) -> dict[str, list[dict]]:
    """Name of a curve -> its results, in order of length; the baseline first."""
    curves: dict[str, list[dict]] = {}
    for r in data["results"]:
        name = (
            f"{r['model']}, with cache" if r["steps"] is None else f"diffusion, {r['steps']} steps"
        )
        curves.setdefault(name, []).append(r)
    return curves


def figure(data: dict):
    """The picture: medians, with bars from the fastest to the slowest run."""
    plot, ends = Plot(), []
    (axes,) = plot.panels
    for i, (name, curve) in enumerate(_curves(data).items()):
        x, y = ([r[key] for r in curve] for key in ("new_tokens", "median"))
        low = [r["median"] - min(r["seconds"]) for r in curve]
        high = [max(r["seconds"]) - r["median"] for r in curve]
        linestyle = "--" if curve[0]["steps"] is None else "-"
        plot.series(axes, x, y, i, name, (None, (low, high)), linestyle=linestyle)
        ends.append(y[-1])
    ticks = sorted({r["new_tokens"] for r in data["results"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    medians = [r["median"] for r in data["results"]]
    plain_log(axes.yaxis, min(medians), max(medians))
    axes.set_xlabel("new tokens")
    axes.set_ylabel(f"seconds (median of {data['repeats']} and range)")
    machine = f"One text, {data['hardware']}\n{data['processor']}; {data['sampler']}"
    # Names in the order in which the curves end.
    return plot.finish(machine.rstrip("; "), sorted(range(len(ends)), key=lambda i: -ends[i]))


if __name__ == "__main__":
    run(main)
