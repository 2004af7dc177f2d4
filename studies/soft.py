"""Draw what soft-masking has learned: λ over the entropy of a prediction, and the entropies met.

    python studies/soft.py --model runs/soft-1 --dataset_dir data --output soft.png

Entropies are those of the first pass at the masks of blocks of WikiText-2's validation split, a third
of the tokens, half, and all but a tenth hidden.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from diffusion import rng
from diffusion.cli.console import progress, say
from diffusion.cli.files import write_atomically
from diffusion.data import packing
from diffusion.data.corpus import load_documents
from diffusion.errors import UserError, run
from diffusion.generate import load_writer
from diffusion.models.soft import summary
from studies import common
from studies.board.plotting import PALETTE, Plot, png

RATES = (1 / 3, 1 / 2, 9 / 10)


@torch.inference_mode()
def entropies(denoiser, blocks: torch.Tensor, rate: float) -> torch.Tensor:
    """(N,) in nats, of a plain pass at masks of ``blocks`` (B, L), each masked at ``rate``."""
    found, key = [], rng.seed_key(0)
    for number, block in enumerate(blocks.split(8)):
        masked = rng.uniform(rng.fold_in(key, number), block.numel()).view(block.shape) < rate
        masked[:, 0] = False
        logits = denoiser.backbone(denoiser.noise.corrupt(block, masked), masked)
        logits = logits.index_fill(1, denoiser.forbidden, -torch.inf)
        found.append(summary(logits, 1)[0])
        progress(8 * number + len(block), len(blocks), f"{rate:.0%} masked")
    return torch.cat(found)


def draw(soft, met: dict[float, torch.Tensor]) -> bytes:
    """A PNG: λ as a line, the shares of entropies as steps."""
    plot = Plot()
    (axes,) = plot.panels
    most = max(float(values.max()) for values in met.values())
    grid = torch.linspace(0, most, 300)
    with torch.no_grad():
        axes.plot(grid, soft.strength(grid), color="black", linewidth=2, label="λ")
    axes.set_xlabel("entropy of the prediction before, nats")
    axes.set_ylabel("λ, the share of a mask's embedding that remembers")
    axes.set_ylim(0, None)
    other = axes.twinx()
    for i, (rate, values) in enumerate(met.items()):
        other.hist(values.numpy(), bins=60, range=(0, most), density=True, histtype="step",
                    color=PALETTE[i + 1], label=f"entropies met, {rate:.0%} masked")  # fmt: skip
    other.set_ylabel("density of entropies")
    lines = [part for one in (axes, other) for part in one.get_legend_handles_labels()[0]]
    axes.legend(lines, [line.get_label() for line in lines], loc="center left")
    return png(plot.figure)


def main() -> None:
    parser = common.flags(__doc__, "model", "dataset_dir", output="soft.png")
    parser.add_argument("--blocks", type=int, default=64)
    args = common.read(parser)
    writer = load_writer(args.model, None, "cpu", "float32")
    if writer.soft is None:
        raise UserError(
            f"--model {args.model} was not trained with --soft_masking; give one that was"
        )
    documents = load_documents("wikitext-2", "validation", args.dataset_dir)
    blocks = packing.pack(
        documents, writer.tokenizer, min(256, writer.positions), "validation text"
    )
    blocks = blocks[: args.blocks].long()
    met = {rate: entropies(writer.denoiser, blocks, rate) for rate in RATES}
    write_atomically(Path(args.output), draw(writer.soft, met))
    shares = ", ".join(f"{name} {value}" for name, value in writer.soft.settings().items())
    mean = {rate: float(writer.soft.strength(values).mean()) for rate, values in met.items()}
    say(f"{shares}; mean λ " + ", ".join(f"{m:.4f} at {r:.0%}" for r, m in mean.items()))
    say(f"saved {args.output}")


if __name__ == "__main__":
    run(main)
