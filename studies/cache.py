"""What a token costs as the text grows: block attention with and without kept keys and values.

A RoBERTa of random weights with room for long texts writes from left to right; the time of each
forward pass is noted by the length of the text before it. With the cache a pass computes the slots
of one block, and attends to what is kept: its time is a constant and a part that grows linearly.

    python studies/cache.py --output studies/results/cache.json
    python studies/cache.py --length 512 --samplers causal
"""

import argparse
import json
import statistics
import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from diffusion import hardware, rng
from diffusion.canvas import Canvas
from diffusion.cli.files import write_text
from diffusion.denoise import denoise
from diffusion.errors import run
from diffusion.models.cached import InBlocks
from diffusion.models.denoiser import Denoiser
from diffusion.noise import Absorbing
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler

MASK, PARTS = 4, 8


def times(model, length: int, name: str, keep: bool) -> list[float]:
    """Milliseconds of a pass, the medians over equal parts of the text."""
    ids = torch.full((1, length), MASK)
    ids[0, 0] = 0
    frozen = ids == 0
    canvas = Canvas(ids, frozen, torch.zeros_like(frozen))
    denoiser = Denoiser(model, Absorbing(MASK), [])
    size = 0 if name == "causal" else 16
    denoiser = InBlocks(denoiser, size, keep, clean=name == "causal")
    own = {} if name == "causal" else {"block_length": size}
    sampler = make_sampler(name, length // 4, **own)
    steps = denoise(canvas, denoiser, sampler, Sampling(top_k=50), rng.row_keys(0, 1))
    # (tokens written before the pass, its milliseconds)
    passes = [
        (length - 1 - int(a.masked.sum()), 1000 * (b.seconds - a.seconds))
        for a, b in pairwise(steps)
    ]
    parts = [[] for _ in range(PARTS)]
    for written, spent in passes:
        parts[min(PARTS - 1, written * PARTS // length)].append(spent)
    return [statistics.median(part) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--length", type=int, default=2000, help="tokens of the text")
    parser.add_argument("--samplers", nargs="+", default=["causal", "confidence"])
    parser.add_argument("--uncached", type=int, default=512, help="tokens without a cache")
    parser.add_argument("--output", help="file for the numbers, as JSON")
    args = parser.parse_args()
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=8192, hidden_size=256, num_hidden_layers=6, num_attention_heads=4,
        intermediate_size=1024, max_position_embeddings=args.length + 8, pad_token_id=1,
    )  # fmt: skip
    model = RobertaForMaskedLM(config).eval()
    found = {
        "length": args.length,
        "rows": [],
        **hardware.record(torch.device("cpu"), torch.float32),
    }
    for name in args.samplers:
        for keep, length in ((True, args.length), (False, args.uncached)):
            medians = times(model, length, name, keep)
            row = {"sampler": name, "cache": keep, "length": length, "ms": medians}
            found["rows"].append(row)
            told = ", ".join(f"{value:.2f}" for value in medians)
            kept = "kept" if keep else "not kept"
            print(
                f"{name}, {kept}, ms a pass in each eighth of {length} tokens: {told}", flush=True
            )
    if args.output:
        write_text(Path(args.output), json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
