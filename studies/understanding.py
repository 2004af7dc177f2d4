"""Does a denoiser still understand? How well it predicts tokens hidden at random in whole text.

The tokens of blocks of held-out text are hidden at 15 %, as when masked models are made, at 50 %, and one at
a time, with all others of the block in sight, at a few places of each block (``--singles``); each is
predicted from all that is visible. Measured are the share of hidden tokens whose most probable
prediction is right, and nats a hidden token. A model that reads a token at its own place, such as one of the
hub, and one that reads it from the place before are both asked as they were trained. Models of one
vocabulary see the same masks; ± is half a 95 % interval over blocks, and differences from the first model are taken
block by block.

    python studies/understanding.py --models roberta-small-wikitext roberta-base --output runs/u.json
    python studies/understanding.py --models roberta-small-wikitext runs/mine --dataset_dir data \
        --blocks 256
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from diffusion import hardware, rng
from diffusion.cli.console import progress, say
from diffusion.cli.files import check_file, write_text
from diffusion.cli.values import within
from diffusion.data import packing
from diffusion.data.corpus import load_documents
from diffusion.errors import UserError, run
from diffusion.generate import Writer, load_writer
from diffusion.objective import cross_entropy
from diffusion.views.tables import aligned
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
        ids, asked = blocks[part].to(writer.device), masked[part].to(writer.device)
        logits = writer.denoiser.reader(writer.noise.corrupt(ids, asked), asked)
        right = logits.argmax(1) == ids[asked]
        nats = cross_entropy(logits, ids[asked])
        values = torch.stack([torch.ones_like(nats), right.to(nats.dtype), nats], 1)
        found[part].index_add_(0, asked.nonzero()[:, 0].cpu(), values.double().cpu())
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
    model, None where its tokens are others."""
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["roberta-small-wikitext"],
                        help="masked models: folders, names in weights/, or hub names")  # fmt: skip
    parser.add_argument(
        "--dataset_dir", help="folder with WikiText-2, to read its test split; else: the passages"
    )
    parser.add_argument("--blocks", type=int, default=64, help="at most so many")
    parser.add_argument("--block_size", type=int, default=128, help="tokens of a block")
    parser.add_argument("--singles", type=int, default=16,
                        help="tokens of a block that are hidden one at a time, a pass for each")  # fmt: skip
    parser.add_argument("--output", help="file for the numbers, as JSON")
    args = parser.parse_args()
    within("--blocks", args.blocks, 2, None)
    within("--block_size", args.block_size, 8, None)
    within("--singles", args.singles, 1, args.block_size - 1)
    if args.output:
        check_file("--output", args.output)
    hardware.use_all_cores()
    text = "wikitext-2" if args.dataset_dir else PASSAGES
    documents = load_documents(text, "test", args.dataset_dir)
    writers = [load_writer(name, dtype="float32") for name in args.models]
    for writer in writers:
        if writer.noise.name == "uniform":
            raise UserError(
                f"--models {writer.name} was trained for uniform noise and has no masks to hide tokens "
                "behind; leave it out"
            )
        if args.block_size > writer.positions:
            raise UserError(
                f"--block_size {args.block_size}: {writer.name} sees {writer.positions} positions; use "
                "so many or fewer"
            )
    rows, firsts = [], {}
    vocabulary = writers[0].tokenizer.get_vocab()
    for writer in writers:
        same = writer.tokenizer.get_vocab() == vocabulary
        blocks = packing.pack(documents, writer.tokenizer, args.block_size, most=args.blocks).long()
        asked = {rate: predictions(writer, blocks, hidden(blocks, rate)) for rate in RATES}
        asked[None] = single_predictions(writer, blocks, args.singles)
        for rate, found in asked.items():
            first = firsts.setdefault(rate, found)
            rows.append(row(writer, rate, found, first if same else None))
    rows.sort(key=lambda entry: entry["rate"] or 0)
    print(table(rows))
    say(f"more: than {rows[0]['model']}")
    if args.output:
        result = {"text": Path(text).name, "block_size": args.block_size, "singles": args.singles}
        result |= {"rows": rows}
        result |= hardware.record(writers[0].device, writers[0].dtype)
        write_text(Path(args.output), json.dumps(result, indent=1) + "\n")
        say(f"saved {args.output}")


if __name__ == "__main__":
    run(main)
