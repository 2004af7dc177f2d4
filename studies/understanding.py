"""Does a denoiser still understand? How well it predicts tokens hidden at random in whole text.

The tokens of blocks of held-out text are hidden at 15 %, as when masked models are trained, at 50 %, and one
at a time with all others of the block visible (``--singles``). Measured are the share of hidden tokens that
are the model's most probable prediction, and the nats per hidden token. Models that predict a token at its
own slot, such as those of the hub, and from the slot before are both read as they were trained. Models of
one vocabulary see the same masks; ± is half a 95 % interval over blocks, and differences from the first
model are taken block by block.

    python studies/understanding.py --models roberta-small-wikitext roberta-base --output runs/u.json
    python studies/understanding.py --models roberta-small-wikitext --dataset_dir data --blocks 256
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from diffusion import rng
from diffusion.cli.console import progress, say
from diffusion.cli.values import within
from diffusion.data import packing
from diffusion.data.corpus import load_documents
from diffusion.errors import UserError, run
from diffusion.generate import Writer, load_writer
from diffusion.objective import cross_entropy
from diffusion.views.tables import aligned
from studies import common
from studies.board import metrics
from studies.board.options import PASSAGES
from studies.board.scorer import estimate_json

RATES = (0.15, 0.5)
PLACES = -1  # a random stream beside those of the rates


def hidden(blocks: Tensor, rate: float) -> Tensor:
    """(N, L) bool: each token but the first with probability ``rate``. A block's masks depend on its
    number alone."""
    keys = rng.fold_in(rng.row_keys(0, len(blocks)), round(1000 * rate))
    masked = rng.uniform(keys, blocks.shape[1]) < rate
    masked[:, 0] = False
    return masked


def places(blocks: Tensor, number: int) -> Tensor:
    """(N, number) different positions of each block, never the first; they depend, as `hidden` does,
    on its number alone."""
    keys = rng.fold_in(rng.row_keys(0, len(blocks)), PLACES)
    return 1 + rng.uniform(keys, blocks.shape[1] - 1).argsort(1)[:, :number]


@torch.inference_mode()
def predictions(writer: Writer, blocks: Tensor, masked: Tensor, batch_size: int = 16) -> Tensor:
    """(N, 3) float64 of each block: hidden tokens, how many of them are predicted right, and the
    nats of all of them."""
    found = torch.zeros(len(blocks), 3, dtype=torch.float64)
    for start in range(0, len(blocks), batch_size):
        part = slice(start, start + batch_size)
        ids, hide = blocks[part].to(writer.device), masked[part].to(writer.device)
        logits = writer.denoiser.reader(writer.noise.corrupt(ids, hide), hide)
        right = logits.argmax(1) == ids[hide]
        nats = cross_entropy(logits, ids[hide])
        values = torch.stack([torch.ones_like(nats), right.to(nats.dtype), nats], 1)
        found[part].index_add_(0, hide.nonzero()[:, 0].cpu(), values.double().cpu())
        progress(start + len(ids), len(blocks), writer.name[-40:])
    return found


def single_predictions(writer: Writer, blocks: Tensor, number: int) -> Tensor:
    """The same of ``number`` tokens of each block, each of them hidden alone."""
    at = places(blocks, number).flatten()
    copies = blocks.repeat_interleave(number, 0)
    alone = torch.arange(blocks.shape[1]) == at[:, None]
    return predictions(writer, copies, alone).view(len(blocks), number, 3).sum(1)


def row(writer: Writer, rate: float | None, found: Tensor, first: Tensor | None) -> dict:
    """The numbers of a model; ``rate`` None: one token at a time; ``first``: the counts of the first
    model, None if its tokens differ."""
    count, right, nats = found.T.numpy()
    more = None
    if first is not None:
        ours, theirs = found.numpy(), first.numpy()
        more = {
            name: estimate_json(metrics.paired_difference(ours[:, [i, 0]], theirs[:, [i, 0]]))
            for i, name in ((1, "accuracy"), (2, "nats"))
        }
    return {
        "model": writer.name,
        "shift": writer.denoiser.backbone.shift,
        "rate": rate,
        "blocks": len(found),
        "hidden": int(count.sum()),
        "accuracy": estimate_json(metrics.bootstrap(metrics.ratio, right, count)),
        "nats": estimate_json(metrics.bootstrap(metrics.ratio, nats, count)),
        "more": more,
    }


def table(rows: list[dict]) -> str:
    lines = [["hidden", "model", "reads", "accuracy", "nats", "accuracy more", "nats more"]]
    for entry in rows:
        numbers = [entry["accuracy"], entry["nats"], *(entry["more"] or {}).values()]
        place = "the place before" if entry["shift"] else "its own place"
        cells = [str(metrics.Estimate(*number)) for number in numbers]
        cells += ["-"] * (4 - len(cells))  # another vocabulary
        hides = f"{entry['rate']:.0%}" if entry["rate"] else "one"
        lines.append([hides, entry["model"], place, *cells])
    return "\n".join(aligned(lines, 3))


def main() -> None:
    parser = common.flags(__doc__, "dataset_dir")
    parser.add_argument("--models", nargs="+", default=["roberta-small-wikitext"])
    parser.add_argument("--blocks", type=int, default=64, help="at most")
    parser.add_argument("--block_size", type=int, default=128, help="tokens of a block")
    parser.add_argument(
        "--singles", type=int, default=16, help="tokens of a block hidden one at a time"
    )
    args = common.read(parser, blocks=2, block_size=8)
    within("--singles", args.singles, 1, args.block_size - 1)
    text = "wikitext-2" if args.dataset_dir else PASSAGES
    documents = load_documents(text, "test", args.dataset_dir)
    writers = [load_writer(name, dtype="float32") for name in args.models]
    for writer in writers:
        if writer.noise.name == "uniform":
            raise UserError(
                f"--models {writer.name} was trained for uniform noise and has no masks to hide tokens; "
                "leave it out"
            )
        if args.block_size > writer.positions:
            raise UserError(
                f"--block_size {args.block_size}: {writer.name} has {writer.positions} positions; "
                "use at most that"
            )
    rows, firsts = [], {}
    vocabulary = writers[0].tokenizer.get_vocab()
    for writer in writers:
        same = writer.tokenizer.get_vocab() == vocabulary
        blocks = packing.pack(documents, writer.tokenizer, args.block_size, most=args.blocks).long()
        counts = {rate: predictions(writer, blocks, hidden(blocks, rate)) for rate in RATES}
        counts[None] = single_predictions(writer, blocks, args.singles)
        for rate, found in counts.items():
            first = firsts.setdefault(rate, found)
            rows.append(row(writer, rate, found, first if same else None))
    rows.sort(key=lambda entry: entry["rate"] or 0)
    print(table(rows))
    say(f"more: than {rows[0]['model']}")
    common.save(args, "understanding", writers[0].device, writers[0].dtype, text=Path(text).name,
                rows=rows)  # fmt: skip


if __name__ == "__main__":
    run(main)
