"""finetune.py in double precision: what still differs between two ways to compute one thing is not
rounding."""

import sys
from pathlib import Path

from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import finetune
from diffusion import errors, objective
from diffusion.training import build

build_model = build.build_model


def doubled(*args):
    model, tokenizer = build_model(*args)
    return model.double(), tokenizer


CHANGES = [
    (build, "build_model", doubled),
    (objective, "cross_entropy", lambda x, y: F.cross_entropy(x, y, reduction="none")),
]

if __name__ == "__main__":
    for change in CHANGES:
        setattr(*change)
    errors.run(finetune.main)
