"""How often the pseudo-likelihood finds the length that a hole had.

A few words are cut out of each sentence, infilled with every length from 2 to 8 tokens, and the
length is chosen as `inference.py --infill` chooses it.

    python studies/hole_lengths.py --dataset_dir data
"""

import argparse
import random
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from diffusion.canvas import Canvas, encode
from diffusion.data.corpus import load_documents
from diffusion.editing.canvases import infill_canvas
from diffusion.editing.templates import Template
from diffusion.generate import load_writer
from diffusion.likelihood import pseudo_likelihood
from diffusion.options import GenerationOptions

LENGTHS = range(2, 9)


def holes(writer, dataset_dir: str | None, sentences: int):
    """(template, tokens that were cut out) of random sentences, where those are in LENGTHS."""
    documents = load_documents("wikitext-2", "validation", dataset_dir)
    parts = [s for d in documents for s in re.split(r"(?<=[.])\s(?=[A-Z])", d) if 60 < len(s) < 160]
    draw = random.Random(0)
    draw.shuffle(parts)
    for words in (part.split() for part in parts[:sentences]):
        n = draw.randint(1, 5)
        i = draw.randint(1, len(words) - n - 1)
        tokens = len(encode(writer.tokenizer, " " + " ".join(words[i : i + n])))
        if tokens in LENGTHS:
            before, after = " ".join(words[:i]), " ".join(words[i + n :])
            yield Template([before + " ", " " + after], [LENGTHS]), tokens


def choose(writer, template: Template, options: GenerationOptions) -> int:
    layouts = [(length,) for length in LENGTHS]
    size = writer.denoiser.backbone.config.vocab_size
    canvas = infill_canvas(writer.tokenizer, template, layouts, size)
    *_, step = writer.denoise(canvas, options, [0] * len(layouts), may_end=False)
    scores = pseudo_likelihood(
        writer.denoiser.backbone,
        Canvas(step.ids, step.frozen, step.padding),
        ~step.frozen,
        writer.denoiser.noise,
        batch_size=64,
    )
    return LENGTHS[int(scores.argmax())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="roberta-small-wikitext")
    parser.add_argument("--dataset_dir", help="folder with wikitext-2; default: the hub")
    parser.add_argument("--sentences", type=int, default=120)
    arguments = parser.parse_args()
    writer, options = load_writer(arguments.model), GenerationOptions()
    writer.check(options)
    pairs = [
        (choose(writer, template, options), tokens)
        for template, tokens in holes(writer, arguments.dataset_dir, arguments.sentences)
    ]
    chosen, true = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
    right = sum(a == b for a, b in pairs) / len(pairs)
    print(f"{len(pairs)} holes: {right:.2f} right (chance {1 / len(LENGTHS):.2f}), mean length "
          f"{chosen:.1f} chosen, {true:.1f} cut out")  # fmt: skip


if __name__ == "__main__":
    main()
