"""In which order should the embedded model write? What the default sampler was chosen by.

Writes one text for each of 16 prompts with every setting, and prints forward passes, seconds, the
share of distinct tokens in a text, the share of tokens that repeat the one before, and, given a
causal model of the same tokenizer (the warm start of `finetune.py --objective causal`), the NLL
under it. Sixteen texts choose a default; they do not rank samplers.

    python benchmarks/orders.py --scorer runs/warm
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from diffusion import checkpoints, objective
from diffusion.errors import run
from diffusion.generation import load_writer
from diffusion.options import GenerationOptions as Options
from diffusion.row_logits import RowLogits

PROMPTS = [
    "The city was founded in",
    "During the war, the ship",
    "The album was released in",
    "The species is",
    "In the second half of the season",
    "He was born in",
    "The river flows through",
    "The episode was",
    "The king and his army",
    "According to the census",
    "The song reached",
    "The storm moved",
    "The church was built",
    "She studied at the university",
    "The game begins",
    "The road runs",
]
SETTINGS = (
    Options(sampler="seed"),
    Options(sampler="ancestral", n_steps=64),
    Options(sampler="confidence", n_steps=64),
    Options(sampler="confidence", n_steps=64, alg_temp=0.3),
    Options(sampler="entropy-bound", entropy_bound=1.0),
    Options(sampler="first-hitting"),
    Options(sampler="first-hitting", block_length=4),
    Options(sampler="first-hitting", block_length=2),
    Options(sampler="first-hitting", block_length=1),
    Options(sampler="first-hitting", block_length=1, temperature=0.8),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="roberta-small-wikitext")
    parser.add_argument("--scorer", help="folder of a causally trained model")
    parser.add_argument("--max_len", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    writer = load_writer(args.model)
    scorer = args.scorer and RowLogits(checkpoints.load_masked_lm(args.scorer, writer.tokenizer))
    print(f"{'setting':58} {'T':>4} {'NFE':>6} {'seconds':>8} {'distinct':>9} {'repeats':>8}  NLL")
    for options in SETTINGS:
        options.max_len, options.seed = args.max_len, args.seed
        *_, last = writer.record(PROMPTS, options, [0] * len(PROMPTS))
        new = ~last.frozen
        rows = [ids[mask] for ids, mask in zip(last.ids, new, strict=True)]
        distinct = sum(len(row.unique()) / len(row) for row in rows) / len(rows)
        repeats = sum((row[1:] == row[:-1]).double().mean().item() for row in rows) / len(rows)
        nll = ""
        if scorer:
            with torch.inference_mode():
                logits = scorer(last.ids, new, causal=True)
                nll = f"{objective.cross_entropy(logits, last.ids[new]).mean().item():.2f}"
        print(
            f"{options.describe():58} {options.temperature:4} {last.nfe.double().mean():6.1f} "
            f"{last.seconds:8.2f} {distinct:9.2f} {repeats:8.3f}  {nll}",
            flush=True,
        )


if __name__ == "__main__":
    run(main)
