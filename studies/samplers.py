"""Every sampler once: forward passes, seconds, and a text, from the same prompt and seed.

python studies/samplers.py --output studies/results/samplers.json
python studies/samplers.py --table              # the table of docs/samplers.md, from those numbers
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from diffusion.errors import run
from diffusion.generate import Writer, load_writer
from diffusion.options import GenerationOptions
from diffusion.samplers import spec
from diffusion.samplers.catalog import CAUSAL, SAMPLERS, STEPPED, VERIFYING
from diffusion.samplers.make import sampler_class
from diffusion.views.frames import written_text
from studies import common

RESULTS = Path(__file__).parent / "results" / "samplers.json"


def text_of(writer: Writer, sampler: str, args) -> dict:
    options = GenerationOptions(
        sampler=sampler,
        attention="block" if sampler in (*CAUSAL, *VERIFYING) else "full",
        n_steps=args.n_steps if sampler in STEPPED else None,
        length=args.length,
        seed=args.seed,
        max_len=args.length + 32,
    )
    *_, last = writer.generate([args.prompt], options, [0])
    text = written_text(writer.tokenizer, last, 0)
    return {
        "setting": sampler,
        "nfe": int(last.nfe[0]),
        "slots": int(last.slots[0]),
        "seconds": last.seconds,
        "text": " ".join(text[len(args.prompt) :].split()),
    }


def table(record: dict) -> str:
    """Markdown: the samplers with their facts."""
    by_name = {r["setting"]: r for r in record["results"]}
    lines = [
        "| `--sampler` | what it does | forward passes, N steps, L tokens | corrects itself | options | source | passes | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, facts in SAMPLERS.items():
        own = [f"--{o}" if o in spec.SHARED else o for o in spec.options_of(sampler_class(name))]
        r = by_name.get(name)
        cells = [
            f"`{name}`",
            facts.line,
            facts.nfe,
            "yes" if facts.corrects else "no",
            f"`{' '.join(own)}`" if own else "",
            facts.source,
            str(r["nfe"]) if r else "not in this run",
            f"{r['seconds']:.2f}" if r else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = common.flags(__doc__, "model", "length", length=48)
    parser.add_argument("--prompt", default="The city was founded in")
    parser.add_argument("--n_steps", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help=f"print {RESULTS.name} as Markdown")
    args = common.read(parser)
    if args.table:
        print(table(json.loads(RESULTS.read_text())))
        return
    writer = load_writer(args.model)
    names = [name for name, entry in SAMPLERS.items() if "absorbing" in entry.noises]
    text_of(writer, names[0], args)  # warms up
    results = []
    for name in names:
        results.append(row := text_of(writer, name, args))
        print(
            f"{name:14} {row['nfe']:4} passes {row['seconds']:6.2f} s  {row['text'][:70]}",
            flush=True,
        )
    common.save(args, "samplers", writer.device, writer.dtype, threads=torch.get_num_threads(),
                results=results)  # fmt: skip


if __name__ == "__main__":
    run(main)
