"""Small models by one recipe each, from equal numbers of tokens: what is each ingredient worth?

    python studies/recipes.py --dataset_dir data       # 64 minutes on one busy core

studies/grids/recipes.toml has the command that measures them.

For each seed one RoBERTa of 4 layers x 128 is trained causally, and from it a denoiser by each
recipe below. What is in the output folder already is not trained again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CAUSAL_STEPS, MASKED_STEPS = 800, 600  # of 16 blocks of 128 tokens

COMMON = {
    "dataset": "wikitext-2", "block_size": 128, "per_device_train_batch_size": 16, "adam_beta2": 0.98,
    "weight_decay": 0.01, "warmup_steps": 100, "max_eval_blocks": 16, "eval_strategy": "no",
    "save_strategy": "no", "disable_tqdm": "true", "logging_steps": 100,
}  # fmt: skip
RANDOM = {"config": "layers=4,width=128,heads=4,vocab=8192", "tokenizer": "roberta-small-wikitext",
          "learning_rate": 1e-3}  # fmt: skip
CAUSAL = RANDOM | {"objective": "causal", "lr_scheduler_type": "constant_with_warmup",
                   "max_steps": CAUSAL_STEPS}  # fmt: skip
# A short form of what the embedded checkpoint was made with.
BASE = {"lr_scheduler_type": "cosine", "learning_rate": 4e-4, "prefix_len": 1, "ema": 0.99,
        "max_steps": MASKED_STEPS}  # fmt: skip
COLD = {"lr_scheduler_type": "cosine", "max_steps": CAUSAL_STEPS + MASKED_STEPS}
REFERENCE = {"mask_schedule": "seed", "loss": "mean", "prefix_len": 16}
RECIPES = {
    "base": BASE,
    "cold": BASE | COLD | RANDOM,
    "own-slot": BASE | {"shift": "no"},
    "seed-schedule": BASE | {"mask_schedule": "seed"},
    "mean-loss": BASE | {"loss": "mean"},
    "seed-schedule-mean-loss": BASE | {"mask_schedule": "seed", "loss": "mean"},
    "prefix-16": BASE | {"prefix_len": 16},
    "no-ema": BASE | {"ema": 0.0},
    "reference": BASE | REFERENCE | {"ema": 0.0},
}


def train(folder: Path, flags: dict) -> None:
    """Run finetune.py unless ``folder`` has a finished model."""
    if (folder / "model.safetensors").exists():
        print(f"{folder} is there already", flush=True)
        return
    flags = COMMON | flags | {"output_dir": folder}
    command = [sys.executable, str(ROOT / "finetune.py"), "--overwrite_output_dir"]
    for name, value in flags.items():
        command += [f"--{name}", str(value)]
    print(f"{folder} ...", flush=True)
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset_dir", help="folder with local WikiText-2 files (else: the hub)")
    parser.add_argument("--output_dir", default="runs/recipes", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    args = parser.parse_args()
    local = {"dataset_dir": args.dataset_dir} if args.dataset_dir else {}
    for seed in args.seeds:
        start = args.output_dir / f"start-{seed}"
        train(start, CAUSAL | local | {"seed": seed})
        for name in args.only:
            recipe = RECIPES[name]
            begin = {} if "config" in recipe else {"model": start}
            train(args.output_dir / f"{name}-{seed}", recipe | local | begin | {"seed": seed})


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
