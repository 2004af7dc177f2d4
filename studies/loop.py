"""What the denoising loop costs around the model.

The same generation is timed through `denoise` and as the bare forward passes it made: the same canvases,
the same rows of logits, nothing else. ``ratio`` is the loop's time divided by that of the passes. Beside it
stand the operations per second of the bare passes, as a share of the machine's limit (`machine`).

    python studies/loop.py --repeats 3           # the shape of roberta-base, batch 1 and 8: 5 minutes
    python studies/loop.py --model roberta-small-wikitext
    python studies/loop.py --soft_masking        # the loop with soft-masking against the one without
"""

import statistics
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import AutoModelForMaskedLM

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
from studies import common
from studies.machine import Shape, masked_config, product_rates, random_model

MASK = 4  # any id will do: the text does not matter here
PREFIX = 16  # tokens of the prompt


class Recorder:
    """Passes queries on to a denoiser and keeps them."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.calls = denoiser, []
        self.noise, self.passes = denoiser.noise, denoiser.passes

    def start(self, canvas):
        return self

    def slots(self, query):
        return torch.full_like(query.ids[:, 0], query.ids.shape[1])

    def __call__(self, query):
        self.calls.append((query.ids.clone(), query.query_mask.clone(), query.shadows))
        return self.denoiser(query)


def operations(denoiser: Denoiser, calls: list[tuple]) -> int | None:
    """Of the matrix products of bare passes; None where shadow copies or another type of model make
    it a different number."""
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
    """Random text of which all but the first ``prefix`` tokens are masked."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocab, (batch, length), generator=generator)
    frozen = torch.zeros_like(ids, dtype=torch.bool)
    frozen[:, :prefix] = True
    ids[~frozen] = MASK
    return Canvas(ids, frozen, torch.zeros_like(frozen)).to(device)


def measure(
    denoiser, canvas, name: str, options: GenerationOptions, repeats: int, soft: bool, top: float
) -> dict:
    """Seconds of the loop over those of the bare passes; ``soft``: of the loop with soft-masking over
    those of the loop without. ``top`` is the machine's product rate."""
    device = canvas.ids.device
    keys = rng.row_keys(0, len(canvas.ids), device)
    sampling = Sampling(options.temperature, options.top_k, options.top_p)

    def loop(through) -> float:
        *_, last = denoise(canvas, through, make_sampler(name, options.n_steps), sampling, keys)
        return last.seconds

    @torch.inference_mode()
    def bare() -> float:
        started = hardware.now(device)
        for ids, rows, shadows in recorder.calls:
            if shadows is not None and shadows.any():
                denoiser.backbone.shadowed(ids, rows, shadows, denoiser.noise)
            else:
                denoiser.backbone(ids, rows)
        return hardware.now(device) - started

    recorder = Recorder(denoiser)
    loop(recorder)
    plain = partial(loop, denoiser)
    tasks = {"bare": bare, "loop": plain}
    if soft:
        tasks = {"bare": plain, "loop": partial(loop, SoftMasked(denoiser, SoftMask().to(device)))}
    found = common.in_turns(tasks, repeats)
    alone = statistics.median(found["bare"])
    flop = None if soft else operations(denoiser, recorder.calls)
    return {
        "sampler": name,
        "batch": len(canvas.ids),
        "forwards": len(recorder.calls),
        "rows_of_logits": sum(int(rows.sum()) for _, rows, _ in recorder.calls),
        "loop_seconds": statistics.median(found["loop"]),
        "bare_seconds": alone,
        "flop": flop,
        "share_of_product_rate": flop and flop / alone / top,
        **common.spread(
            "ratio", (a / b for a, b in zip(found["loop"], found["bare"], strict=True))
        ),
    }


def main() -> None:
    parser = common.flags(__doc__, "model", "length", "repeats", "device", "dtype",
                          model=None, repeats=9)  # fmt: skip
    parser.add_argument(
        "--samplers", nargs="+", default=["random-remask", "confidence"], choices=SAMPLERS
    )
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--n_steps", type=int, default=10)
    parser.add_argument("--soft_masking", action="store_true", help="time it against none")
    args = common.read(parser)
    device, dtype = common.chosen(args)
    torch.manual_seed(0)
    if args.model:
        model = place(load_masked_lm(args.model), device, dtype, exact=False)
    else:  # random weights
        config = masked_config("roberta-base", 512)
        model = random_model(AutoModelForMaskedLM, config, device, dtype)
    length = min(args.length, max_length(model.config))
    denoiser = Denoiser(model, Absorbing(MASK), [0, 1, 3])
    options = GenerationOptions(n_steps=args.n_steps).drawn()
    shape = Shape.of(model.config) or Shape.of(masked_config("roberta-base", 512))
    rates = product_rates(shape, device, dtype)
    top = max(rates.values())
    print(f"{args.model or 'roberta-base shape'}, {length} tokens, {args.n_steps} steps, "
          f"{hardware.describe(device, dtype)}, at most {top / 1e9:.0f} GFLOP/s")  # fmt: skip
    results = []
    for name in args.samplers:
        for batch in args.batch_sizes:
            canvas = canvas_of(batch, length, model.config.vocab_size, PREFIX, device)
            row = measure(denoiser, canvas, name, options, args.repeats, args.soft_masking, top)
            results.append(row)
            share = row["share_of_product_rate"]
            print(f"{name:14} batch {batch:3}  {row['forwards']:4} passes {row['bare_seconds']:8.3f} s, "
                  f"loop {row['loop_seconds']:8.3f} s, ratio {common.shown(row, 'ratio', 3)}"
                  + ("" if share is None else f", {share:.0%} of peak"), flush=True)  # fmt: skip
    common.save(args, "loop", device, dtype, product_rates=rates, results=results)


if __name__ == "__main__":
    run(main)
