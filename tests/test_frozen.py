"""Texts of every sampler and its main options, recorded in frozen.json before its code was moved.

A seed fixes what a sampler writes; `python tests/test_frozen.py` records anew what changes on
purpose. Denoisers are tables, or compute in float64, so that processors which round differently
write the same.
"""

import json
import sys
from functools import cache
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (0, 1)]

import pytest
import torch
from helpers.blocks import MASK, NOISE, VOCAB, prompts
from helpers.tabular import TabularDenoiser
from transformers import RobertaConfig, RobertaForMaskedLM

from diffusion import rng
from diffusion.canvas import Canvas
from diffusion.denoise import denoise
from diffusion.models.cached import InBlocks
from diffusion.models.denoiser import Denoiser
from diffusion.proposal import Sampling
from diffusion.samplers import spec
from diffusion.samplers.catalog import SAMPLERS
from diffusion.samplers.make import make_sampler, sampler_class
from diffusion.speculative import Drafting

FILE = Path(__file__).with_name("frozen.json")
# {"denoiser sampler:its options shared options": [texts and forward passes of seed 0, of seed 1]}
FROZEN = json.loads(FILE.read_text())
SEEDS, ROWS = (0, 1), 6
DIGITS = "0123456789abcdefghijklmnopqrstuv"  # of token ids
SAMPLING = ("temperature", "top_k", "top_p")


@cache
def denoiser_of(kind: str):
    """A table for one of the noises, or a ``model`` with causal attention."""
    if kind == "model":
        torch.manual_seed(0)
        config = RobertaConfig(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=64,
        )  # fmt: skip
        config.diffusion = {"shift": True}
        model = RobertaForMaskedLM(config).double().eval()
        for weight in model.parameters():  # predictions that differ from each other
            weight.data.mul_(4)
        return Denoiser(model, NOISE, [0, 1, MASK])
    return TabularDenoiser(length=6, vocab=4, seed=3, noise=kind)


def steps_of(kind: str, sampler: str, shared: dict, seed: int):
    """The Steps of one line of the file: all that knows how a sampler is made and run."""
    denoiser, keys = denoiser_of(kind), rng.row_keys(seed, ROWS)
    sampling = Sampling(**{key: shared.pop(key) for key in SAMPLING if key in shared})
    made = make_sampler(sampler, noise=denoiser.noise, **shared)
    if kind != "model":  # a fixed token and masks
        column = torch.arange(denoiser.length).repeat(ROWS, 1)
        ids = torch.where(column == 1, 2, denoiser.mask_id)
        canvas = Canvas(ids, column == 1, torch.zeros_like(ids, dtype=torch.bool))
        return denoise(canvas, denoiser, made, sampling, keys)
    canvas = prompts(*(3, 5, 8) * (ROWS // 3), new=7)
    if sampler.startswith("speculative"):
        return denoise(canvas, Drafting(denoiser, made.draft_length), made, sampling, keys)
    blocks = InBlocks(denoiser, shared.get("block_length", 0), clean=sampler == "causal")
    return denoise(canvas, blocks, made, sampling, keys)


def parsed(line: str) -> tuple[str, str, dict]:
    """The denoiser, the sampler and the shared options of a line of the file."""
    kind, sampler, *shared = line.split()
    shared = dict(item.split("=") for item in shared)
    for key, value in shared.items():
        shared[key] = value if key == "schedule" else float(value) if "." in value else int(value)
    return kind, sampler, shared


def recorded(ids: list, nfe: list) -> str:
    """The texts of all rows, a digit a token, and their forward passes."""
    texts = ["".join(DIGITS[token] for token in row) for row in ids]
    return f"{' '.join(texts)}, {' '.join(map(str, nfe))}"


def write(line: str, seed: int) -> str:
    """What is recorded of a line with one seed."""
    *_, last = steps_of(*parsed(line), seed)
    assert not last.masked.any()
    return recorded(last.ids.tolist(), last.nfe.tolist())


@pytest.mark.parametrize("name", SAMPLERS)
def test_texts_are_those_that_were_recorded(name):
    lines = [line for line in FROZEN if line.split()[1].partition(":")[0] == name]
    assert {line: [write(line, seed) for seed in SEEDS] for line in lines} == {
        line: FROZEN[line] for line in lines
    }
    for option in spec.options_of(sampler_class(name)):
        assert f"{option}=" in " ".join(lines), f"no text is recorded for {option}"


if __name__ == "__main__":
    FROZEN = {line: [write(line, seed) for seed in SEEDS] for line in FROZEN}
    FILE.write_text(json.dumps(FROZEN, indent=0) + "\n")
