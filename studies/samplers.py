"""Every sampler once: forward passes, seconds, the time spent around the model, and a text.

With the embedded model each writes one text from the same prompt and seed. At the shape of roberta-base
(random weights), batch 8 and 256 tokens, the first steps of each are timed, and ``outside`` is the share
of the time that is not spent in calls of the denoiser. On a CPU it is of processor time, in one thread, so
that other work on the machine does not change it.

    python studies/samplers.py --output studies/results/samplers.json
    python studies/samplers.py --table              # the table of docs/samplers.md, from those numbers
"""

import json
import sys
import time
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import AutoModelForMaskedLM

from diffusion import hardware, rng
from diffusion.denoise import denoise
from diffusion.errors import run
from diffusion.generate import Writer, load_writer
from diffusion.models.denoiser import Denoiser
from diffusion.models.guidance import Guided, Processed
from diffusion.noise import Absorbing
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.catalog import CAUSAL, METHODS, STEPPED
from diffusion.samplers.make import make_sampler
from diffusion.views.frames import written_text
from studies import common
from studies.loop import MASK, canvas_of
from studies.machine import masked_config, random_model

RESULTS = Path(__file__).parent / "results" / "samplers.json"

# One row each: the sampler, and what is not its default. Sampled with top-k 50 and top-p 0.95.
SETTINGS = [
    *({"sampler": name} for name, entry in METHODS.items() if "absorbing" in entry.noises),
    *({"sampler": "remdm", "remask": kind} for kind in ("rescale", "conf", "loop", "psi")),
    {"sampler": "p2", "p2_score": "released"},
    {"sampler": "first-hitting", "block_length": 1},
    {"sampler": "confidence", "block_length": 8},
    {"sampler": "remdm", "block_length": 8},
    *(
        {"sampler": name, "attention": "block", "block_length": 4}
        for name in ("first-hitting", "confidence", "ancestral")
    ),
    {"sampler": "ancestral", "clock_delay": 0.8},
    {"sampler": "confidence", "early_commit": 3.0},
    {"sampler": "ancestral", "guidance": 1.0},
    {"sampler": "confidence", "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
]


def named(setting: dict) -> str:
    own = [f"--{k} {v}" for k, v in setting.items() if k != "sampler"]
    return " ".join([setting["sampler"], *own])


def clock(device: torch.device) -> float:
    """Seconds: of this process on a CPU, else on the wall."""
    return time.process_time() if device.type == "cpu" else hardware.now(device)


class Clock:
    """A denoiser that notes the time spent in it."""

    def __init__(self, denoiser):
        self.denoiser, self.seconds = denoiser, 0.0
        self.noise, self.device, self.passes = denoiser.noise, denoiser.device, denoiser.passes

    def start(self, canvas):
        self.denoiser = self.denoiser.start(canvas)
        return self

    def recall(self):
        return None

    def slots(self, query):
        return self.denoiser.slots(query)

    def __call__(self, query):
        started = clock(self.device)
        logits = self.denoiser(query)
        self.seconds += clock(self.device) - started
        return logits


def attention_of(setting: dict) -> str:
    """The full canvas, but for what cannot be read on it."""
    return setting.get("attention", "block" if setting["sampler"] in CAUSAL else "full")


def text_of(writer: Writer, setting: dict, args) -> dict:
    options = GenerationOptions(
        **{"attention": attention_of(setting), **setting},
        length=args.length,
        seed=args.seed,
        max_len=args.length + 32,
    )
    options.n_steps = args.n_steps if options.sampler in STEPPED else None
    *_, last = writer.generate([args.prompt], options, [0])
    text = written_text(writer.tokenizer, last, 0)
    return {
        "nfe": int(last.nfe[0]),
        "slots": int(last.slots[0]),
        "seconds": last.seconds,
        "text": " ".join(text[len(args.prompt) :].split()),
    }


def share_outside(denoiser, setting: dict, args) -> dict:
    """The first ``args.steps`` steps at the large shape."""
    own = GenerationOptions(**setting).sampler_options()
    stepped = {"n_steps": args.steps} if setting["sampler"] in STEPPED else {}
    canvas = canvas_of(args.batch, 256, 50265, 16, denoiser.device)
    through = timed = Clock(denoiser)
    if "guidance" in setting:
        through = Guided(timed, setting["guidance"], [0])
    if "repetition_penalty" in setting:
        through = Processed(timed, setting["repetition_penalty"], setting["no_repeat_ngram_size"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if denoiser.device.type == "cpu" else threads)
    stream = denoise(
        canvas,
        through,
        make_sampler(setting["sampler"], **stepped, **own),
        Sampling(1.0, 50, 0.95),
        rng.row_keys(0, args.batch, denoiser.device),
    )
    started = clock(denoiser.device)
    *_, last = islice(stream, args.steps + 1)
    total = clock(denoiser.device) - started
    torch.set_num_threads(threads)
    return {
        "steps": last.index,
        "model_seconds": timed.seconds,
        "outside": 1 - timed.seconds / total,
    }


def table(record: dict) -> str:
    """Markdown. Samplers with their facts first, then the other settings."""
    by_name = {r["setting"]: r for r in record["results"]}
    options = record["options"]
    lines = [
        "| `--sampler` | what it does | forward passes, N steps, L tokens | corrects itself | options | source | passes | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, facts in METHODS.items():
        own = [f"--{option}" for option in facts.options]
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
    lines += [
        "",
        f'Each with the prompt "{options["prompt"]}", {options["length"]} new tokens, '
        f"N = {options['n_steps']}, seed {options['seed']}:",
        "",
        "| setting | passes | seconds | outside the model | it wrote |",
        "|---|---|---|---|---|",
    ]
    for r in record["results"]:
        text = r["text"].replace("|", "\\|")
        text = text if len(text) <= 110 else text[:107] + "..."
        outside = f"{r['outside']:.1%}" if "outside" in r else ""
        lines.append(f"| `{r['setting']}` | {r['nfe']} | {r['seconds']:.2f} | {outside} | {text} |")
    return "\n".join(lines)


def main() -> None:
    parser = common.flags(__doc__, "model", "length", length=48)
    parser.add_argument("--prompt", default="The city was founded in")
    parser.add_argument("--n_steps", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3, help="at roberta-base's shape; 0: none")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", nargs="+", help="samplers to run; default: all")
    parser.add_argument("--table", action="store_true", help=f"print {RESULTS.name} as Markdown")
    args = common.read(parser)
    if args.table:
        print(table(json.loads(RESULTS.read_text())))
        return
    writer = load_writer(args.model)
    torch.manual_seed(0)
    large = None
    if args.steps:
        device = hardware.choose_device("auto")
        dtype = hardware.choose_dtype("auto", device)
        config = masked_config("roberta-base", 512)
        model = random_model(AutoModelForMaskedLM, config, device, dtype)
        large = Denoiser(model, Absorbing(MASK), [0, 1, 3])
        share_outside(large, SETTINGS[0], args)  # warms up
    text_of(writer, SETTINGS[0], args)
    results = []
    for setting in SETTINGS:
        if args.only and setting["sampler"] not in args.only:
            continue
        row = {"setting": named(setting), **text_of(writer, setting, args)}
        if large and attention_of(setting) == "full":
            row |= share_outside(large, setting, args)
        results.append(row)
        outside = f"{row['outside']:8.1%}" if "outside" in row else ""
        print(f"{row['setting']:62} {row['nfe']:4} passes {row['seconds']:6.2f} s {outside}  "
              f"{row['text'][:60]}", flush=True)  # fmt: skip
    common.save(args, "samplers", writer.device, writer.dtype, threads=torch.get_num_threads(),
                results=results)  # fmt: skip


if __name__ == "__main__":
    run(main)
