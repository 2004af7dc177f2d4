"""How seconds grow with the length of a text, with the batch, and with the steps of the loop.

Timed is the denoising loop with the reference sampler, and in turns with it GPT-2 with its cache writing
the same number of tokens. Both have random weights, which cost the same, and a prompt of one token.

What takes too long is estimated, and the JSON says where: only the first steps of the loop are timed, and
the rest is in proportion to the operations; of GPT-2, beyond 128 tokens, passes at eight places in the
text are timed with a cache that is full up to there, and those between are interpolated.

    python studies/scaling.py --output scaling.json --picture scaling.png     # at most 12 minutes
    python studies/scaling.py --lengths 64 128 256 --batch_sizes --steps      # lengths alone
"""

import itertools
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from diffusion import hardware, rng
from diffusion.cli.files import check_file, write_atomically
from diffusion.denoise import denoise
from diffusion.errors import UserError, run
from diffusion.models.denoiser import Denoiser
from diffusion.noise import Absorbing
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler
from studies import common
from studies.board.plotting import Plot, plain_log, png
from studies.loop import MASK, canvas_of
from studies.machine import SHAPES, Shape, cached_steps, causal_config, masked_config, random_model

# What is varied -> the name of its axis.
AXES = {"n_steps": "steps of the loop", "batch": "texts at once", "length": "tokens of a text"}
WHOLE = 128  # passes of GPT-2 that are all timed
PLACES, SAMPLE = 8, 4  # where longer texts are sampled, and passes that are timed there
# Name -> in the picture, and its number of a style there.
SERIES = {"loop": ("the reference loop", 5), "gpt2": ("GPT-2 with its cache", 4)}

# What the picture says of estimates, where it has any.
IN_PROPORTION = (
    "points with a label: so many steps of the loop were timed, the rest is in proportion"
)
BETWEEN = f"GPT-2 beyond {WHOLE} passes: interpolated between passes at {PLACES} places"


@dataclass(frozen=True)
class Size:
    length: int  # tokens of a text, the given one included
    batch: int
    n_steps: int

    def share(self, step: int) -> float:
        """Of the tokens to write, how many are expected to be predicted in a step, counted from 1:
        those that are masked before it and not after it."""
        return (1 - (step - 1) / self.n_steps) * step / self.n_steps


class Pair:
    """A masked language model and the GPT-2 beside it."""

    def __init__(self, shape: str, longest: int, device: torch.device, dtype: torch.dtype):
        masked, causal = masked_config(shape, longest), causal_config(shape, longest + 1)
        model = random_model(AutoModelForMaskedLM, masked, device, dtype)
        self.denoiser = Denoiser(model, Absorbing(MASK), [0, 1, 3])
        self.gpt2 = random_model(AutoModelForCausalLM, causal, device, dtype)
        self.masked, self.shape = masked, Shape.of(masked)
        options = GenerationOptions().drawn()
        self.sampling = Sampling(options.temperature, options.top_k, options.top_p)

    def loop(self, size: Size, steps: int) -> float:
        """Seconds of the first steps of the loop."""
        device = self.denoiser.device
        canvas = canvas_of(size.batch, size.length, self.masked.vocab_size, 1, device)
        sampler, keys = (
            make_sampler("random-remask", size.n_steps),
            rng.row_keys(0, size.batch, device),
        )
        taken = denoise(canvas, self.denoiser, sampler, self.sampling, keys)
        *_, last = itertools.islice(taken, 1 + steps)
        return last.seconds

    def writing(self, size: Size) -> float:
        """Seconds of GPT-2."""
        passes = size.length - 1
        if passes <= WHOLE:
            return sum(cached_steps(self.gpt2, size.batch, passes))
        kept = np.linspace(0, passes - SAMPLE - 1, PLACES).astype(int).tolist()
        seconds = [
            statistics.median(cached_steps(self.gpt2, size.batch, SAMPLE + 1, kept=n)[1:])
            for n in kept
        ]
        # The first pass at a place warms up; the median belongs to the middle of the others.
        return interpolated([n + 1.5 + SAMPLE / 2 for n in kept], seconds, passes)

    def operations(self, size: Size) -> list[int]:
        """Expected in each pass of the loop."""
        found = []
        for step in range(1, size.n_steps + 1):
            rows = round((size.length - 1) * size.share(step))
            read = rows if self.denoiser.backbone.final else None
            found.append(self.shape.flops(size.batch, size.length, size.batch * rows, None, read))
        return found


def interpolated(places: list[float], seconds: list[float], passes: int) -> float:
    """The sum over passes 1, 2, ... of what some of them take."""
    return float(np.interp(np.arange(1, passes + 1), places, seconds).sum())


def measure(pair: Pair, size: Size, repeats: int, most_seconds: float) -> dict:
    """Both at one size, in turns; so many steps of the loop as fit into ``most_seconds``."""
    cached_steps(pair.gpt2, size.batch, 1)  # to warm up, as is the first step
    first, flops = pair.loop(size, 1), pair.operations(size)
    steps = max(1, min(size.n_steps, int(most_seconds / 2 / (repeats * first))))
    tasks = {
        "loop": lambda: pair.loop(size, steps) * sum(flops) / sum(flops[:steps]),
        "gpt2": lambda: pair.writing(size),
    }
    seconds = common.in_turns(tasks, repeats, warm=0)
    passes = size.length - 1
    return {
        **asdict(size),
        "loop_steps_timed": steps,
        "gpt2_passes_timed": passes if passes <= WHOLE else PLACES * SAMPLE,
        "seconds": seconds,
        "median": {name: statistics.median(runs) for name, runs in seconds.items()},
    }


def figure(data: dict):
    """The picture of the JSON: medians with bars from the fastest to the slowest run."""
    plot = Plot(len(data["series"]))
    plot.figure.set_size_inches(max(7, 4.7 * len(plot.panels)), 5)
    for axes, part in zip(plot.panels, data["series"], strict=True):
        points, varied = part["points"], part["varied"]
        x = [point[varied] for point in points]
        for name, (label, i) in SERIES.items():
            y = [point["median"][name] for point in points]
            low = [point["median"][name] - min(point["seconds"][name]) for point in points]
            high = [max(point["seconds"][name]) - point["median"][name] for point in points]
            plot.series(axes, x, y, i, label, (None, (low, high)))
        for point in points:
            if point["loop_steps_timed"] < point["n_steps"]:
                timed = f"{point['loop_steps_timed']} of {point['n_steps']}"
                plot.label(axes, timed, point[varied], point["median"]["loop"])
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [str(value) for value in x])
        axes.minorticks_off()
        times = [point["median"][name] for point in points for name in SERIES]
        plain_log(axes.yaxis, min(times), max(times))
        axes.set_xlabel(AXES[varied])
        fixed = {"length": "{} tokens", "batch": "batch {}", "n_steps": "{} steps"}
        fixed_at = [text.format(points[0][name]) for name, text in fixed.items() if name != varied]
        axes.set_title(f"shape {part['shape']}, {', '.join(fixed_at)}", fontsize=9)
    plot.panels[0].set_ylabel("seconds (median and range)")
    title = f"Seconds of one generation, {data['hardware']}, {data['processor']}"
    points = [point for part in data["series"] for point in part["points"]]
    if any(point["loop_steps_timed"] < point["n_steps"] for point in points):
        title += f"\n{IN_PROPORTION}"
    if any(point["gpt2_passes_timed"] < point["length"] - 1 for point in points):
        title += f"\n{BETWEEN}"
    return plot.finish(title)


def main() -> None:
    parser = common.flags(__doc__, "length", "repeats", "device", "dtype", repeats=3)
    powers = [2**n for n in range(14)]
    parser.add_argument("--lengths", nargs="*", type=int, default=powers[6:])
    parser.add_argument("--batch_sizes", nargs="*", type=int, default=powers[:8])
    parser.add_argument("--steps", nargs="*", type=int, default=powers[:8])
    parser.add_argument("--long_shape", default="modernbert", choices=SHAPES, help="for --lengths")
    parser.add_argument("--shape", default="small", choices=SHAPES, help="for the others")
    parser.add_argument("--n_steps", type=int, default=10, help="where they do not vary")
    parser.add_argument("--most_seconds", type=float, default=20, help="for the loop at one size")
    parser.add_argument("--picture", help="draw them as this PNG")
    args = common.read(parser, lengths=2, batch_sizes=1, steps=1, length=2, n_steps=1)
    if args.picture:
        check_file("--picture", args.picture)
    device, dtype = common.chosen(args)
    torch.manual_seed(0)
    base = Size(args.length, 1, args.n_steps)
    wanted = {
        "n_steps": (args.shape, args.steps),
        "batch": (args.shape, args.batch_sizes),
        "length": (args.long_shape, args.lengths),
    }
    sizes_of = {
        varied: (shape, [replace(base, **{varied: n}) for n in sorted(set(values))])
        for varied, (shape, values) in wanted.items()
        if values
    }
    if not sizes_of:
        raise UserError("--lengths, --batch_sizes and --steps are all empty; give numbers to one")
    print(f"the reference loop and GPT-2 with its cache, {hardware.describe(device, dtype)}")
    found, pair, built = [], None, None
    for varied, (shape, sizes) in sizes_of.items():
        longest = max(size.length for size in sizes)
        if (shape, longest) != built:
            pair, built = None, (shape, longest)  # one of them at a time in memory
            pair = Pair(shape, longest, device, dtype)
        print(f"shape {shape}\n{varied:>8}  loop, seconds  GPT-2, seconds")
        points = []
        for size in sizes:
            points.append(point := measure(pair, size, args.repeats, args.most_seconds))
            both = (f"{point['median'][name]:14.3f}" for name in SERIES)
            print(f"{point[varied]:8} ", *both, flush=True)
        found.append({"varied": varied, "shape": shape, "points": points})
    data = common.save(args, "scaling", device, dtype, series=found)
    if args.picture:
        write_atomically(Path(args.picture), png(figure(data)))


if __name__ == "__main__":
    run(main)
