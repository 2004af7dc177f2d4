"""One pass over the full canvas by other engines: torch.compile, ONNX Runtime and OpenVINO.

    pip install onnxruntime openvino onnx onnxscript       # none of them is needed by the project
    python studies/engines.py --output studies/results/engines.json

Each engine has the same model of random weights and computes the logits of all slots, in turns; medians
of the rounds, as a multiple of torch in float32, and how far its logits are from those, as a share of
their spread. What is quantised has weights in 8 bits and activations rounded as they come.
"""

import argparse
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from transformers import AutoModelForMaskedLM

from diffusion import hardware
from diffusion.errors import UserError, run
from diffusion.models.linear import pack, quantize
from studies.machine import SIZES, check_run, fastest, masked_config, save

NEEDED = ("onnxruntime", "openvino", "onnx", "onnxscript")
CPU = torch.device("cpu")
Engine = Callable[[torch.Tensor], np.ndarray]  # ids (B, L) -> logits (B, L, V)


class Logits(torch.nn.Module):
    """A masked LM that gives logits alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids).logits


def new_model(shape: str, length: int, dtype=torch.float32):
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(masked_config(shape, length)).to(dtype).eval()


def by_torch(model) -> Engine:
    return lambda ids: model(input_ids=ids).logits.float().numpy()


def onnx_runtime(path: Path, threads: int) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda ids: session.run(None, {name: ids.numpy()})[0]


def openvino(path: Path, threads: int, precision: str) -> Engine:
    from openvino import Core

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision,
                "PERFORMANCE_HINT": "LATENCY"}  # fmt: skip
    compiled = Core().compile_model(str(path), "CPU", settings)
    return lambda ids: compiled(ids.numpy())[0]


def engines(shape: str, length: int, folder: Path, threads: int) -> dict[str, Engine]:
    """By name; the first is what the others are held against."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name} is missing: pip install {' '.join(NEEDED)}")
    from onnxruntime.quantization import quantize_dynamic

    model = new_model(shape, length)
    whole, small = folder / "model.onnx", folder / "small.onnx"
    ids = torch.zeros(1, length, dtype=torch.int64)
    torch.onnx.export(Logits(model), (ids,), whole, dynamo=True, verbose=False)
    quantize_dynamic(whole, small)
    half = torch.bfloat16
    return {
        "torch, float32": by_torch(model),
        "torch, bfloat16": by_torch(new_model(shape, length, half)),
        "torch, float32, packed": by_torch(pack(new_model(shape, length))),
        "torch, bfloat16, packed": by_torch(pack(new_model(shape, length, half))),
        "torch.compile, float32": by_torch(torch.compile(new_model(shape, length))),
        "torch.compile, bfloat16": by_torch(torch.compile(new_model(shape, length, half))),
        "torch, 8 bits (--quantize 8bit)": by_torch(quantize(new_model(shape, length))),
        "ONNX Runtime, float32": onnx_runtime(whole, threads),
        "ONNX Runtime, 8 bits": onnx_runtime(small, threads),
        "OpenVINO, float32": openvino(whole, threads, "f32"),
        "OpenVINO, bfloat16": openvino(whole, threads, "bf16"),
        "OpenVINO, 8 bits": openvino(small, threads, "f32"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", default="roberta-base", choices=SIZES)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", help="write the numbers to this JSON file")
    args = parser.parse_args()
    check_run(args.repeats, args.output)
    hardware.use_all_cores()
    ids = torch.randint(5, 1000, (1, args.length), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        every = engines(args.shape, args.length, Path(folder), torch.get_num_threads())
        logits = {name: engine(ids) for name, engine in every.items()}
        rounds = [
            {name: fastest(lambda e=engine: e(ids), CPU, 1) for name, engine in every.items()}
            for _ in range(args.repeats)
        ]
    first, *_ = every
    results = []
    print(f"{args.shape} shape, {args.length} tokens, {hardware.describe(CPU, torch.float32)}")
    for name in every:
        ratios = sorted(r[name] / r[first] for r in rounds)
        error = np.abs(logits[name] - logits[first]).mean() / logits[first].std()
        results.append({"engine": name, "seconds": statistics.median(r[name] for r in rounds),
                        "ratio": statistics.median(ratios), "ratio_range": [ratios[0], ratios[-1]],
                        "error": float(error)})  # fmt: skip
        r = results[-1]
        print(f"{name:32} {r['seconds']:7.3f} s {r['ratio']:6.2f} "
              f"({ratios[0]:.2f}-{ratios[-1]:.2f})  error {r['error']:.1e}")  # fmt: skip
    save(args.output, "engines", CPU, torch.float32, options=vars(args), results=results)


if __name__ == "__main__":
    run(main)
