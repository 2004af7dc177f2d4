"""Likelihood of held-out text by how many tokens are predicted at once, from finetune.py --evaluate_only.

    python studies/likelihood.py studies/results/likelihood/likelihood.json --dataset_dir data
    python studies/likelihood.py studies/results/likelihood/likelihood.json --texts WikiText-2 --blocks 285

Each text is read by RoBERTa in every layout in which it was trained and some between, and by GPT-2; ``more``
is the difference from GPT-2, block by block. Texts that an earlier run left in the file stay.
"""

import argparse
import ast
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from diffusion import hardware
from diffusion.cli.files import check_file, write_atomically, write_text
from diffusion.errors import UserError, run
from studies.board.plotting import Plot, png

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"RoBERTa": "roberta-small-wikitext", "GPT-2": "gpt2-small-wikitext"}
SIZES = (2, 4, 8, 16, 64)  # tokens of a block; 1 is causal, and the whole of 256 the full canvas
WHOLE = 256
# name -> what finetune.py evaluates on, in --dataset_dir
TEXTS = {
    "WikiText-2": ["--eval_split", "test"],
    "Wikipedia": ["--eval_dataset", "wikipedia/valid.txt.xz"],
    "books": ["--eval_dataset", "books/valid.txt.xz"],
    "TinyStories": ["--eval_dataset", "tinystories/valid.txt.xz"],
}


def command(model: str, text: str, folder: str, blocks: int) -> list[str]:
    """What measures one text by one model."""
    mix = ",".join(f"{name}=1" for name in ("causal", *(f"block{n}" for n in SIZES), "full"))
    how = ["--objective", "causal"] if model == "GPT-2" else ["--prefix_len", "1", "--layouts", mix]
    where = [f"{folder}/{part}" if "/" in part else part for part in TEXTS[text]]
    return ["finetune.py", "--evaluate_only", "--model", MODELS[model], *how, "--dataset_dir", folder,
            *where, "--max_eval_blocks", str(blocks)]  # fmt: skip


def more(each: list[float], baseline: list[float]) -> list[float]:
    """Nats per token of blocks beyond those of GPT-2 on the same blocks, and the standard error of
    that; ``each`` may be of fewer blocks that are spread over all."""
    keep = np.linspace(0, len(baseline) - 1, len(each)).astype(int)  # as `validation.bounds` has it
    beyond = np.subtract(each, np.array(baseline)[keep])
    return [beyond.mean().item(), (beyond.std(ddof=1) / len(beyond) ** 0.5).item()]


def numbers(output: str) -> dict:
    """What finetune.py has measured, out of what it printed.

    Raises:
        UserError: it has printed nothing of the kind.
    """
    lines = [line for line in output.splitlines() if line.startswith("{'eval_")]
    if not lines:
        printed = output.strip().splitlines() or [""]
        raise UserError(f"finetune.py has measured nothing: {printed[-1]}")
    return {name: float(value) for name, value in ast.literal_eval(lines[-1]).items()}


def ways(found: dict) -> dict[str, dict[str, list[float]]]:
    """name of a way of reading -> nats ``per_token`` and ``per_byte``, each with its standard error, of
    one text by one model."""
    token, byte = (found[f"eval_nats_per_{unit}"] for unit in ("token", "byte"))
    error = found["eval_standard_error"]
    read = {"causal": {"per_token": [token, error], "per_byte": [byte, error * byte / token]}}
    for key in found:
        name = key.removeprefix("eval_").removesuffix("_nats_per_byte")
        if key.endswith("_nats_per_byte") and f"eval_{name}_standard_error" in found:
            head = f"eval_{name}_"
            read[name] = {
                "per_token": [found[f"{head}nats_per_token"], found[f"{head}standard_error"]],
                "per_byte": [found[key], found[f"{head}standard_error_per_byte"]],
            }
    return read


def line(read: dict[str, dict]) -> tuple[list[int], list[float], list[float]]:
    """(tokens that are predicted at once, nats per byte, half of their 95 % intervals)"""
    at = {"causal": 1, **{f"block{n}": n for n in SIZES}, "full": WHOLE}
    known = [(size, *read[name]["per_byte"]) for name, size in at.items() if name in read]
    sizes, nats, errors = zip(*known, strict=True)
    return list(sizes), list(nats), [1.96 * e for e in errors]


def figure(data: dict):
    plot = Plot()
    (axes,) = plot.panels
    for i, (text, read) in enumerate(data["texts"].items(), 1):
        x, y, half = line(read["RoBERTa"])
        plot.series(axes, x, y, i, f"RoBERTa, {text}", (None, (half, half)))
        _, level, half = line(read["GPT-2"])
        plot.series(axes, [0.7], level, i, None, (None, (half, half)), linestyle="none")
        plot.label(axes, "GPT-2", 0.7, level[0])
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, *SIZES, WHOLE], ["causal", *map(str, SIZES), "full"])
    axes.set_xlabel("tokens per block")
    axes.set_ylabel("nats per byte (causal: exact; others: a bound)")
    return plot.finish("The bound rises with the number of tokens predicted at once")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="The JSON file; its picture stands beside it.")
    parser.add_argument("--dataset_dir", default="data", help="Folder with the texts.", type=Path)
    parser.add_argument("--texts", nargs="+", default=list(TEXTS), choices=TEXTS)
    parser.add_argument(
        "--blocks", type=int, default=128, help="Blocks of 256 tokens of each text."
    )
    args = parser.parse_args()
    check_file("the results", str(args.results))
    data = json.loads(args.results.read_text()) if args.results.exists() else {"texts": {}}
    for text in args.texts:
        found, each = {}, {}
        for model in MODELS:
            words = command(model, text, str(args.dataset_dir.resolve()), args.blocks)
            print(" ".join(["python", *words]), flush=True)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "blocks.json"
                words = [sys.executable, *words, "--eval_blocks_file", str(file)]
                done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
                found[model] = ways(numbers(done.stdout + done.stderr))
                each[model] = json.loads(file.read_text())
        for way, read in found["RoBERTa"].items():
            read["more"] = more(each["RoBERTa"][way], each["GPT-2"]["causal"])
        data["texts"][text] = found | {"blocks": args.blocks}
        data["processor"] = hardware.processor()
        write_text(args.results, json.dumps(data, indent=1) + "\n")
    write_atomically(args.results.with_suffix(".png"), png(figure(data)))


if __name__ == "__main__":
    run(main)
