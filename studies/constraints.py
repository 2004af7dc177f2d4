"""Do texts satisfy constraints that are set beforehand: how they end, where they end, words to keep?

Each passage of held-out text is a beginning of 16 tokens and what follows up to the end of a sentence. Fixed are

- ``end``: the beginning and the last 16 tokens, or a few more, so that a word begins them;
- ``length``: the beginning and the full stop that is the last token;
- ``words``: words with a capital letter or a digit, each in its place, as `inference.py --rewrite` keeps them;

and all other tokens are written

- by a masked model on the full canvas, which is conditioned on all that is fixed: highest confidence first
  (`confidence`, a token a pass), and from left to right;
- by GPT-2, with every fixed token put in its place as soon as it gets there.

Greedily ("at 0") and at temperature 1, with top-k 50 and top-p 0.95. Measured are how many texts satisfy
the constraint ("kept": as text, not as tokens), the nats of the whole text by each scorer, and for ``end``
and ``length`` the nats of the fixed end after everything before it. ± is half a 95 % interval over passages;
differences from the first row are taken passage by passage. Low nats reward repetition.

    python studies/constraints.py --output runs/constraints.json                  # the project's passages
    python studies/constraints.py --dataset_dir data --output runs/constraints-wikitext.json
"""

import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor

from diffusion import rng
from diffusion.autoregressive import load_causal_writer
from diffusion.canvas import Allowed
from diffusion.cli.console import progress
from diffusion.editing.canvases import TO_WRITE, canvas_of, edge_rules, rewrite_canvas
from diffusion.errors import UserError, run
from diffusion.generate import load_writer
from diffusion.models.tokenizers import forbidden_ids
from diffusion.options import GenerationOptions
from diffusion.proposal import Sampling
from diffusion.text import Speller, read
from studies import common
from studies.board.scorer import Scorer, load_scorer
from studies.board.scorer import passages as real_passages
from studies.infilling import ABBREVIATES, TEMPERATURES, flags, held_out, row, table

BEGINNING = 16  # tokens
ENDING = {"end": 16, "length": 1}  # task -> tokens of the fixed end, at least
TASKS = (*ENDING, "words")
FREE = 8  # tokens that a passage must at least leave to be written


@dataclass(frozen=True)
class Passage:
    """A text to be written.

    Attributes:
        text: as it was.
        ids: (L,) its tokens with ``<s>`` in front.
        fixed: (L,) bool, which of them are fixed.
        kinds: (L,) the rule of each place, see `Allowed`; 0: none.
        end: how many of the last tokens are its end.
    """

    text: str
    ids: Tensor
    fixed: Tensor
    kinds: Tensor
    end: int = 0

    def canvas(self) -> Tensor:
        """(L,) the ids of what is fixed, `TO_WRITE` elsewhere."""
        return self.ids.where(self.fixed, torch.tensor(TO_WRITE))


# ---------------------------------------------------------------- what is fixed


def to_a_full_stop(tokenizer, text: str, least: int) -> str | None:
    """A text up to the last full stop after which a sentence begins, ``least`` tokens or more; None
    where there is none."""
    _, pieces = read(tokenizer, text)
    for i in reversed(range(least - 1, len(pieces) - 1)):
        ended, follows = "".join(pieces[: i + 1]), "".join(pieces[i + 1 :])
        begins = follows[:1] == " " and follows[1:2].isupper()
        if pieces[i] == "." and begins and not ABBREVIATES.search(ended):
            return ended
    return None


def names(text: str) -> list[str]:
    """The words with a capital letter or a digit."""
    return [
        word for word in re.findall(r"\w+", text) if re.search(r"\d", word) or word != word.lower()
    ]


def task(tokenizer, text: str, name: str) -> Passage | None:
    """What one of `TASKS` gives of a passage; None where too little is left to write, or
    nothing to keep."""
    ids, pieces = read(tokenizer, text)
    ids = torch.tensor([tokenizer.bos_token_id, *ids])
    kinds, end = torch.zeros_like(ids), ENDING.get(name, 0)
    if end:
        if name == "end":
            while end < len(pieces) and not pieces[-end].startswith(" "):
                end += 1
        fixed = torch.arange(len(ids)) < 1 + BEGINNING
        fixed[-end:] = True
    elif words := names(text):
        canvas = rewrite_canvas(tokenizer, text, 1.0, rng.row_keys(0, [0]), words)
        fixed, kinds = canvas.frozen[0], canvas.allowed.kinds[0]
    else:
        return None
    return Passage(text, ids, fixed, kinds, end) if (~fixed).sum() >= FREE else None


def rules(tokenizer, passages: list[Passage], vocab_size: int) -> Allowed:
    """What may be written where, of passages that are padded on the right."""
    kinds = pad_sequence([passage.kinds for passage in passages], batch_first=True)
    return Allowed(kinds, edges(tokenizer, vocab_size))


@cache
def edges(tokenizer, vocab_size: int) -> Tensor:
    """The rules themselves, which are looked up in the whole vocabulary."""
    return edge_rules(Speller(tokenizer), vocab_size)


# ---------------------------------------------------------------- ways to write


def by_diffusion(writer, sampler: str, temperature: float, passages: list[Passage]) -> list[Tensor]:
    """Conditioned on all that is fixed."""
    allowed = rules(writer.tokenizer, passages, writer.denoiser.backbone.config.vocab_size)
    canvas = canvas_of(writer.tokenizer, [passage.canvas() for passage in passages], allowed)
    steps = int((~canvas.frozen).sum(1).max())
    own = {"block_length": 1} if sampler == "first-hitting" else {"n_steps": steps}
    options = GenerationOptions(
        sampler=sampler, attention="full", temperature=temperature, max_len=writer.positions, **own
    )
    options.check()
    writer.check(options)
    *_, last = writer.denoise(canvas, options, range(len(passages)), may_end=False)
    return [ids[: len(passage.ids)] for ids, passage in zip(last.ids.cpu(), passages, strict=True)]


class _Put(LogitsProcessor):
    """Leaves `generate` one token to take: the fixed one of that place, or one that is drawn.

    ``canvas`` (B, L) holds the fixed ids, and `TO_WRITE` elsewhere; ``allowed`` is of the same places.
    """

    def __init__(
        self, sampling: Sampling, keys: Tensor, never: Tensor, canvas: Tensor, allowed: Allowed
    ):
        self.sampling, self.keys, self.never = sampling, keys, never
        self.canvas, self.allowed = canvas, allowed

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = input_ids.shape[1]
        u = rng.uniform(rng.fold_in(rng.fold_in(self.keys, place), rng.TOKENS), 1)[:, 0]
        scores = self.allowed(scores.index_fill(1, self.never, -torch.inf), (slice(None), place))
        drawn, _ = self.sampling.draw(scores, u)
        fixed = self.canvas[:, place]
        token = fixed.where(fixed != TO_WRITE, drawn)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)


def in_order(writer, temperature: float, passages: list[Passage], draw: int = 0) -> list[Tensor]:
    """From left to right, with what is fixed put in its place.

    Args:
        draw: number of the text, for other random numbers.
    """
    tokenizer, model, device = writer.tokenizer, writer.model, writer.device
    defaults = GenerationOptions().drawn()
    sampling = Sampling(temperature, defaults.top_k, defaults.top_p)
    # A text of a fixed length does not end before.
    never = [*forbidden_ids(tokenizer, model.config.vocab_size), tokenizer.eos_token_id]
    rows = [passage.canvas() for passage in passages]
    fixed = pad_sequence(rows, batch_first=True, padding_value=tokenizer.eos_token_id).to(device)
    keys = rng.row_keys(draw, range(len(passages)), device)
    allowed = rules(tokenizer, passages, model.config.vocab_size).to(device)
    put = _Put(sampling, keys, torch.tensor(never, device=device), fixed, allowed)
    config = GenerationConfig(
        max_length=fixed.shape[1],
        do_sample=False,
        eos_token_id=None,
        pad_token_id=tokenizer.eos_token_id,
    )
    ids = model.generate(
        fixed[:, :1],
        attention_mask=torch.ones_like(fixed[:, :1]),
        generation_config=config,
        logits_processor=[put],
    )
    return [row[: len(passage.ids)] for row, passage in zip(ids.cpu(), passages, strict=True)]


Write = Callable[[list[Passage]], list[Tensor]]


def methods(writer, baseline) -> dict[str, Write]:
    """Name -> passages -> their texts. Differences are from the first."""
    samplers = {"confidence": "confidence", "left to right": "first-hitting"}
    found = {
        f"{name} at {t:g}": partial(by_diffusion, writer, sampler, t)
        for name, sampler in samplers.items()
        for t in TEMPERATURES
    }
    found |= {f"GPT-2 at {t:g}": partial(in_order, baseline, t) for t in TEMPERATURES}
    return found | {"what was there": lambda passages: [passage.ids for passage in passages]}


def text_of(tokenizer, ids: Tensor) -> str:
    """The text of a row after its ``<s>``."""
    return tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False)


def end_of(tokenizer, passage: Passage) -> str:
    """The fixed end as text."""
    return passage.text[len(text_of(tokenizer, passage.ids[: -passage.end])) :]


def keeps(tokenizer, passage: Passage, text: str) -> bool:
    """Whether a text satisfies the constraint of a passage."""
    if passage.end:
        return text.endswith(end_of(tokenizer, passage))
    return not Counter(names(passage.text)) - Counter(names(text))


def columns(
    tokenizer, passages: list[Passage], written: list[Tensor], scorers: list[Scorer]
) -> dict[str, list[float]]:
    """Name of a number -> its value for each passage."""
    both = [
        (passage, text_of(tokenizer, ids), ids)
        for passage, ids in zip(passages, written, strict=True)
    ]
    found = {"kept": [float(keeps(tokenizer, passage, text)) for passage, text, _ in both]}
    for scorer in scorers:
        whole = [("", text, False) for _, text, _ in both]
        found[f"nats by {scorer.name}"] = [scored.nats for scored in scorer.read(whole)]
        if passages[0].end:
            # Of the end that was fixed, whether it was written or not.
            ends = [
                (text_of(tokenizer, ids[: -passage.end]), end_of(tokenizer, passage), False)
                for passage, _, ids in both
            ]
            found[f"of the end by {scorer.name}"] = [scored.nats for scored in scorer.read(ends)]
    return found


def measure(
    tokenizer, passages: list[Passage], writers: dict[str, Write], scorers: list[Scorer]
) -> list[dict]:
    """The rows of all methods on the same passages."""
    found = {}
    for nth, (name, write) in enumerate(writers.items()):
        progress(nth, len(writers), name)
        found[name] = columns(tokenizer, passages, write(passages), scorers)
    progress(len(writers), len(writers), "done")
    first = next(iter(found.values()))
    return [row(name, values, first, "kept") for name, values in found.items()]


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--passage_len", type=int, default=80, help="tokens of a passage, at most")
    least = BEGINNING + FREE + max(ENDING.values())
    args = common.read(parser, passages=2, passage_len=least + 1)
    documents = held_out(args)
    writer, baseline = load_writer(args.model), load_causal_writer(args.baseline)
    if writer.tokenizer.get_vocab() != baseline.tokenizer.get_vocab():
        raise UserError(
            f"--baseline {args.baseline} has another vocabulary than {args.model}; what is fixed are "
            "tokens, so both must share it"
        )
    room = min(writer.positions, baseline.positions) - 1
    if args.passage_len > room:
        raise UserError(
            f"--passage_len {args.passage_len}: {args.model} and {args.baseline} see {room} tokens; "
            "use shorter passages"
        )
    scorers = [load_scorer(name) for name in args.scorers]
    tokenizer, parts = writer.tokenizer, {}
    found = real_passages(documents, tokenizer, 1, args.passage_len - 1)
    cut = (to_a_full_stop(tokenizer, p.prompt + p.continuation, least) for p in found)
    texts = [text for text in cut if text][: args.passages]
    writers = methods(writer, baseline)
    every = {}
    for what in args.tasks:
        every[what] = [p for text in texts if (p := task(tokenizer, text, what))]
        if len(every[what]) < 2:
            raise UserError(
                f"--tasks {what}: {len(every[what])} of {len(found)} passages fit it; use a longer text or "
                "another --passage_len"
            )
    for what, passages in every.items():
        rows = measure(tokenizer, passages, writers, scorers)
        free = sum(int((~passage.fixed).sum()) for passage in passages) / len(passages)
        print(
            f"{what}: {len(passages)} passages, {free:.1f} tokens to write; more: than {rows[0]['method']}"
        )
        print(table(rows), end="\n\n", flush=True)
        parts[what] = {"passages": len(passages), "to_write": free, "rows": rows}
    common.save(
        args, "constraints", writer.device, writer.dtype, text=Path(args.dataset).name, tasks=parts
    )


if __name__ == "__main__":
    run(main)
