"""How fast diffusion is against GPT-2 with its cache, by way of writing and batch size.

    python studies/speed.py --repeats 3                               # the embedded models
    python studies/speed.py --model roberta-base --baseline gpt2 --batch_sizes 1

Both write the same number of tokens after the same prompt, in turns. RoBERTa writes blocks of 16 tokens
in 4, 8 and 16 passes (`confidence`), one token a pass from left to right (`causal`), by `speculative` if it
was trained for it, by the model's own default, and the whole canvas in 10 passes of the reference loop. Keys
and values of finished blocks are cached. Both models use packed matrices (`diffusion.models.linear`); one
more row is GPT-2 without them, as transformers runs it. ``times_as_fast`` is GPT-2's seconds divided by
RoBERTa's, round by round. It says nothing about the quality of the texts.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion import hardware
from diffusion.autoregressive import CausalWriter, load_causal_writer
from diffusion.errors import UserError, run
from diffusion.generate import load_writer
from diffusion.models import loading
from diffusion.options import GenerationOptions
from studies import common

BLOCK, PASSES, STEPS = 16, (4, 8, 16), 10
GPT2 = "GPT-2"


def ways(length: int, top_k: int, trained: bool) -> dict[str, GenerationOptions]:
    """How RoBERTa writes, by name; ``trained``: to write in blocks, without which drafts mean nothing."""
    blocks = -(-length // BLOCK)
    own = {
        f"blocks of {BLOCK}, {n} passes each": {
            "sampler": "confidence", "attention": "block", "block_length": BLOCK, "n_steps": n * blocks
        }
        for n in PASSES
    } | {"causal": {"sampler": "causal", "attention": "block"}}  # fmt: skip
    if trained:
        own["speculative"] = {"sampler": "speculative"}
    own[f"full canvas, {STEPS} passes"] = {
        "sampler": "random-remask",
        "attention": "full",
        "n_steps": STEPS,
    }
    found = {k: GenerationOptions(**v, length=length, top_k=top_k) for k, v in own.items()}
    return found | {"default": GenerationOptions(length=length)}


def unpacked(writer: CausalWriter) -> CausalWriter:
    """The same model with its linear maps and its forward pass as transformers has them."""
    model = loading.load_causal_lm(writer.name, writer.tokenizer).to(writer.device, writer.dtype)
    model.generation_config = writer.model.generation_config
    model.__class__ = type("Gpt2", (type(model),), {})  # no class whose layers are called plainly
    return dataclasses.replace(writer, model=model)


def main() -> None:
    parser = common.flags(__doc__, "model", "baseline", "length", "repeats", "dtype",
                          length=240, dtype="float32")  # fmt: skip
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--top_k", type=int, default=0, help="of all ways but the default; 0: none")
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 16])
    args = common.read(parser)
    masked = load_writer(args.model, None, "auto", args.dtype)
    causal = load_causal_writer(args.baseline, None, "auto", args.dtype)
    if not masked.denoiser.backbone.keeps:
        raise UserError(f"--model {args.model} caches no keys and values; give a RoBERTa or a BERT")
    plain = GenerationOptions(length=args.length, top_k=args.top_k)
    writers = {GPT2: (causal, plain), f"{GPT2}, not packed": (unpacked(causal), plain)}
    every = ways(args.length, args.top_k, masked.blocks)
    writers |= {name: (masked, options) for name, options in every.items()}
    print(f"{args.model} against {args.baseline}, {args.length} tokens, "
          f"{hardware.describe(masked.device, masked.dtype)}")  # fmt: skip
    results = {}
    for batch in args.batch_sizes:
        passes = {}

        def seconds(name: str, batch: int = batch, passes: dict = passes) -> float:
            writer, options = writers[name]
            *_, last = writer.generate([args.prompt] * batch, options, list(range(batch)))
            passes[name] = int(last.nfe.max())
            return last.seconds

        found = common.in_turns({name: partial(seconds, name) for name in writers}, args.repeats)
        results[batch] = []
        for name, runs in found.items():
            ratios = (theirs / own for theirs, own in zip(found[GPT2], runs, strict=True))
            row = {"way": name, "passes": passes[name], **common.spread("seconds", runs)}
            row |= common.spread("times_as_fast", ratios)
            row["tokens_per_second"] = batch * args.length / row["seconds"]
            results[batch].append(row)
            print(f"batch {batch:3}  {name:28} {row['passes']:4} passes "
                  f"{common.shown(row, 'seconds', 3)} s {row['tokens_per_second']:8.0f} tokens/s  "
                  f"{common.shown(row, 'times_as_fast')}", flush=True)  # fmt: skip
    common.save(args, "speed", masked.device, masked.dtype, results=results)


if __name__ == "__main__":
    run(main)
