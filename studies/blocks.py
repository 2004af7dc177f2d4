"""Diffusion against GPT-2 with its cache, batch by batch.

    python studies/blocks.py                                          # the embedded models: two minutes
    python studies/blocks.py --model roberta-base --baseline gpt2 --batch_sizes 1

Both write as many tokens behind the same prompt, in turns. RoBERTa writes blocks of 16 tokens in 4, 8 and
16 passes (`confidence`: four, two and one token at once), one token a pass from left to right (`causal`), where
it was trained for it by its default (`speculative`), and the whole canvas in 10 passes of the reference
loop. Keys and values of finished blocks are kept. Both have packed matrices (`models.linear`); a row more is
GPT-2 without, as transformers runs it. Seconds are medians; the ratio is GPT-2's seconds over RoBERTa's, round
by round: 1.5 is one and a half times as fast. What such texts are worth is in RESULTS.md; speed says nothing
of it.
"""

import argparse
import dataclasses
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from diffusion import hardware
from diffusion.autoregressive import CausalWriter, load_causal_writer
from diffusion.errors import UserError, run
from diffusion.generate import load_writer
from diffusion.models import loading
from diffusion.options import GenerationOptions
from studies.machine import check_run, save

BLOCK, PASSES, STEPS = 16, (4, 8, 16), 10


def ways(length: int, top_k: int, trained: bool) -> dict[str, GenerationOptions]:
    """How RoBERTa writes, by name.

    Args:
        trained: it was, to write in blocks; what a draft is worth says nothing without.
    """
    blocks = -(-length // BLOCK)
    common = {"length": length, "top_k": top_k}
    return {
        **{
            f"blocks of {BLOCK}, {n} passes each": GenerationOptions(
                sampler="confidence", attention="block", block_length=BLOCK, n_steps=n * blocks, **common
            )
            for n in PASSES
        },
        "causal": GenerationOptions(sampler="causal", attention="block", **common),
        **({"speculative": GenerationOptions(sampler="speculative", **common)} if trained else {}),
        f"full canvas, {STEPS} passes": GenerationOptions(
            sampler="seed", attention="full", n_steps=STEPS, **common
        ),
    }  # fmt: skip


def unpacked(writer: CausalWriter) -> CausalWriter:
    """The same model with its maps as transformers has them."""
    model = loading.load_causal_lm(writer.name, writer.tokenizer).to(writer.device, writer.dtype)
    model.generation_config = writer.model.generation_config
    return dataclasses.replace(writer, model=model)


def timed(writer, prompts: list[str], options: GenerationOptions) -> tuple[float, int]:
    """(seconds, forward passes) of a batch of texts."""
    *_, last = writer.record(prompts, options, list(range(len(prompts))))
    return last.seconds, int(last.nfe.max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="roberta-small-wikitext")
    parser.add_argument("--baseline", default="gpt2-small-wikitext")
    parser.add_argument("--prompt", default="The city was founded in")
    parser.add_argument("--length", type=int, default=240, help="new tokens")
    parser.add_argument("--top_k", type=int, default=50)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--output", help="write the numbers to this JSON file")
    args = parser.parse_args()
    check_run(args.repeats, args.output)
    hardware.use_all_cores()
    masked = load_writer(args.model, None, "auto", args.dtype)
    causal = load_causal_writer(args.baseline, None, "auto", args.dtype)
    if not masked.denoiser.backbone.keeps:
        raise UserError(f"--model {args.model} keeps no keys and values; give a RoBERTa or a BERT")
    without = unpacked(causal)
    every = ways(args.length, args.top_k, masked.blocks)
    plain = GenerationOptions(length=args.length, top_k=args.top_k)
    device = masked.device
    print(f"{args.model} against {args.baseline}, {args.length} tokens, "
          f"{hardware.describe(device, masked.dtype)}")  # fmt: skip
    results = {}
    for batch in args.batch_sizes:
        prompts = [args.prompt] * batch
        tasks = {
            "GPT-2": (causal, plain),
            "GPT-2, not packed": (without, plain),
            **{name: (masked, o) for name, o in every.items()},
        }
        for writer, options in tasks.values():  # to warm up
            timed(writer, prompts, options)
        rounds = [
            {name: timed(writer, prompts, options) for name, (writer, options) in tasks.items()}
            for _ in range(args.repeats)
        ]
        results[batch] = []
        for name in tasks:
            seconds = sorted(r[name][0] for r in rounds)
            ratios = sorted(r["GPT-2"][0] / r[name][0] for r in rounds)
            r = {
                "way": name, "passes": rounds[0][name][1],
                "seconds": statistics.median(seconds), "seconds_range": [seconds[0], seconds[-1]],
                "tokens_per_second": batch * args.length / statistics.median(seconds),
                "times_as_fast": statistics.median(ratios),
                "times_as_fast_range": [ratios[0], ratios[-1]],
            }  # fmt: skip
            results[batch].append(r)
            print(f"batch {batch:3}  {name:28} {r['passes']:4} passes {r['seconds']:8.3f} s "
                  f"({seconds[0]:.3f}-{seconds[-1]:.3f}) {r['tokens_per_second']:8.0f} tokens/s  "
                  f"{r['times_as_fast']:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})", flush=True)  # fmt: skip
    save(args.output, "blocks", device, masked.dtype, options=vars(args), results=results)


if __name__ == "__main__":
    torch.manual_seed(0)
    run(main)
