"""What the denoising loop costs around the model.

The same generation is timed twice in one run: through `denoise`, and as the bare forward passes
it made (same canvases, same rows of logits, nothing else). Both alternate; medians and the spread
of their ratio are printed and kept as JSON.

    python benchmarks/loop.py                        # the shape of roberta-base, batch 1 and 8
    python benchmarks/loop.py --model roberta-small-wikitext
    python benchmarks/loop.py --soft_masking         # the loop whose masks remember, against the plain one
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import AutoModelForMaskedLM, RobertaConfig

from diffusion import hardware, rng
from diffusion.canvas import Canvas
from diffusion.cli.files import write_text
from diffusion.denoise import denoise
from diffusion.errors import run
from diffusion.models.denoiser import Denoiser
from diffusion.models.families import max_length
from diffusion.models.loading import load_masked_lm
from diffusion.models.soft import SoftMask, SoftMasked
from diffusion.noise import Absorbing
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.catalog import SAMPLERS
from diffusion.samplers.make import make_sampler

MASK = 4  # any id will do: the text does not matter here


class Recorder:
    """Passes calls on to a denoiser and remembers what was asked."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.calls = denoiser, []
        self.noise, self.passes = denoiser.noise, denoiser.passes

    def start(self, canvas):
        return self

    def recall(self):
        return None

    def slots(self, question):
        return torch.full_like(question.ids[:, 0], question.ids.shape[1])

    def __call__(self, question):
        self.calls.append((question.ids.clone(), question.asked.clone(), question.shadows))
        return self.denoiser(question)


def canvas_of(batch: int, length: int, vocab: int, prefix: int, device) -> Canvas:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocab, (batch, length), generator=generator)
    frozen = torch.zeros_like(ids, dtype=torch.bool)
    frozen[:, :prefix] = True
    ids[~frozen] = MASK
    return Canvas(ids, frozen, torch.zeros_like(frozen)).to(device)


def measure(
    denoiser, canvas, name: str, options: GenerationOptions, repeats: int, soft: bool
) -> dict:
    """Seconds of the loop over those of the bare passes; ``soft``: of the loop with soft-masking over
    those of the loop without."""
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
    return {
        "sampler": name,
        "batch": len(canvas.ids),
        "forwards": len(recorder.calls),
        "rows_of_logits": sum(int(rows.sum()) for _, rows, _ in recorder.calls),
        "loop_seconds": statistics.median(loop for loop, _ in pairs),
        "bare_seconds": statistics.median(alone for _, alone in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
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
    hardware.use_all_cores()
    device = hardware.choose_device(args.device)
    dtype = hardware.choose_dtype(args.dtype, device)
    torch.manual_seed(0)
    if args.model:
        model = load_masked_lm(args.model)
    else:
        model = AutoModelForMaskedLM.from_config(
            RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
        ).eval()
    length = min(args.length, max_length(model.config))
    denoiser = Denoiser(model.to(device, dtype), Absorbing(MASK), [0, 1, 3])
    options = GenerationOptions(n_steps=args.n_steps)
    print(f"{args.model or 'roberta-base shape'}, {length} tokens, {args.n_steps} steps, "
          f"{hardware.describe(device, dtype)}")  # fmt: skip
    head = ("loop s", "soft s") if args.soft_masking else ("bare s", "loop s")
    print(f"{'sampler':14} {'batch':>5} {'NFE':>4} {head[0]:>8} {head[1]:>8} {'ratio':>7}  range")
    results = []
    for name in args.samplers:
        for batch in args.batch_sizes:
            canvas = canvas_of(batch, length, model.config.vocab_size, options.prefix_len, device)
            r = measure(denoiser, canvas, name, options, args.repeats, args.soft_masking)
            results.append(r)
            print(
                f"{name:14} {batch:5} {r['forwards']:4} {r['bare_seconds']:8.3f} "
                f"{r['loop_seconds']:8.3f} {r['ratio']:7.3f}  "
                f"{r['ratio_range'][0]:.3f}-{r['ratio_range'][1]:.3f}",
                flush=True,
            )
    if args.output:
        record = {
            "benchmark": "loop with soft-masking" if args.soft_masking else "loop",
            "model": args.model or "roberta-base shape",
            **hardware.record(device, dtype),
            "options": vars(args),
            "results": results,
        }
        write_text(Path(args.output), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
