"""How much memory a generation takes at its peak, by batch size.

Models of random weights write in one process each, one after another. ``peak`` is compared with what is
needed at least: the weights and, at once, the logits of the largest forward pass. On a GPU the peak is what
torch's allocator has given out; on a CPU the memory of the whole process, with ``libraries`` as a column.

    python studies/memory.py --output studies/results/memory.json
    python studies/memory.py --shapes small --batch_sizes 64 --dtype float32
"""

import itertools
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import AutoModelForMaskedLM

from diffusion import hardware, rng
from diffusion.denoise import denoise
from diffusion.errors import UserError, run
from diffusion.models.denoiser import Denoiser
from diffusion.models.guidance import Guided, Wrapped
from diffusion.models.loading import place
from diffusion.noise import Absorbing
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.samplers.make import make_sampler
from studies import common
from studies.board.report import aligned
from studies.loop import MASK, PREFIX, canvas_of
from studies.machine import SIZES, masked_config

# (sampler, weight of guidance)
WAYS = {
    "random-remask": ("random-remask", 0.0),
    "confidence": ("confidence", 0.0),
    "guidance": ("confidence", 1.0),
}


class Counted(Wrapped):
    """Notes the most rows of logits that one forward pass computes."""

    def __init__(self, denoiser):
        super().__init__(denoiser)
        self.rows = [0]  # of all its copies

    def __call__(self, query):
        self.rows[0] = max(self.rows[0], int(query.query_mask.sum()))
        return self.denoiser(query)


def peak(device: torch.device) -> int:
    """The most bytes that were in use so far: of torch's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # where getrusage counts in the process that started this one
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # fmt: skip


def measure(shape: str, way: str, batch: int, length: int, n_steps: int, device, dtype) -> dict:
    """Bytes of a generation by a model that is made here, in this process."""
    before = peak(device)
    torch.manual_seed(0)
    config = masked_config(shape, length)
    model = AutoModelForMaskedLM.from_config(config, dtype=dtype)
    weights = sum(p.numel() * p.itemsize for p in model.parameters())
    model = place(model.eval(), device, dtype, exact=False)
    sampler, weight = WAYS[way]
    options = GenerationOptions().drawn()
    denoiser = counted = Counted(Denoiser(model, Absorbing(MASK), [0, 1, 3]))
    if weight:
        denoiser = Guided(counted, weight, [0])
    canvas = canvas_of(batch, length, config.vocab_size, PREFIX, device)
    sampling = Sampling(options.temperature, options.top_k, options.top_p)
    keys = rng.row_keys(0, batch, device)
    for _ in denoise(canvas, denoiser, make_sampler(sampler, n_steps), sampling, keys):
        pass
    rows = counted.rows[0]
    logits = rows * config.vocab_size * dtype.itemsize
    return {"shape": shape, "way": way, "batch": batch, "weights": weights, "rows_of_logits": rows,
            "logits": logits, "libraries": before, "peak": peak(device)}  # fmt: skip


def apart(shape: str, way: str, batch: int, args) -> dict:
    """`measure` in a new process, which holds nothing else."""
    same = (f"--{n}={getattr(args, n)}" for n in ("length", "n_steps", "device", "dtype"))
    only = ["--shapes", shape, "--ways", way, "--batch_sizes", str(batch), "--here"]
    command = [sys.executable, __file__, *only, *same]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(
            f"{shape}, {way}, batch {batch} could not be measured, see above (a process that says "
            "nothing ran out of memory); leave it out"
        )
    return json.loads(done.stdout)


def main() -> None:
    parser = common.flags(__doc__, "length", "device", "dtype")
    parser.add_argument("--shapes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--n_steps", type=int, default=2, help="more compute fewer logits a pass")
    parser.add_argument("--here", action="store_true", help="measure the first setting here")
    args = common.read(parser)
    device, dtype = common.chosen(args)
    if args.here:
        one = args.shapes[0], args.ways[0], args.batch_sizes[0]
        print(json.dumps(measure(*one, args.length, args.n_steps, device, dtype)))
        return
    print(f"{args.length} tokens, {hardware.describe(device, dtype)}; in MB; over: the peak without "
          "libraries over weights and logits")  # fmt: skip
    results = []
    for shape, way, batch in itertools.product(args.shapes, args.ways, args.batch_sizes):
        print(f"{shape}, {way}, batch {batch}", file=sys.stderr)
        results.append(apart(shape, way, batch, args))
    parts = "weights", "logits", "libraries", "peak"
    rows = [["shape", "way", "batch", *parts, "over"]]
    for r in results:
        over = (r["peak"] - r["libraries"]) / (r["weights"] + r["logits"])
        sizes = (f"{r[part] / 1e6:.0f}" for part in parts)
        rows.append([r["shape"], r["way"], str(r["batch"]), *sizes, f"{over:.2f}"])
    print("\n".join(aligned(rows, 2)))
    common.save(args, "memory", device, dtype, results=results)


if __name__ == "__main__":
    run(main)
