"""Fill a hole in held-out text: what sees both sides against what sees the left one.

    python benchmarks/infilling.py --dataset_dir data --output benchmarks/results/infilling.json   # 5 minutes

From passages of WikiText-2's test split a span of some tokens is cut out of the middle. RoBERTa fills it on
the full canvas, with both sides given, from left to right or the surest first. GPT-2 goes on from the left
side, once; and as often as --candidates says, of which the one is taken that its own likelihood of fill and
right side together prefers: the strong way for a model that was not trained to fill in.

ROUGE-L (F1 over words) and exact match are those of the span; the scorer reads fill and right side behind
the left one. `own nats` is the -log p per token of the true span: of RoBERTa with both sides, of GPT-2 with
the left one, both exact. Intervals are 95 %, over passages.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from diffusion import hardware
from diffusion.canvas import Canvas
from diffusion.cli.console import progress, say
from diffusion.cli.files import check_file, write_text
from diffusion.data import packing
from diffusion.data.corpus import load_documents
from diffusion.errors import UserError, run
from diffusion.evaluation import metrics
from diffusion.evaluation.scorer import causal_logits, load_scorer
from diffusion.generate import load_writer
from diffusion.likelihood import causal_nll, ordered_nll
from diffusion.models.causal import load_causal_writer
from diffusion.options import GenerationOptions

ORDERS = {
    "left to right": {"sampler": "first-hitting", "block_length": 1},
    "surest first": {"sampler": "confidence"},
}


def rouge_l(one: str, other: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004)."""
    a, b = one.split(), other.split()
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for j, there in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if word == there else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(a) + len(b)) if a or b else 1.0


def diffused(writer, ids: torch.Tensor, hole: slice, how: dict, seed: int) -> torch.Tensor:
    """Ids (N, n) for the hole of passages (N, L)."""
    frozen = torch.ones_like(ids, dtype=torch.bool)
    frozen[:, hole] = False
    canvas = Canvas(writer.noise.corrupt(ids, ~frozen), frozen, torch.zeros_like(frozen))
    steps = {} if "block_length" in how else {"n_steps": hole.stop - hole.start}
    options = GenerationOptions(**how, **steps, attention="full", seed=seed)
    *_, last = writer.denoise(canvas, options, range(len(ids)), may_end=False)
    return last.ids[:, hole].cpu()


def continued(writer, ids: torch.Tensor, hole: slice, seed: int) -> torch.Tensor:
    """Ids (N, n) with which a causal model goes on behind the left side of passages (N, L)."""
    prompts = [writer.tokenizer.decode(row[1 : hole.start]) for row in ids]
    length = hole.stop - hole.start
    *_, last = writer.record(prompts, GenerationOptions(length=length, seed=seed), range(len(ids)))
    return last.ids[:, -length:].cpu()


def own_nats(writer, ids: torch.Tensor, asked: torch.Tensor, causal: bool) -> np.ndarray:
    """(N,) exact -log p per token of the tokens (N, L) that are asked for."""
    sizes = torch.ones(len(writer.tokenizer))
    if causal:
        return np.array(causal_nll(causal_logits(writer.model), ids, asked, sizes).by_block)
    denoiser = writer.denoiser
    return np.array(ordered_nll(denoiser.reader, ids, asked, denoiser.noise, sizes).by_block)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="roberta-small-wikitext")
    parser.add_argument("--baseline", default="gpt2-small-wikitext")
    parser.add_argument("--scorer", default="gpt2-small-books")
    parser.add_argument("--dataset_dir", default=None, help="Folder with wikitext-2.")
    parser.add_argument("--passages", type=int, default=200)
    parser.add_argument("--length", type=int, default=64, help="Tokens of a passage.")
    parser.add_argument("--holes", type=int, nargs="+", default=[2, 4, 8, 16], help="In tokens.")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default=None, help="A JSON file.")
    args = parser.parse_args()
    if args.output:
        check_file("--output", args.output)
    if not all(1 <= n <= args.length // 2 for n in args.holes) or args.passages < 2:
        raise UserError("--holes need 1 to half of --length tokens, --passages at least 2")
    roberta, gpt2 = load_writer(args.model), load_causal_writer(args.baseline)
    if roberta.tokenizer.get_vocab() != gpt2.tokenizer.get_vocab():
        raise UserError("--model and --baseline have other tokens; holes are cut by tokens")
    scorer = load_scorer(args.scorer)
    documents = load_documents("wikitext-2", "test", args.dataset_dir)
    tokens = roberta.tokenizer
    ids = packing.pack(documents, tokens, args.length)[: args.passages].long()
    rows = []
    for size in args.holes:
        start = (args.length - size) // 2
        hole = slice(start, start + size)
        asked = torch.zeros_like(ids, dtype=torch.bool)
        asked[:, hole] = True
        fills = {"the true span": ids[:, hole]}
        for name, how in ORDERS.items():
            fills[f"RoBERTa, both sides, {name}"] = diffused(roberta, ids, hole, how, args.seed)
        drawn = [continued(gpt2, ids, hole, args.seed + i) for i in range(args.candidates)]
        behind = torch.zeros_like(asked)
        behind[:, start:] = True
        whole = [torch.cat([ids[:, :start], one, ids[:, hole.stop :]], 1) for one in drawn]
        nats = np.stack([own_nats(gpt2, texts, behind, True) for texts in whole])
        best = torch.stack(drawn)[nats.argmin(0), torch.arange(len(ids))]
        fills["GPT-2, left side"] = drawn[0]
        fills[f"GPT-2, best of {args.candidates} by both"] = best
        truth = [tokens.decode(row).strip() for row in ids[:, hole]]
        own = {"RoBERTa": own_nats(roberta, ids, asked, False),
               "GPT-2": own_nats(gpt2, ids, asked, True)}  # fmt: skip
        for name, filled in fills.items():
            texts = [tokens.decode(row).strip() for row in filled]
            left = [tokens.decode(row[1:start]) for row in ids]
            rest = [
                tokens.decode(torch.cat([f, row[hole.stop :]]))
                for f, row in zip(filled, ids, strict=True)
            ]
            read = scorer.read([(a, b, False) for a, b in zip(left, rest, strict=True)])
            measured = {
                "rouge_l": metrics.bootstrap(
                    metrics.mean, [rouge_l(a, b) for a, b in zip(texts, truth, strict=True)]
                ),
                "exact": metrics.share(
                    sum(a == b for a, b in zip(texts, truth, strict=True)), len(truth)
                ),
                "scorer_nats": metrics.bootstrap(
                    metrics.ratio, [o.nats for o in read], [o.tokens for o in read]
                ),
            }
            kind = name.split(",")[0]
            if kind in own:
                measured["own_nats"] = metrics.bootstrap(metrics.mean, own[kind])
            row = {"hole": size, "how": name, "first": texts[:3]}
            rows.append(row | {k: [v.value, v.low, v.high] for k, v in measured.items()})
            cells = [
                str(measured.get(k, "")) for k in ("rouge_l", "exact", "scorer_nats", "own_nats")
            ]
            say("| " + " | ".join([str(size), name, *cells]) + " |")
        progress(args.holes.index(size) + 1, len(args.holes), "hole")
    if args.output:
        record = hardware.record(roberta.device, roberta.dtype)
        settings = {k: v for k, v in vars(args).items() if k not in ("output", "dataset_dir")}
        write_text(
            Path(args.output), json.dumps(record | settings | {"rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    run(main)
