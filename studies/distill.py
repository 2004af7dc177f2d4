"""Stories that a model writes itself, to train it on: sequence-level distillation (arXiv:1606.07947).

    python studies/distill.py train.txt --model runs/stories --texts 4000 --output runs/own.jsonl
    python finetune.py --model runs/stories --dataset runs/own.jsonl ...

Each text goes on from the first sentence of a document, read causally (`--sampler causal`), which is the
best that a model with `--layouts` knows; of one that did not end, what follows the last whole sentence is
left out. Text of one model has less of what tokens drawn at once cannot agree on (arXiv:1711.02281), and
less variety: `--real` puts real documents between them. A run that was stopped goes on where it was.
"""

import json
import random
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusion.cli.checks import within
from diffusion.cli.console import progress, say
from diffusion.cli.reading import read_text
from diffusion.data.corpus import load_documents
from diffusion.errors import UserError, run
from diffusion.generate import Writer, load_writer
from diffusion.options import GenerationOptions
from diffusion.views.frames import written_text
from studies import common
from studies.board.scorer import FIRST_SENTENCE

WHOLE = re.compile(r".*[.!?][\"'\u201d]?(?=\s|$)", re.DOTALL)  # up to the end of the last sentence


def continued(
    writer: Writer, prompts: list[str], temperature: float, numbers: list[int]
) -> list[str]:
    """Each prompt and what follows it, up to its end or that of the last whole sentence."""
    options = GenerationOptions(sampler="causal", temperature=temperature, top_k=0, top_p=1.0)
    *_, last = writer.generate(prompts, options.fitted(writer.positions), numbers)
    texts = (written_text(writer.tokenizer, last, row) for row in range(len(prompts)))
    wholes = (found[0] if (found := WHOLE.match(text)) else "" for text in texts)
    return [max(pair, key=len) for pair in zip(prompts, wholes, strict=True)]


def planned(documents: list[str], texts: int, real: float, seed: int) -> list[tuple[str, bool]]:
    """What stands in each line, in a random order: (first sentence, False), or (a document, True)."""
    documents = random.Random(seed).sample(documents, len(documents))
    begun = [sentence[0] for d in documents if (sentence := FIRST_SENTENCE.match(d))]
    if len(begun) < texts:
        raise UserError(
            f"--texts {texts}: only {len(begun)} documents have a first sentence of 10 to 160 "
            "characters; use fewer texts or more documents"
        )
    kept = documents[: round(real * texts)]
    lines = [(text, False) for text in begun[:texts]] + [(text, True) for text in kept]
    return random.Random(seed).sample(lines, len(lines))


def there(target: Path, lines: list[tuple[str, bool]]) -> int:
    """How many of the planned lines are in the file already."""
    found = read_text(target).splitlines() if target.exists() else []
    try:
        texts = [json.loads(line)["text"] for line in found]
        fits = all(text.startswith(begin) for text, (begin, _) in zip(texts, lines, strict=False))
    except (ValueError, LookupError, TypeError, AttributeError):
        fits = False
    if not fits or len(found) > len(lines):
        raise UserError(f"--output {target} holds something else; remove it or give another name")
    return len(found)


def main() -> None:
    parser = common.flags(__doc__, "model", "device", "dtype", output="runs/own.jsonl")
    parser.add_argument(
        "datasets", nargs="+", help="whose documents begin the texts, as in finetune.py"
    )
    parser.add_argument("--texts", type=int, default=4000, help="to write")
    parser.add_argument("--real", type=float, default=0.33, help="real documents a text")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = common.read(parser, texts=1, batch_size=1)
    within("--real", args.real, 0, None)
    documents = [d for name in args.datasets for d in load_documents(name)]
    lines = planned(documents, args.texts, args.real, args.seed)
    target = Path(args.output)
    target.parent.mkdir(parents=True, exist_ok=True)
    done = there(target, lines)
    writer = load_writer(args.model, None, args.device, args.dtype)
    with target.open("a", encoding="utf-8") as file:
        for start in range(done, len(lines), args.batch_size):
            progress(start, len(lines), "texts")
            numbers = range(start, min(start + args.batch_size, len(lines)))
            own = [n for n in numbers if not lines[n][1]]
            written = continued(writer, [lines[n][0] for n in own], args.temperature, own)
            texts = dict(zip(own, written, strict=True))
            for n in numbers:
                text = lines[n][0] if lines[n][1] else texts[n]
                file.write(json.dumps({"text": text}) + "\n")
            file.flush()
    progress(len(lines), len(lines), "texts")
    say(f"saved {len(lines)} texts, of which {args.texts} by {args.model}, as {target}")


if __name__ == "__main__":
    run(main)
