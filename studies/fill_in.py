"""Text that trains a causal model to fill gaps, for `infilling.py --filler`.

    python studies/fill_in.py wikitext-2 data/wikipedia/train-{0,1,2}.txt.xz --dataset_dir data \
        --output runs/fill-in.txt
    python studies/fill_in.py wikitext-2 --split validation --dataset_dir data --output runs/fill-in-valid.txt
    python finetune.py --model gpt2-small-wikitext --objective causal --block_size 98 --dataset runs/fill-in.txt \
        --eval_dataset runs/fill-in-valid.txt --output_dir runs/gpt2-fill-in --max_steps 1500 \
        --per_device_train_batch_size 16 --learning_rate 3e-4 --lr_scheduler_type cosine --warmup_steps 50 \
        --ema 0.99 --adam_beta2 0.98 --weight_decay 0.01 --save_strategy no --save_dtype float16 \
        --eval_strategy steps --eval_steps 250
    python studies/infilling.py --filler runs/gpt2-fill-in --dataset_dir data --output runs/infilling.json

Each document is one passage with a gap, cut as those that are measured: what follows the gap and the number
of missing words, then what precedes it and the span, and a mark where it is full (`Gap.context`). The
size of a gap is the rarest so far of those that a passage has. All documents are ``--tokens`` long, so that
blocks of two more hold one each between ``<s>`` and ``</s>``: what follows a gap is cut at its end.
"""

import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion.cli.console import progress, say
from diffusion.cli.files import write_text
from diffusion.data.corpus import load_documents
from diffusion.errors import UserError, run
from diffusion.models.tokenizers import load_tokenizer
from diffusion.text import encode, read
from studies import common
from studies.board.scorer import passages
from studies.infilling import LENGTHS, MARK, Gap, cut


def lesson(tokenizer, gap: Gap, tokens: int) -> str | None:
    """The document of a gap, ``tokens`` long; None where there is none."""
    _, pieces = read(tokenizer, gap.right)
    kept = len(pieces)
    for _ in range(4):  # a cut may change how its neighbours are tokenised
        shorter = Gap(gap.left, gap.span, "".join(pieces[:kept]), gap.tokens)
        text = shorter.context() + gap.span + MARK
        beyond = len(encode(tokenizer, text)) - tokens
        if beyond == 0:
            return text
        kept -= beyond
        if not 0 < kept <= len(pieces):
            return None
    return None


def lessons(tokenizer, texts: Iterable[str], tokens: int, seed: int = 0) -> Iterator[tuple]:
    """(size of its gap, document), one for each text that has a gap."""
    draw, taken = random.Random(seed), Counter()
    for text in texts:
        for size in sorted(LENGTHS, key=lambda size: (taken[size], draw.random())):
            gap = cut(tokenizer, text, size, draw)
            if gap and (found := lesson(tokenizer, gap, tokens)):
                taken[size] += 1
                yield size, found
                break


def main() -> None:
    parser = common.flags(__doc__, "dataset_dir", output="runs/fill-in.txt")
    parser.add_argument("datasets", nargs="+", help="wikitext-2, or files of text")
    parser.add_argument("--split", default="train", choices=["train", "validation", "test"])
    parser.add_argument("--tokenizer", default="gpt2-small-wikitext", help="of the model to train")
    parser.add_argument("--tokens", type=int, default=96, help="of a passage, and of a document")
    parser.add_argument("--seed", type=int, default=0)
    args = common.read(parser, tokens=16)
    tokenizer = load_tokenizer(args.tokenizer, needs_mask=False)
    documents = [
        re.sub(r"\n\s*\n", "\n", document)  # blank lines would part paragraphs here
        for name in args.datasets
        for document in load_documents(name, args.split, args.dataset_dir)
    ]
    found = passages(documents, tokenizer, 1, args.tokens - 1)
    taken, texts = Counter(), []
    for size, text in lessons(
        tokenizer, (p.prompt + p.continuation for p in found), args.tokens, args.seed
    ):
        taken[size] += 1
        texts.append(text.replace("\n", "\n\n"))  # a line is a paragraph
        progress(len(texts), len(found), "passages")
    if not texts:
        raise UserError(
            f"--tokens {args.tokens}: the text has no passage with a gap between words; use a longer "
            "text or shorter passages"
        )
    write_text(Path(args.output), "\n\n\n".join(texts) + "\n")
    sizes = ", ".join(f"{taken[size]} of {size}" for size in LENGTHS)
    say(f"{len(texts)} of {len(found)} passages have a gap ({sizes}); saved {args.output}")


if __name__ == "__main__":
    run(main)
