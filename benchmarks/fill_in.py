"""Text that teaches a causal model to fill holes, for `infilling.py --filler`.

    python benchmarks/fill_in.py wikitext-2 data/wikipedia/train-{0,1,2}.txt.xz \
        --dataset_dir data --output runs/fill-in.txt
    python finetune.py --model gpt2-small-wikitext --objective causal --dataset runs/fill-in.txt --eval_dataset wikitext-2 \
        --dataset_dir data --output_dir runs/gpt2-fill-in --max_steps 1500 --per_device_train_batch_size 8 \
        --learning_rate 3e-4 --lr_scheduler_type cosine --warmup_steps 50 --ema 0.99 --adam_beta2 0.98 \
        --weight_decay 0.01 --eval_strategy no --save_strategy no --save_dtype float16
    python benchmarks/infilling.py --filler runs/gpt2-fill-in --dataset_dir data --output runs/infilling.json

Each document is one passage with a hole, cut as those that are measured: what is behind the hole and how many
words are missing, then what is before it and the hole, and a mark where it is full (`Hole.told`). Sizes of
holes are drawn evenly. A causal model that is trained on it is told as much as a masked one.
"""

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from benchmarks.infilling import LENGTHS, MARK, cut
from diffusion.cli.console import progress, say
from diffusion.cli.files import check_file, write_text
from diffusion.cli.values import within
from diffusion.data.corpus import load_documents
from diffusion.errors import UserError, run
from diffusion.evaluation.scorer import passages
from diffusion.models.tokenizers import load_tokenizer


def lessons(tokenizer, texts: list[str], seed: int) -> Iterator[str]:
    """The documents, one of each text that has a hole of the size that is drawn."""
    draw = random.Random(seed)
    for number, text in enumerate(texts, 1):
        if hole := cut(tokenizer, text, draw.choice(LENGTHS), draw):
            # A line is a paragraph: what the model goes on from ends in the second one.
            yield (hole.told() + hole.span + MARK).replace("\n", "\n\n")
        progress(number, len(texts), "passages")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("datasets", nargs="+", help="wikitext-2, or files of text")
    parser.add_argument("--dataset_dir", help="folder with WikiText-2")
    parser.add_argument("--tokenizer", default="gpt2-small-wikitext", help="of the model to train")
    parser.add_argument("--passage_len", type=int, default=96, help="tokens of a passage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, help="the text, for finetune.py --dataset")
    args = parser.parse_args()
    within("--passage_len", args.passage_len, 8, None)
    check_file("--output", args.output)
    tokenizer = load_tokenizer(args.tokenizer, needs_mask=False)
    documents = [
        d for name in args.datasets for d in load_documents(name, "train", args.dataset_dir)
    ]
    found = passages(documents, tokenizer, 1, args.passage_len - 1)
    texts = list(lessons(tokenizer, [p.prompt + p.continuation for p in found], args.seed))
    if not texts:
        raise UserError(
            f"--passage_len {args.passage_len}: the text has no passage with a hole between words; use "
            "a longer text or shorter passages"
        )
    write_text(Path(args.output), "\n\n\n".join(texts) + "\n")
    say(f"{len(texts)} of {len(found)} passages have a hole; saved {args.output}")


if __name__ == "__main__":
    run(main)
