"""Does bidirectional context help to fill a gap in a text?

From each passage of held-out text a span of 2, 4, 8 or 16 tokens between words, or a whole sentence of at
most 32 tokens, is cut out, and filled

- by a masked model on the full canvas, with both sides fixed: highest confidence first (a token a pass),
  from left to right, and in a random order (`ancestral`, as many steps as tokens);
- by GPT-2 with the left side alone, cut after as many words as are missing;
- by a GPT-2 that was trained to fill (`--filler`, see `fill_in.py`): it reads the right side, the number
  of missing words and the left side, and says itself when the gap is full;
- by either GPT-2 with 16 candidates drawn at temperature 1, of which the one with the highest likelihood of
  the whole passage under GPT-2 is taken ("best of").

Measured are ROUGE-L of the words against the span (F1 of the longest common subsequence), how often all
words are right, the number of tokens, their nats per token by each scorer, and the nats of the right side
after the fill. ± is half a 95 % interval over passages; differences are taken passage by passage.

    python studies/infilling.py --output runs/infilling.json            # the project's passages
    python studies/infilling.py --dataset_dir data --output runs/infilling-wikitext.json
"""

import argparse
import itertools
import random
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from diffusion.autoregressive import load_causal_writer
from diffusion.cli.checks import within
from diffusion.cli.console import progress
from diffusion.data.corpus import load_documents
from diffusion.editing.canvases import check_room, infill_canvas
from diffusion.editing.templates import Template
from diffusion.errors import UserError, run
from diffusion.generate import load_writer
from diffusion.options import GenerationOptions
from diffusion.text import encode, read
from diffusion.views.frames import Framer
from studies import common
from studies.board import metrics
from studies.board.options import PASSAGES
from studies.board.report import aligned
from studies.board.scorer import Scorer, estimate_json, load_scorer, passages

TEMPERATURES = (0.0, 1.0)
SPARE = 8  # tokens that GPT-2 writes beyond twice the span's, so that the last word is whole
MARK = " |"  # in text for a model that learns to fill: the end of a side, or of the fill
SENTENCE, LONGEST = "sentence", 32  # a size of spans, and the most tokens of one
LENGTHS = [2, 4, 8, 16, SENTENCE]
ENDS = re.compile(r"[.!?][\"')]*$")
ABBREVIATES = re.compile(r"\b[A-Z]\w{0,2}\.$")  # No., Dr., U.S.


@dataclass(frozen=True)
class Gap:
    """A passage without a span of ``tokens`` tokens; ``left + span + right`` is the passage."""

    left: str
    span: str  # begins with a space
    right: str  # begins with a space
    tokens: int

    def template(self) -> Template:
        return Template([self.left + " ", self.right], [range(self.tokens, self.tokens + 1)])

    def words(self) -> int:
        return len(self.span.split())

    def context(self) -> str:
        """The prompt of a causal model that was trained to fill: the right side, the number of
        missing words, the left side (suffix first, arXiv:2207.14255)."""
        return f"{self.right.strip()}{MARK} {self.words()}\n{self.left}"


def spans(pieces: list[str], tokens: int) -> list[tuple[int, int]]:
    """(start, end) of all spans of that many tokens with words beginning at both ends."""
    begins = [len(piece) > 1 and piece[0] == " " and piece[1].isalnum() for piece in pieces]
    starts = range(len(pieces) - tokens)
    return [(i, i + tokens) for i in starts if begins[i] and begins[i + tokens]]


def sentences(pieces: list[str]) -> list[tuple[int, int]]:
    """(start, end) in tokens of the sentences that begin with a capital letter and are followed by one
    that does; a capital letter and at most two others before a full stop are an abbreviation."""
    starts = []
    for i in range(1, len(pieces)):
        before, after = "".join(pieces[:i]), "".join(pieces[i:])
        if after[0] == " " and ENDS.search(before) and not ABBREVIATES.search(before):
            starts.append((i, after[1:2].isupper()))
    return [
        (i, j)
        for (i, begins), (j, follows) in itertools.pairwise(starts)
        if begins and follows and j - i <= LONGEST
    ]


def cut(tokenizer, text: str, size: int | str, draw: random.Random) -> Gap | None:
    """A gap at a random place in the middle half of a passage: of ``size`` tokens between words, or a
    `SENTENCE`; None where there is none."""
    _, pieces = read(tokenizer, text)
    quarter = len(pieces) // 4
    places = [
        (i, j)
        for i, j in (sentences(pieces) if size == SENTENCE else spans(pieces, size))
        if quarter <= i and j < len(pieces) - quarter and "\n" not in "".join(pieces[i:j])
    ]
    if not places:
        return None
    i, j = draw.choice(places)
    return Gap(*("".join(part) for part in (pieces[:i], pieces[i:j], pieces[j:])), j - i)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def rouge_l(text: list[str], reference: list[str]) -> float:
    """F1 of the longest common subsequence of two lists of words (Lin 2004); 0 of an empty one."""
    longest = [0] * (len(reference) + 1)
    for word in text:
        before = longest[:]
        for j, other in enumerate(reference):
            longest[j + 1] = before[j] + 1 if word == other else max(before[j + 1], longest[j])
    return 2 * longest[-1] / max(1, len(text) + len(reference))


# ---------------------------------------------------------------- ways to fill


def by_diffusion(writer, sampler: str, temperature: float, gap: Gap, number: int) -> str:
    """With both sides fixed on the full canvas."""
    own = {"block_length": 1} if sampler == "first-hitting" else {"n_steps": gap.tokens}
    options = GenerationOptions(sampler=sampler, attention="full", temperature=temperature, **own)
    options = options.fitted(writer.positions)
    writer.check(options)
    canvas = infill_canvas(writer.tokenizer, gap.template(), [(gap.tokens,)])
    check_room("a passage of --passage_len", canvas.ids.shape[1], writer.positions)
    *_, last = writer.denoise(canvas, options, [number], may_end=False)
    return Framer(writer.tokenizer).frame(last).added()


def continued(writer, temperature: float, gap: Gap, samples: list[int]) -> list[str]:
    """As many words as are missing after the left side, for each sample; what stands before the first
    space, such as a comma, is no word."""
    return written(writer, gap.left, temperature, gap, samples)


def filled_in(writer, temperature: float, gap: Gap, samples: list[int]) -> list[str]:
    """The same by a model that reads the right side too, up to its mark that the gap is full."""
    fills = written(writer, gap.context(), temperature, gap, samples)
    return [re.split(rf"\s*\{MARK.strip()}", fill)[0] for fill in fills]


def written(writer, prompt: str, temperature: float, gap: Gap, samples: list[int]) -> list[str]:
    options = GenerationOptions(temperature=temperature, length=2 * gap.tokens + SPARE)
    *_, last = writer.generate([prompt] * len(samples), options, samples)
    framer = Framer(writer.tokenizer)
    added = [framer.frame(last, row).added() for row in range(len(samples))]
    return [re.match(rf"\S*(\s+\S+){{0,{gap.words()}}}", text)[0] for text in added]


def first(fills, writer, temperature: float, gap: Gap, number: int) -> str:
    """What `continued` or `filled_in` writes, one text for each gap."""
    return fills(writer, temperature, gap, [number])[0]


def reranked(fills, writer, judge, candidates: int, gap: Gap, number: int) -> str:
    """The candidate with the highest likelihood of the whole passage under a causal model."""
    samples = range(number * candidates, (number + 1) * candidates)
    found = fills(writer, 1.0, gap, list(samples))
    own = Scorer(judge.model, judge.tokenizer, judge.name)
    scored = own.read([("", gap.left + fill + gap.right, False) for fill in found])
    return min(zip(scored, found, strict=True), key=lambda pair: pair[0].nats)[1]


def methods(writer, baseline, filler, candidates: int) -> dict:
    """Name -> (gap, number of the passage) -> fill; ``filler``: a causal writer that was trained to
    fill, or None. Differences are from the first."""
    samplers = "confidence", "first-hitting", "ancestral"
    found = {
        f"{'left to right' if name == 'first-hitting' else name} at {t:g}": partial(
            by_diffusion, writer, name, t
        )
        for name in samplers
        for t in TEMPERATURES
    }
    causal = {"GPT-2": (continued, baseline)}
    if filler is not None:
        causal["GPT-2 that fills in"] = (filled_in, filler)
    for name, how in causal.items():
        found |= {f"{name} at {t:g}": partial(first, *how, t) for t in TEMPERATURES}
        found[f"{name}, best of {candidates}"] = partial(reranked, *how, baseline, candidates)
    return found | {"what was cut out": lambda gap, number: gap.span}


def check_filler(filler, gaps: list[Gap]) -> None:
    """Refuse passages that do not fit into the filler's positions."""
    for gap in gaps:
        need = 1 + len(encode(filler.tokenizer, gap.context())) + 2 * gap.tokens + SPARE
        if need > filler.positions:
            raise UserError(
                f"--filler {filler.name} has {filler.positions} positions, and a gap needs {need}; use "
                "a smaller --passage_len"
            )


# ---------------------------------------------------------------- tables


def columns(
    tokenizer, gaps: list[Gap], fills: list[str], scorers: list[Scorer]
) -> dict[str, list[float]]:
    """Name of a number -> its value for each gap."""
    both = list(zip(gaps, fills, strict=True))
    pairs = [(words(fill), words(gap.span)) for gap, fill in both]
    found = {
        "ROUGE-L": [rouge_l(*pair) for pair in pairs],
        "exact": [float(fill == true) for fill, true in pairs],
        "tokens": [float(len(encode(tokenizer, fill))) for fill in fills],
    }
    for scorer in scorers:
        # Not of the whole passage: a shorter fill has fewer nats.
        scored = scorer.read([(gap.left, fill, False) for gap, fill in both])
        found[f"a token by {scorer.name}"] = [each.nats / max(1, each.tokens) for each in scored]
        scored = scorer.read([(gap.left + fill, gap.right, False) for gap, fill in both])
        found[f"right side by {scorer.name}"] = [each.nats for each in scored]
    return found


def row(method: str, found: dict, first: dict, share: str) -> dict:
    """Each number with its interval, and, except for that which is a ``share`` of texts, its difference
    from that of the first method."""
    numbers = {name: metrics.bootstrap(metrics.mean, values) for name, values in found.items()}
    numbers[share] = metrics.share(int(sum(found[share])), len(found[share]))
    more = {
        name: metrics.bootstrap(metrics.mean, np.subtract(values, first[name]))
        for name, values in found.items()
        if name != share
    }
    return {
        "method": method,
        "numbers": {name: estimate_json(value) for name, value in numbers.items()},
        "more": {name: estimate_json(value) for name, value in more.items()},
    }


def table(rows: list[dict]) -> str:
    lines = [["by", *rows[0]["numbers"], *(f"{name} more" for name in rows[0]["more"])]]
    for entry in rows:
        numbers = [*entry["numbers"].values(), *entry["more"].values()]
        lines.append([entry["method"], *(str(metrics.Estimate(*number)) for number in numbers)])
    return "\n".join(aligned(lines, 1))


def measure(tokenizer, gaps: list[Gap], fillers: dict, scorers: list[Scorer]) -> list[dict]:
    """The rows of all methods on the same gaps."""
    found = {}
    for nth, (name, fill) in enumerate(fillers.items()):
        fills = []
        for number, gap in enumerate(gaps):
            fills.append(fill(gap, number))
            progress(nth * len(gaps) + len(fills), len(fillers) * len(gaps), name)
        found[name] = columns(tokenizer, gaps, fills, scorers)
    first = next(iter(found.values()))
    return [row(name, values, first, "exact") for name, values in found.items()]


def size(text: str) -> int | str:
    return text if text == SENTENCE else int(text)


def flags(about: str) -> argparse.ArgumentParser:
    """The flags of a study in which a masked model and a causal one write parts of real passages."""
    parser = common.flags(about, "model", "baseline", "scorers", "dataset_dir")
    parser.add_argument("--dataset", help="held-out text, as in finetune.py; default: WikiText-2 with "
                        "--dataset_dir, else the project's passages")  # fmt: skip
    parser.add_argument("--passages", type=int, default=64, help="of each kind, at most")
    return parser


def held_out(args: argparse.Namespace) -> list[str]:
    """The documents of ``--dataset``, which is filled in."""
    args.dataset = args.dataset or ("wikitext-2" if args.dataset_dir else PASSAGES)
    return load_documents(args.dataset, "test", args.dataset_dir)


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--candidates", type=int, default=16, help="of which GPT-2 takes the best")
    parser.add_argument(
        "--filler", help="a causal model that was trained by the text of fill_in.py"
    )
    parser.add_argument("--lengths", type=size, nargs="+", default=LENGTHS,
                        help=f"of spans, in tokens; {SENTENCE}: a whole one")  # fmt: skip
    parser.add_argument("--passage_len", type=int, default=96, help="tokens of a passage")
    args = common.read(parser, passages=2, passage_len=8, candidates=2)
    for length in args.lengths:
        if length != SENTENCE:
            within("--lengths", length, 1, args.passage_len // 2 - 1)
    documents = held_out(args)
    writer, baseline = load_writer(args.model), load_causal_writer(args.baseline)
    filler = load_causal_writer(args.filler) if args.filler is not None else None
    scorers = [load_scorer(name) for name in args.scorers]
    found = passages(documents, writer.tokenizer, 1, args.passage_len - 1)
    if len(found) < args.passages:
        raise UserError(
            f"--passages {args.passages}: the text has only {len(found)} passages of "
            f"{args.passage_len} tokens; use fewer or shorter ones"
        )
    texts = [passage.prompt + passage.continuation for passage in found]
    fillers = methods(writer, baseline, filler, args.candidates)
    gaps_of = {}
    for length in args.lengths:
        draw = random.Random(length)
        cuts = (cut(writer.tokenizer, text, length, draw) for text in texts)
        gaps_of[length] = gaps = list(itertools.islice(filter(None, cuts), args.passages))
        if len(gaps) < 2:
            raise UserError(
                f"--lengths {length}: {len(gaps)} of {len(texts)} passages have such a span between "
                "words; use a longer text or longer passages"
            )
        if filler is not None:
            check_filler(filler, gaps)
    parts = {}
    for length, gaps in gaps_of.items():
        parts[length] = rows = measure(writer.tokenizer, gaps, fillers, scorers)
        unit = "one sentence" if length == SENTENCE else f"{length} tokens"
        print(
            f"{len(gaps)} gaps of {unit}; more: than {rows[0]['method']}\n{table(rows)}\n",
            flush=True,
        )
    common.save(args, "infilling", writer.device, writer.dtype, text=Path(args.dataset).name,
                tokens=parts)  # fmt: skip


if __name__ == "__main__":
    run(main)
