"""What diffusion is for: a span cut out of a passage, to be filled with both sides in sight.

Of each passage of held-out text spans of 2, 4, 8 and 16 tokens are cut out, at the edges of words, and
whole sentences of at most 32 tokens, and filled

- by a masked model on the full canvas with both sides given: the surest token first (`confidence`,
  a token a pass), from left to right, and in a random order (`ancestral`, as many steps as tokens);
- by GPT-2 with the left side alone, cut after as many words as are missing;
- by GPT-2 that has learned to fill (`--filler`, made as `fill_in.py` says): it is given the right side first, then how
  many words are missing, then the left side, and goes on, until it says that the hole is full;
- by either GPT-2 that has written 16 candidates so and takes the one with which GPT-2 finds the whole passage, right
  side included, likeliest ("best of").

Greedily ("at 0") and at temperature 1; what GPT-2 chooses from is drawn at temperature 1.
Measured are ROUGE-L of the words against those that were cut out (F1 of the longest common subsequence),
how often all words are right, how many tokens were written, their nats a token by each scorer, and how many nats
it finds in the right side behind them: whether the fill leads there. Words are runs of
letters and digits, in lower case. ± is half a 95 % interval over passages, and differences are
taken passage by passage. The masked model
is told the number of tokens, and that a word begins and the next one follows; GPT-2 the number of words.

A second table has how likely each finds what was cut out, in nats per token of the masked model: GPT-2 and the
masked model read causally, both given the left side; the masked model on the full canvas given both sides, from left
to right (exact) and as the bound over all orders. On the canvas it is told the number of tokens here, too.

With what is in the repository:

    python studies/infilling.py --output runs/infilling.json            # the project's passages
    python studies/infilling.py --dataset_dir data --output runs/infilling-wikitext.json
"""

import argparse
import itertools
import json
import random
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from diffusion import hardware
from diffusion.autoregressive import load_causal_writer
from diffusion.cli.console import progress, say
from diffusion.cli.files import check_file, write_text
from diffusion.cli.values import within
from diffusion.data.corpus import load_documents
from diffusion.editing.canvases import canvas_of, check_room, infill_canvas
from diffusion.editing.templates import Template
from diffusion.errors import UserError, run
from diffusion.generate import load_writer
from diffusion.likelihood import ordered_nll, text_bounds
from diffusion.options import GenerationOptions
from diffusion.text.reading import encode, read
from diffusion.views.frames import Framer
from diffusion.views.tables import aligned
from studies.board import metrics, reading
from studies.board.options import PASSAGES
from studies.board.scorer import Scorer, estimate_json, load_scorer, passages

TEMPERATURES = (0.0, 1.0)
SPARE = 8  # tokens that GPT-2 writes more than twice the hole's, so that the last word is whole
DRAWS = 16  # of masks in a bound, about
MARK = " |"  # in text for a model that learns to fill holes: here a side, or the hole, is over
SENTENCE, LONGEST = "sentence", 32  # a size of holes, and how many tokens those have at most
LENGTHS = [2, 4, 8, 16, SENTENCE]
ENDS = re.compile(r"[.!?][\"')]*$")
ABBREVIATES = re.compile(r"\b[A-Z]\w{0,2}\.$")  # No., Dr., U.S.


@dataclass(frozen=True)
class Hole:
    """A passage without a span of ``tokens`` tokens; ``left + span + right`` is the passage."""

    left: str
    span: str  # begins with a space
    right: str  # begins with a space
    tokens: int

    def template(self) -> Template:
        return Template([self.left + " ", self.right], [range(self.tokens, self.tokens + 1)])

    def words(self) -> int:
        return len(self.span.split())

    def told(self) -> str:
        """What a causal model that has learned to fill holes goes on from: the right side, the number
        of missing words, the left side (the suffix first, arXiv:2207.14255)."""
        return f"{self.right.strip()}{MARK} {self.words()}\n{self.left}"


def spans(pieces: list[str], tokens: int) -> list[tuple[int, int]]:
    """(start, end) of all spans of so many tokens at whose ends words begin."""
    begins = [len(piece) > 1 and piece[0] == " " and piece[1].isalnum() for piece in pieces]
    starts = range(len(pieces) - tokens)
    return [(i, i + tokens) for i in starts if begins[i] and begins[i + tokens]]


def sentences(pieces: list[str]) -> list[tuple[int, int]]:
    """(start, end) in tokens of the sentences that begin with a capital letter and are followed by one
    that does; a capital letter and at most two others before a full stop are an abbreviation."""
    starts = []
    for i in range(1, len(pieces)):
        before, behind = "".join(pieces[:i]), "".join(pieces[i:])
        if behind[0] == " " and ENDS.search(before) and not ABBREVIATES.search(before):
            starts.append((i, behind[1:2].isupper()))
    return [
        (i, j)
        for (i, begins), (j, follows) in itertools.pairwise(starts)
        if begins and follows and j - i <= LONGEST
    ]


def cut(tokenizer, text: str, size: int | str, draw: random.Random) -> Hole | None:
    """A hole in the middle half of a passage, at a random place: of ``size`` tokens between words, or
    a `SENTENCE`; None where there is none."""
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
    return Hole(*("".join(part) for part in (pieces[:i], pieces[i:j], pieces[j:])), j - i)


# ---------------------------------------------------------------- what is measured of a fill


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


# ---------------------------------------------------------------- who fills


def by_diffusion(writer, sampler: str, temperature: float, hole: Hole, number: int) -> str:
    """With both sides in sight."""
    own = {"block_length": 1} if sampler == "first-hitting" else {"n_steps": hole.tokens}
    options = GenerationOptions(sampler=sampler, attention="full", temperature=temperature, **own)
    options = options.fitted(writer.positions)
    writer.check(options)
    vocabulary = writer.denoiser.backbone.config.vocab_size
    canvas = infill_canvas(writer.tokenizer, hole.template(), [(hole.tokens,)], vocabulary)
    check_room(
        "a passage of --passage_len", canvas.ids.shape[1], writer.positions, writer.positions
    )
    *_, last = writer.denoise(canvas, options, [number], may_end=False)
    return Framer(writer.tokenizer).frame(last).added()


def continued(writer, temperature: float, hole: Hole, samples: list[int]) -> list[str]:
    """As many words as are missing behind the left side, for each sample; what stands before the
    first space, such as a comma, is no word."""
    return written(writer, hole.left, temperature, hole, samples)


def filled_in(writer, temperature: float, hole: Hole, samples: list[int]) -> list[str]:
    """The same by a model that is told the right side, too; it may say itself that the hole is full."""
    fills = written(writer, hole.told(), temperature, hole, samples)
    return [re.split(rf"\s*\{MARK.strip()}", fill)[0] for fill in fills]


def written(writer, prompt: str, temperature: float, hole: Hole, samples: list[int]) -> list[str]:
    options = GenerationOptions(temperature=temperature, length=2 * hole.tokens + SPARE)
    *_, last = writer.generate([prompt] * len(samples), options, samples)
    framer = Framer(writer.tokenizer)
    added = [framer.frame(last, row).added() for row in range(len(samples))]
    return [re.match(rf"\S*(\s+\S+){{0,{hole.words()}}}", text)[0] for text in added]


def first(fills, writer, temperature: float, hole: Hole, number: int) -> str:
    """What `continued` or `filled_in` writes, a text for each hole."""
    return fills(writer, temperature, hole, [number])[0]


def reranked(fills, writer, judge, candidates: int, hole: Hole, number: int) -> str:
    """The candidate with which the passage is likeliest to a causal model."""
    samples = range(number * candidates, (number + 1) * candidates)
    found = fills(writer, 1.0, hole, list(samples))
    own = Scorer(judge.model, judge.tokenizer, judge.name)
    said = own.read([("", hole.left + fill + hole.right, False) for fill in found])
    return min(zip(said, found, strict=True), key=lambda pair: pair[0].nats)[1]


def methods(writer, baseline, filler, candidates: int) -> dict:
    """Name -> (hole, number of the passage) -> fill. Differences are from the first.

    Args:
        filler: a causal writer that has learned to fill holes, or None.
    """
    samplers = {
        "confidence": "confidence",
        "left to right": "first-hitting",
        "ancestral": "ancestral",
    }
    found = {
        f"{name} at {t:g}": partial(by_diffusion, writer, sampler, t)
        for name, sampler in samplers.items()
        for t in TEMPERATURES
    }
    causal = {"GPT-2": (continued, baseline)}
    if filler is not None:
        causal["GPT-2 that fills in"] = (filled_in, filler)
    for name, how in causal.items():
        found |= {f"{name} at {t:g}": partial(first, *how, t) for t in TEMPERATURES}
        found[f"{name}, best of {candidates}"] = partial(reranked, *how, baseline, candidates)
    return found | {"what was cut out": lambda hole, number: hole.span}


def check_told(filler, holes: list[Hole]) -> None:
    """Refuse holes whose passage is more than the filler sees, with the number of words before it."""
    for hole in holes:
        need = 1 + len(encode(filler.tokenizer, hole.told())) + 2 * hole.tokens + SPARE
        if need > filler.positions:
            raise UserError(
                f"--filler {filler.name} sees {filler.positions} tokens, and to fill a hole it would "
                f"need {need}; use a smaller --passage_len"
            )


# ---------------------------------------------------------------- how likely the truth is


def on_canvas(tokenizer, hole: Hole) -> tuple[list[int], range]:
    """The ids of a passage behind ``<s>``, and where its span stands among them."""
    ids = [tokenizer.bos_token_id, *encode(tokenizer, hole.left + hole.span + hole.right)]
    start = 1 + len(encode(tokenizer, hole.left))
    return ids, range(start, start + hole.tokens)


def draws(tokens: int) -> int:
    """Of masks in the bound of a hole, some `DRAWS`: each number of masks is drawn equally often. (With
    an even multiple of the tokens rounding would favour one number, the same in all holes.)"""
    return tokens * (max(1, DRAWS // tokens) | 1)


def with_both_sides(writer, ids: list[int], place: range) -> tuple[float, float]:
    """-log p in nats of the tokens at ``place`` on the full canvas, all others given: exact from left
    to right, and its bound over all orders."""
    denoiser = writer.denoiser
    canvas = canvas_of(writer.tokenizer, [torch.tensor(ids)]).to(writer.device)
    asked = torch.zeros_like(canvas.padding)
    asked[:, place.start : place.stop] = True
    number = draws(len(place))
    bound = text_bounds(denoiser.reader, canvas, asked, denoiser.noise, draws=number).mean()
    sizes = torch.ones(denoiser.backbone.config.vocab_size)  # nobody asks for bytes
    exact = ordered_nll(denoiser.reader, canvas.ids, asked, denoiser.noise, sizes).nats_per_token
    return exact * len(place), bound.item() * len(place)


def nats_of_the_truth(writer, baseline, holes: list[Hole]) -> dict[str, list[float]]:
    """Who reads, given what -> -log p of what was cut out of each hole, in nats; differences are from
    the first."""
    judge = Scorer(baseline.model, baseline.tokenizer, baseline.name)
    said = judge.read([(hole.left, hole.span, False) for hole in holes])
    found = {"GPT-2, left side": [opinion.nats for opinion in said]}
    rows, places = zip(*(on_canvas(writer.tokenizer, hole) for hole in holes), strict=True)
    if reading.reads(writer, "causal"):
        left = [ids[: place.stop] for ids, place in zip(rows, places, strict=True)]
        given = [place.start for place in places]
        found["RoBERTa, left side, causal"] = reading.nats(writer, left, given, "causal")
    exact, bounds = [], []
    for ids, place in zip(rows, places, strict=True):
        nats, bound = with_both_sides(writer, ids, place)
        exact.append(nats)
        bounds.append(bound)
        progress(len(exact), len(rows), "both sides")
    both = {"left to right": exact, "bound": bounds}
    return found | {f"RoBERTa, both sides, {name}": values for name, values in both.items()}


def readings(found: dict[str, list[float]], holes: list[Hole]) -> list[dict]:
    """Nats per token of each way of reading, pooled over holes, with their intervals."""
    tables = {
        name: [(nats, hole.tokens) for nats, hole in zip(values, holes, strict=True)]
        for name, values in found.items()
    }
    first = next(iter(tables.values()))
    return [
        {
            "reading": name,
            "nats": estimate_json(metrics.bootstrap(metrics.ratio, *zip(*pairs, strict=True))),
            "more": estimate_json(metrics.paired_difference(pairs, first)),
        }
        for name, pairs in tables.items()
    ]


def likelihood_table(rows: list[dict]) -> str:
    lines = [["what was cut out, read by", "nats per token", "more"]]
    for entry in rows:
        numbers = (str(metrics.Estimate(*entry[name])) for name in ("nats", "more"))
        lines.append([entry["reading"], *numbers])
    return "\n".join(aligned(lines, 1))


# ---------------------------------------------------------------- tables


def columns(
    tokenizer, holes: list[Hole], fills: list[str], scorers: list[Scorer]
) -> dict[str, list[float]]:
    """Name of a number -> its value for each hole."""
    both = list(zip(holes, fills, strict=True))
    pairs = [(words(fill), words(hole.span)) for hole, fill in both]
    found = {
        "ROUGE-L": [rouge_l(*pair) for pair in pairs],
        "exact": [float(fill == true) for fill, true in pairs],
        "tokens": [float(len(encode(tokenizer, fill))) for fill in fills],
    }
    for scorer in scorers:
        # Not of the whole passage: a shorter fill has fewer nats.
        said = scorer.read([(hole.left, fill, False) for hole, fill in both])
        found[f"a token by {scorer.name}"] = [each.nats / max(1, each.tokens) for each in said]
        said = scorer.read([(hole.left + fill, hole.right, False) for hole, fill in both])
        found[f"right side by {scorer.name}"] = [each.nats for each in said]
    return found


def row(method: str, found: dict, first: dict, share: str) -> dict:
    """Each number with its interval, and, but for that which is a ``share`` of texts, what it is more
    than that of the first method."""
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


def measure(tokenizer, holes: list[Hole], fillers: dict, scorers: list[Scorer]) -> list[dict]:
    """The rows of all methods on the same holes."""
    found = {}
    for nth, (name, fill) in enumerate(fillers.items()):
        fills = []
        for number, hole in enumerate(holes):
            fills.append(fill(hole, number))
            progress(nth * len(holes) + len(fills), len(fillers) * len(holes), name)
        found[name] = columns(tokenizer, holes, fills, scorers)
    first = next(iter(found.values()))
    return [row(name, values, first, "exact") for name, values in found.items()]


def size(text: str) -> int | str:
    return text if text == SENTENCE else int(text)


def arguments(about: str) -> argparse.ArgumentParser:
    """The flags of a benchmark in which a masked model and a causal one write parts of real passages."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("--model", default="roberta-small-wikitext", help="a masked model")
    parser.add_argument("--baseline", default="gpt2-small-wikitext", help="a causal model")
    parser.add_argument("--scorers", nargs="+", default=["gpt2-small-books"])
    parser.add_argument(
        "--dataset_dir", help="folder with WikiText-2, to read its test split; else: the passages"
    )
    parser.add_argument("--passages", type=int, default=64, help="of each kind, at most")
    parser.add_argument("--candidates", type=int, default=16, help="of which GPT-2 takes the best")
    parser.add_argument("--output", help="file for the numbers, as JSON")
    return parser


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--filler", help="a causal model that was trained to fill holes, see fill_in.py"
    )
    parser.add_argument("--lengths", type=size, nargs="+", default=LENGTHS,
                        help=f"of holes, in tokens; {SENTENCE}: a whole one")  # fmt: skip
    parser.add_argument("--passage_len", type=int, default=96, help="tokens of a passage")
    args = parser.parse_args()
    for name, least in {"passages": 2, "passage_len": 8, "candidates": 2}.items():
        within(f"--{name}", getattr(args, name), least, None)
    for length in args.lengths:
        if length != SENTENCE:
            within("--lengths", length, 1, args.passage_len // 2 - 1)
    if args.output:
        check_file("--output", args.output)
    hardware.use_all_cores()
    name = "wikitext-2" if args.dataset_dir else PASSAGES
    documents = load_documents(name, "test", args.dataset_dir)
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
    parts, likelihood, every = {}, {}, {}
    for length in args.lengths:
        draw = random.Random(length)
        cuts = (cut(writer.tokenizer, text, length, draw) for text in texts)
        holes = list(itertools.islice(filter(None, cuts), args.passages))
        if len(holes) < 2:
            raise UserError(
                f"--lengths {length}: {len(holes)} of {len(texts)} passages have such a hole "
                "between words; use a longer text or longer passages"
            )
        if filler is not None:
            check_told(filler, holes)
        every[length] = holes
    for length, holes in every.items():
        parts[length] = rows = measure(writer.tokenizer, holes, fillers, scorers)
        unit = "one sentence" if length == SENTENCE else f"{length} tokens"
        print(f"{len(holes)} holes of {unit}; more: than {rows[0]['method']}")
        print(table(rows), end="\n\n", flush=True)
        read_by = readings(nats_of_the_truth(writer, baseline, holes), holes)
        likelihood[length] = read_by
        print(likelihood_table(read_by), end="\n\n", flush=True)
    if args.output:
        known = {k: v for k, v in vars(args).items() if k not in ("output", "dataset_dir")}
        result = {"text": Path(name).name, **known, "tokens": parts, "likelihood": likelihood}
        result |= hardware.record(writer.device, writer.dtype)
        write_text(Path(args.output), json.dumps(result, indent=1) + "\n")
        say(f"saved {args.output}")


if __name__ == "__main__":
    run(main)
