"""What the denoising loop costs around the model.

The same generation is timed twice in one run: through `denoise`, and as the bare forward passes
it made (same canvases, same rows of logits, nothing else). Both alternate; medians and the spread
of their ratio are printed and kept as JSON.

How much of the machine that is stands beside it (see `machine`): of the bare passes, the operations
per second of their matrix products as a share of those of a large product; of a cached step of
GPT-2, which reads all weights for one token, the bytes per second as a share of the memory's.

    python studies/loop.py --repeats 3            # the shape of roberta-base, batch 1 and 8: 5 minutes
    python studies/loop.py --model roberta-small-wikitext
    python studies/loop.py --soft_masking         # the loop whose masks remember, against the plain one
"""

import argparse
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from diffusion import hardware, rng
from diffusion.canvas import Canvas
from diffusion.denoise import denoise
from diffusion.errors import run
from diffusion.models.denoiser import Denoiser
from diffusion.models.families import max_length
from diffusion.models.loading import load_masked_lm, place
from diffusion.models.soft import SoftMask, SoftMasked
from diffusion.noise import Absorbing
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.catalog import SAMPLERS
from diffusion.samplers.make import make_sampler
from studies.machine import (
    Limits,
    Shape,
    cached_steps,
    causal_config,
    chosen,
    limits,
    masked_config,
    random_model,
    save,
)

MASK = 4  # any id will do: the text does not matter here
STEPS = 16  # of GPT-2


class Recorder:
    """Passes calls on to a denoiser and remembers what was asked."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.calls = denoiser, []
        self.noise, self.passes = denoiser.noise, denoiser.passes

    def start(self, canvas):
        return self

    def recall(self):
        return None

    def slots(self, query):
        return torch.full_like(query.ids[:, 0], query.ids.shape[1])

    def __call__(self, query):
        self.calls.append((query.ids.clone(), query.query_mask.clone(), query.shadows))
        return self.denoiser(query)


def operations(denoiser: Denoiser, calls: list[tuple]) -> int | None:
    """Of the matrix products of bare passes; None where shadow copies or a model of another type
    make their number another one."""
    shape = Shape.of(denoiser.backbone.config)
    if shape is None or any(shadows is not None and shadows.any() for *_, shadows in calls):
        return None
    total = 0
    for ids, query_mask, _ in calls:
        rows = query_mask.sum(1)
        read = int(rows.max()) if denoiser.backbone.final else None
        total += shape.flops(*ids.shape, int(rows.sum()), read=read)
    return total


def canvas_of(batch: int, length: int, vocab: int, prefix: int, device) -> Canvas:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocab, (batch, length), generator=generator)
    frozen = torch.zeros_like(ids, dtype=torch.bool)
    frozen[:, :prefix] = True
    ids[~frozen] = MASK
    return Canvas(ids, frozen, torch.zeros_like(frozen)).to(device)


def measure(
    denoiser, canvas, name: str, options: GenerationOptions, repeats: int, soft: bool, top: Limits
) -> dict:
    """Seconds of the loop over those of the bare passes; ``soft``: of the loop with soft-masking over
    those of the loop without. ``top`` is what the machine can do."""
    device = canvas.ids.device
    keys = rng.row_keys(0, len(canvas.ids), device)
    sampling = Sampling(options.temperature, options.top_k, options.top_p)

    def through_the_loop(through) -> float:
        sampler = make_sampler(name, options.n_steps)
        for step in denoise(  # noqa: B007
            canvas, through, sampler, sampling, keys
        ):
            pass
        return step.seconds

    def bare(calls) -> float:
        started = hardware.now(device)
        with torch.inference_mode():
            for ids, rows, shadows in calls:
                if shadows is not None and shadows.any():
                    denoiser.backbone.shadowed(ids, rows, shadows, denoiser.noise)
                else:
                    denoiser.backbone(ids, rows)
        return hardware.now(device) - started

    recorder = Recorder(denoiser)
    through_the_loop(recorder)  # also warms up
    bare(recorder.calls)
    remembering = SoftMasked(denoiser, SoftMask().to(device))
    pairs = []
    for i in range(repeats):  # which goes first alternates
        tasks = [lambda: bare(recorder.calls), lambda: through_the_loop(denoiser)]
        if soft:
            tasks = [tasks[1], lambda: through_the_loop(remembering)]
        order = (0, 1) if i % 2 else (1, 0)
        seconds = {which: tasks[which]() for which in order}
        pairs.append((seconds[1], seconds[0]))
    ratios = sorted(loop / alone for loop, alone in pairs)
    alone = statistics.median(alone for _, alone in pairs)
    # With soft-masking what stands for the bare passes is a loop.
    flop = None if soft else operations(denoiser, recorder.calls)
    return {
        "sampler": name,
        "batch": len(canvas.ids),
        "forwards": len(recorder.calls),
        "rows_of_logits": sum(int(rows.sum()) for _, rows, _ in recorder.calls),
        "loop_seconds": statistics.median(loop for loop, _ in pairs),
        "bare_seconds": alone,
        "flop": flop,
        "share_of_product_rate": flop and flop / alone / top.flops,
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
    }


def cached(length: int, device, dtype, top: Limits) -> dict:
    """A step of a GPT-2 of gpt2's shape behind ``length`` tokens, and how fast it reads."""
    config = causal_config("roberta-base", length + STEPS + 1)
    model = random_model(AutoModelForCausalLM, config, device, dtype)
    seconds = statistics.median(cached_steps(model, 1, STEPS + 1, length)[1:])
    _, moved = Shape.of(config).cached_step(1, length, dtype.itemsize)
    return {
        "length": length,
        "seconds": seconds,
        "bytes": moved,
        "share_of_bandwidth": moved / seconds / top.bandwidth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", help="a masked LM; default: roberta-base's shape, random weights"
    )
    parser.add_argument("--samplers", nargs="+", default=["seed", "confidence"], choices=SAMPLERS)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--n_steps", type=int, default=10)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument(
        "--soft_masking", action="store_true", help="compare loops with and without it"
    )
    parser.add_argument("--output", help="write the numbers to this JSON file")
    args = parser.parse_args()
    device, dtype = chosen(args)
    torch.manual_seed(0)
    if args.model:
        model, _ = place(load_masked_lm(args.model), device, dtype, exact=False)
    else:
        config = masked_config("roberta-base", 512)
        model = random_model(AutoModelForMaskedLM, config, device, dtype)
    length = min(args.length, max_length(model.config))
    denoiser = Denoiser(model, Absorbing(MASK), [0, 1, 3])
    options = GenerationOptions(n_steps=args.n_steps)
    shape = Shape.of(model.config) or Shape.of(masked_config("roberta-base", 512))
    top = limits(shape, device, dtype)
    print(f"{args.model or 'roberta-base shape'}, {length} tokens, {args.n_steps} steps, "
          f"{hardware.describe(device, dtype)}, at most {top}")  # fmt: skip
    head = ("loop s", "soft s") if args.soft_masking else ("bare s", "loop s")
    print(
        f"{'sampler':14} {'batch':>5} {'NFE':>4} {head[0]:>8} {head[1]:>8} {'ratio':>7}  {'range':11}  of peak"
    )
    results = []
    for name in args.samplers:
        for batch in args.batch_sizes:
            canvas = canvas_of(batch, length, model.config.vocab_size, options.prefix_len, device)
            r = measure(denoiser, canvas, name, options, args.repeats, args.soft_masking, top)
            results.append(r)
            share = r["share_of_product_rate"]
            print(
                f"{name:14} {batch:5} {r['forwards']:4} {r['bare_seconds']:8.3f} "
                f"{r['loop_seconds']:8.3f} {r['ratio']:7.3f}  "
                f"{r['ratio_range'][0]:.3f}-{r['ratio_range'][1]:.3f}"
                + ("" if share is None else f"  {share:7.0%}"),
                flush=True,
            )
    step = None
    if not (args.model or args.soft_masking):
        step = cached(length, device, dtype, top)
        print(f"gpt2 shape, cached, batch 1 behind {length} tokens: {1000 * step['seconds']:.1f} ms a "
              f"step, {step['bytes'] / step['seconds'] / 1e9:.1f} GB/s, "
              f"{step['share_of_bandwidth']:.0%} of the memory's")  # fmt: skip
    save(
        args.output,
        "loop with soft-masking" if args.soft_masking else "loop",
        device,
        dtype,
        model=args.model or "roberta-base shape",
        options=vars(args),
        limits=asdict(top),
        results=results,
        gpt2_cached_step=step,
    )


if __name__ == "__main__":
    run(main)
