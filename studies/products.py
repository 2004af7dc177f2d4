"""The product of a packed matrix (`models.linear.Packed`) beside torch's own: what it is worth, and where.

    python studies/products.py --output studies/results/products.json       # a minute

Rows of tokens by the matrices of a model, in turns; medians of the rounds. A pass over a canvas has some
hundred rows, a block 16, a cached token one.
"""

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.nn import functional as F

from diffusion import hardware
from diffusion.errors import UserError, run
from diffusion.models.linear import Packed, packs
from studies.machine import SIZES, check_run, fastest, save

CPU = torch.device("cpu")


@torch.inference_mode()
def measure(rows: int, inner: int, outer: int, dtype: torch.dtype, repeats: int) -> dict:
    """Of (rows, inner) by (inner, outer)."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, inner, generator=generator).to(dtype) for n in (rows, outer))
    ways = {"torch": partial(F.linear, weight=weight), "packed": Packed(weight, None)}
    off = (ways["packed"](x) - ways["torch"](x)).abs().max() / ways["torch"](x).std()
    rounds = [{name: fastest(lambda w=way: w(x), CPU, 3) for name, way in ways.items()}
              for _ in range(repeats)]  # fmt: skip
    ratios = sorted(r["torch"] / r["packed"] for r in rounds)
    rate = {name: 2 * rows * inner * outer / statistics.median(r[name] for r in rounds)
            for name in ways}  # fmt: skip
    return {"rows": rows, "inner": inner, "outer": outer, "flops": rate, "largest_difference": float(off),
            "times_as_fast": statistics.median(ratios), "times_range": [ratios[0], ratios[-1]]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 16, 64, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", help="write the numbers to this JSON file")
    args = parser.parse_args()
    check_run(args.repeats, args.output)
    hardware.use_all_cores()
    if not packs(CPU, torch.float32):
        raise UserError("this torch has no product of packed matrices; use one with oneDNN")
    results = []
    for shape, (_, width, _, vocab) in SIZES.items():
        sizes = {"attention": (width, 3 * width), "up": (width, 4 * width), "down": (4 * width, width),
                 "vocabulary": (width, vocab)}  # fmt: skip
        for dtype in (d for d in (torch.float32, torch.bfloat16) if packs(CPU, d)):
            print(f"{shape} shape, {hardware.describe(CPU, dtype)}, times as fast as torch's own")
            for rows in args.rows:
                line = []
                for name, (inner, outer) in sizes.items():
                    r = measure(rows, inner, outer, dtype, args.repeats)
                    results.append({"shape": shape, "dtype": str(dtype), "product": name, **r})
                    line.append(
                        f"{name} {r['times_as_fast']:.2f} ({r['flops']['packed'] / 1e9:.0f} GFLOP/s)"
                    )
                print(f"{rows:5} rows  " + "  ".join(line), flush=True)
    save(args.output, "products", CPU, torch.float32, options=vars(args), results=results)


if __name__ == "__main__":
    run(main)
