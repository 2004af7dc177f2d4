"""What each family can do: everything is tried on a small random model, and told as a row of
docs/families.md.

    python tests/helpers/features.py > docs/families.md
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 1)]

import torch

from diffusion import score
from diffusion.canvas import Canvas
from diffusion.editing.canvases import infill_canvas
from diffusion.editing.templates import parse_template
from diffusion.errors import UserError
from diffusion.generate import Writer
from diffusion.models.families import FAMILIES
from diffusion.models.soft import SoftMask
from diffusion.models.tokenizers import train_tokenizer
from diffusion.noise import Absorbing
from diffusion.options import GenerationOptions
from diffusion.samplers.catalog import CAUSAL, METHODS
from diffusion.training.build import check_embeddings
from helpers.families import USABLE, tiny
from helpers.models import SENTENCES

VOCAB = 280
SAMPLERS = [name for name, entry in METHODS.items() if "absorbing" in entry.noises]
HEAD = """\
# Families

What models of each type can do. `python tests/helpers/features.py` tries all of it on small random
models and writes this page; a test does the same and compares. So this is about what works, and says
nothing about how well published weights write, of which none could be downloaded where this was written.

- **samplers**: of {samplers}, those that write; without shadow copies `p2`, `wino` and `saber` cannot
  judge what they wrote.
- **edits**: infilling, rewriting a part, scoring, guidance, a sliding window.
- **blocks**: writing from left to right in blocks, and training on them; *kept*: keys and values of
  finished text are kept exactly; *anew*: each pass computes all that it reads.
- **causal**: can be trained causally (`--objective causal`).
- **soft**: can be trained with soft-masking.
- **batch**: texts of different lengths are computed together, or *apart*, because padding would change
  what the model says.

In every family the head computes the asked rows alone, and logits at asked rows are the model's own
(`tests/models/test_families.py`). Types without a row here are tried when they are loaded, and
refused if they do not read a few tokens as masked language models do; they get what every one can do
(no blocks, no shadows), and their texts are computed apart. Code that comes with a model
(`--trust_remote_code`) may have no body without a head: then all rows are computed.

| type | samplers | edits | blocks | causal | soft | batch |
|---|---|---|---|---|---|---|
"""


def writer_of(name: str, tokenizer) -> Writer:
    return Writer.from_model(tiny(name, vocab=VOCAB), tokenizer, name)


def finished(steps) -> torch.Tensor:
    """The ids of the last step, which has no masks and none of the forbidden tokens."""
    *_, last = steps
    assert not last.masked.any()
    return last.ids


def write(writer: Writer, **options) -> torch.Tensor:
    return finished(
        writer.record(["the cat", ""], GenerationOptions(length=4, max_len=24, **options), [0, 1])
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
    canvas = infill_canvas(tokenizer, template, [(3, 2)], VOCAB)
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
    window = GenerationOptions(length=70, max_len=90, window_stride=40, sampler="seed", n_steps=2)
    finished(writer.record(["the"], window, [0]))


def row(name: str, tokenizer) -> str:
    writer = writer_of(name, tokenizer)
    backbone = writer.denoiser.backbone
    refused = [
        sampler
        for sampler in SAMPLERS
        if sampler not in CAUSAL and not works(write, writer, sampler=sampler)
    ]
    edits(writer)
    blocks = works(write, writer, attention="block", sampler="confidence", block_length=3)
    for sampler in CAUSAL:
        assert works(write, writer, sampler=sampler) is blocks
    soft = works(check_embeddings, backbone.model, writer.denoiser.noise, name)
    if soft:
        write(Writer.from_model(backbone.model, tokenizer, name, SoftMask(2, omega_s=0.5).eval()
                                .requires_grad_(False)), sampler="remdm")  # fmt: skip
    causal = works(backbone.check_causal, name)
    kept = "kept" if backbone.keeps else "anew"
    cells = (
        f"`{name}`",
        "all" if not refused else "not " + ", ".join(f"`{m}`" for m in refused),
        "yes",
        kept if blocks else "no",
        *("yes" if able else "no" for able in (causal, soft)),
        "apart" if FAMILIES[name].alone else "together",
    )
    return f"| {' | '.join(cells)} |"


def refused_rows() -> list[str]:
    return [f"| `{n}` | refused: those {r.refused} | | | | | |" for n, r in FAMILIES.items() if r.refused]  # fmt: skip


def small_tokenizer():
    return train_tokenizer(SENTENCES, VOCAB)


if __name__ == "__main__":
    torch.set_num_threads(1)
    shared = small_tokenizer()
    print(HEAD.format(samplers=len(SAMPLERS)), end="")
    print("\n".join([row(name, shared) for name in USABLE] + refused_rows()))
