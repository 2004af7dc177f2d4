"""docs/families.md is what the families can do: everything is tried on small random models."""

from pathlib import Path

import pytest
import torch
from helpers.families import tiny
from helpers.models import SENTENCES

from diffusion import score
from diffusion.canvas import Canvas
from diffusion.editing.canvases import infill_canvas
from diffusion.editing.templates import parse_template
from diffusion.errors import UserError
from diffusion.generate import Writer, load_writer
from diffusion.models.families import FAMILIES
from diffusion.models.soft import SoftMask
from diffusion.models.tokenizers import tokens_per_word, train_tokenizer
from diffusion.noise import Absorbing
from diffusion.options import GenerationOptions
from diffusion.samplers import catalog
from diffusion.samplers.catalog import CAUSAL, VERIFYING
from diffusion.training.build import check_embeddings

VOCAB = 280
HIDING = ("p2", "wino", "saber")
IN_BLOCKS = {*CAUSAL, *VERIFYING}  # need block attention
SAMPLERS = [name for name, entry in catalog.SAMPLERS.items() if "absorbing" in entry.noises]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"


def finished(steps) -> torch.Tensor:
    """The ids of the last step, which has no masks and none of the forbidden tokens."""
    *_, last = steps
    assert not last.masked.any()
    return last.ids


def write(writer: Writer, **options) -> torch.Tensor:
    return finished(
        writer.generate(["the cat", ""], GenerationOptions(length=4, max_len=24, **options), [0, 1])
    )


def works(trial, *args, **options) -> bool:
    """Whether it works; if not it was refused in a sentence."""
    try:
        trial(*args, **options)
        return True
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return False


def edits(writer: Writer) -> None:
    options, tokenizer = GenerationOptions(max_len=30, sampler="confidence"), writer.tokenizer
    template = parse_template("the <mask:3> sat on <mask:2>")
    canvas = infill_canvas(tokenizer, template, [(3, 2)])
    ids = finished(writer.denoise(canvas, options, [0], may_end=False))
    assert (ids == canvas.ids)[canvas.frozen].all()
    frozen = torch.rand(ids.shape) < 0.5  # a text of which half is masked and written anew
    frozen[:, 0] = True
    noise = Absorbing.of(tokenizer)
    again = Canvas(noise.corrupt(ids, ~frozen), frozen, torch.zeros_like(frozen))
    ids = finished(writer.denoise(again, options, [0], may_end=False))
    assert (ids == again.ids)[frozen].all()
    (bound,) = score(writer, ["the cat sat"], draws=2)
    assert bound.nats > 0
    write(writer, sampler="confidence", guidance=0.5)
    window = GenerationOptions(length=66, max_len=70, window_stride=40, sampler="seed", n_steps=2)
    finished(writer.generate(["the"], window, [0]))


def abilities(name: str, tokenizer, whole: bool = True) -> tuple[str, ...]:
    """The cells of one type, as tried; not ``whole``: with what may be refused alone."""
    writer = Writer.from_model(tiny(name, vocab=VOCAB), tokenizer, name)
    backbone = writer.denoiser.backbone
    refused = [
        sampler
        for sampler in (SAMPLERS if whole else HIDING)
        if sampler not in IN_BLOCKS and not works(write, writer, sampler=sampler)
    ]
    if whole:
        edits(writer)
    blocks = works(write, writer, attention="block", sampler="confidence", block_length=3)
    for sampler in IN_BLOCKS:
        assert works(write, writer, sampler=sampler) is blocks
    soft = works(check_embeddings, backbone.model, writer.denoiser.noise, name, "soft-masking")
    if soft:
        write(Writer.from_model(backbone.model, tokenizer, name, SoftMask(2, omega_s=0.5).eval()
                                .requires_grad_(False)), sampler="remdm")  # fmt: skip
    causal = works(backbone.check_causal, name)
    kept = "cached" if backbone.keeps else "uncached"
    return (
        "all" if not refused else "not " + ", ".join(f"`{m}`" for m in refused),
        kept if blocks else "no",
        *("yes" if able else "no" for able in (causal, soft)),
        "apart" if FAMILIES[name].alone else "together",
    )


def told(text: str) -> dict[str, tuple[str, ...]]:
    """The cells of each type on such a page."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {name.strip("`"): tuple(cells) for names, *cells in rows for name in names.split(", ")}


WHOLE = ("roberta", "convbert")  # the others: with what may be refused alone
CELLS = told(PAGE.read_text())


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SENTENCES, VOCAB)


@pytest.mark.parametrize(
    "name", [n if n in WHOLE else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES]
)
def test_the_page_says_what_a_family_can_do(name, tokenizer):
    assert CELLS[name] == abilities(name, tokenizer, whole=name in WHOLE)


def test_the_page_has_no_other_rows():
    assert set(CELLS) == set(FAMILIES)


def test_a_prompt_of_rare_words_is_noted(tiny_model):
    """Two words of one token each, against words of as many tokens as letters."""
    writer = load_writer(str(tiny_model))
    common, rare = "The river", "zqxj vkwz"
    assert writer.far_prompt([common, rare]) is None  # nothing is known of what it learned
    writer.denoiser.backbone.config.diffusion["tokens_per_word"] = 1.5
    found = tokens_per_word(writer.tokenizer, [rare])
    assert writer.far_prompt([common, ""]) is None and found > 3
    note = writer.far_prompt([common, rare])
    assert f"'zqxj vkwz' is far from the text that {tiny_model} learned: {found:.1f} tokens" in note
    assert "--model" not in note  # the embedded model knows them no better
    note = writer.far_prompt(["Shakespeare wrote"])
    assert note.endswith("expect worse text, or try --model roberta-small-wikitext")
