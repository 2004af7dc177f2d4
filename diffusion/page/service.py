"""What the page does: text and numbers in, text and numbers out. It knows no browser, and it alone
enforces the limits, since a request need not come from the page."""

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from itertools import accumulate
from typing import NamedTuple

import torch

from diffusion.autoregressive import CausalWriter
from diffusion.canvas import Query, Step
from diffusion.cli.checks import within
from diffusion.cli.console import check_text
from diffusion.cli.flags import read_flags
from diffusion.editing.canvases import canvas_of, score_texts, token_rows
from diffusion.editing.places import Filling, Place, bare, opened, outside
from diffusion.editing.templates import BLANK, Template, parse_template, short
from diffusion.errors import UserError
from diffusion.generate import Writer
from diffusion.hardware import memory_told
from diffusion.likelihood import token_nats
from diffusion.measure import measured
from diffusion.options import MAX_LEN, GenerationOptions
from diffusion.samplers.catalog import check_feature
from diffusion.text import read
from diffusion.views.frames import Frame, Framer, State

# What one request may ask for.
MOST_CHARACTERS = 4000  # of a text
MOST_TOKENS = 256  # to be written
MOST_STEPS = 1000  # of a sampler, planned or not
MOST_LAYOUTS = 32  # lengths of gaps that are tried
MOST_TEXTS = 16  # to be scored
MOST_DRAWS = 64
MOST_REPEATS = 5  # measured runs

PATIENCE = 2.0  # seconds that a small request waits for a measurement
LIKELIEST = 5  # tokens that are shown for a position
OPTIONS = {option.name for option in fields(GenerationOptions)}


class Edit(NamedTuple):
    """A text with some places written anew.

    Attributes:
        frame: the text as it is now.
        places: (start, end) of what is new, in characters; empty until all is written.
        replaced: where that stood in the old text.
    """

    frame: Frame
    places: list[Place]
    replaced: list[Place]


class Service:
    """What can be done with a model, and with a ``baseline`` to compare it with."""

    def __init__(self, writer: Writer, baseline: CausalWriter):
        check_feature("--infill with a range of lengths", writer.noise.name, writer.name)
        self.writer, self.pair = writer, [writer, baseline]
        self.tokenizer, self.framer = writer.tokenizer, Framer(writer.tokenizer)
        self._room = min(MAX_LEN, writer.positions)  # of a text that the model has to see whole
        self._alone = threading.Lock()  # of what is measured, or small

    # ------------------------------------------------------------ write

    def write(self, prompt: str, length: int, options: dict) -> Iterator[Frame]:
        """Continue a prompt, "" to begin one, by ``length`` tokens.

        Args:
            options: fields of `GenerationOptions`, such as the temperature, and options of the sampler.

        Raises:
            UserError: an unknown option, or a value outside its range or beyond a limit.
        """
        generation = self._options(options, length)
        with memory_told(lambda: f"{length} tokens; use a smaller length"):
            for step in self.writer.generate([_checked(prompt, "the prompt")], generation, [0]):
                yield self._frame(step)

    def _options(
        self, options: dict, length: int | None = None, writer: Writer | None = None
    ) -> GenerationOptions:
        """The options of a request, whose values may be strings."""
        if not isinstance(options, dict):
            raise UserError(
                f"the options are {options!r}; give them by name, such as {{'seed': 1}}"
            )
        given = {name: value for name, value in options.items() if value is not None}
        flags = [f"--{name}={value}" for name, value in given.items() if name in OPTIONS]
        own = {name: value for name, value in given.items() if name not in OPTIONS}
        generation = GenerationOptions.from_dict(read_flags((GenerationOptions,), flags) | own)
        if length is not None:
            generation.length = _whole("--length", length, 1, MOST_TOKENS)
        within("--n_steps", generation.n_steps or 1, 1, MOST_STEPS)
        writer = writer or self.writer
        writer.check(generation.fitted(writer.positions))
        return generation

    def _frame(self, step: Step, row: int = 0) -> Frame:
        if step.index > MOST_STEPS:
            raise UserError(f"the sampler took more than {MOST_STEPS} steps; choose other options")
        return self.framer.frame(step, row)

    # ------------------------------------------------------------ touch

    def tokens(self, text: str) -> list[str]:
        """The parts of a text that its tokens cover; joined, they are the text."""
        _, pieces = read(self.tokenizer, _checked(text))
        return pieces

    def touch(
        self, text: str, places: Sequence, by: str, sample: int, options: dict
    ) -> Iterator[Edit]:
        """Write some places of a text anew. All else stays as it is, byte for byte.

        Args:
            places: (start, end) of each in characters; white space at their ends stays.
            by: what stands there instead, with blanks such as ``<mask:2-4>``; "": as many tokens as are
                there now.
            sample: another number, another text.
            options: as in `write`.

        Raises:
            UserError: as `write`; also places that are not in the text.
        """
        places = _trimmed(_checked(text), places)
        sample = _whole("sample", sample, 0, 2**62)
        parts, tail = outside(text, places), ""
        if by == "":
            template = opened(self.tokenizer, text, places)
        elif BLANK.search(_checked(by, "what replaces the places")):
            given = parse_template(by)
            template, tail = _replaced(parts, given), given.texts[-1]
        else:
            ends = [*accumulate(len(part) + len(by) for part in parts[:-1])]
            yield Edit(self._still(by.join(parts)), _between(parts, ends), places)
            return
        count = math.prod(map(len, template.blanks))
        if count > MOST_LAYOUTS:
            raise UserError(
                f"the lengths of the gaps have {count if count < 10**6 else 'over a million'} "
                f"combinations, and at most {MOST_LAYOUTS} are tried; narrow the ranges"
            )
        within("tokens in gaps:", sum(blank[-1] for blank in template.blanks), 1, MOST_TOKENS)
        filling = Filling(self.writer, self.framer, template, self._room)
        canvas, generation = filling.canvas(filling.layouts), self._options(options)
        with memory_told(lambda: f"{count} lengths of gaps; narrow the ranges"):
            for step in self.writer.denoise(canvas, generation, [sample] * count, may_end=False):
                if count == 1:
                    yield Edit(self._frame(step), [], places)
            row = int(filling.scores(step).argmax()) if count > 1 else 0
        ends = [end + len(tail) for _, end in filling.places(step, row, filling.layouts[row])]
        each = len(ends) // len(places)  # blanks of a place
        yield Edit(self._frame(step, row), _between(parts, ends[each - 1 :: each]), places)

    def _still(self, text: str, confidence: Sequence[float] = ()) -> Frame:
        """A text that is only shown."""
        pieces = self.tokens(text)
        states = [State.SETTLED] * len(pieces)
        return Frame(pieces, states, 0, None, 0, 0.0, confidence=list(confidence))

    def likeliest(self, text: str, token: int) -> list[tuple[str, float]]:
        """The most probable tokens, with probabilities, at the place of a token of a text that the
        model sees without it; last of all the token itself."""
        (ids,) = token_rows(self.tokenizer, [_checked(text)], self._room)
        token = _whole("token", token, 0, len(ids) - 2)
        row = torch.tensor([ids], device=self.writer.device)
        here = torch.zeros_like(row, dtype=torch.bool)
        here[0, token + 1] = True
        query = Query(self.writer.noise.corrupt(row, here), here)
        if not self._alone.acquire(timeout=PATIENCE):
            raise UserError("a comparison is being measured; try again in a few seconds")
        try:
            with torch.inference_mode():
                p = self.writer.denoiser(query)[0].float().softmax(-1)
        finally:
            self._alone.release()
        found = [*p.topk(LIKELIEST).indices.tolist(), ids[token + 1]]
        spelled = (self.framer.speller.bytes_of(i).decode("utf-8", "replace") for i in found)
        return [(word, round(p[i].item(), 4)) for word, i in zip(spelled, found, strict=True)]

    # ------------------------------------------------------------ compare

    def compare(self, prompt: str, length: int, repeats: int, options: dict) -> dict:
        """Measure both models after one prompt, one after the other; returns a `views.record`."""
        repeats = _whole("--repeats", repeats, 1, MOST_REPEATS)
        generation = self._options(options, length, self.pair[0])
        with self._alone:
            return measured(self.pair, generation, repeats, _checked(prompt, "the prompt"))

    # ------------------------------------------------------------ score

    def score(self, texts: list[str], draws: int = 16, seed: int = 0) -> list[dict]:
        """The likelihood bound of each text and the nats of each of its tokens, the most probable
        text, in nats per token, first.

        Returns:
            the fields of `likelihood.TextBound`, the ``text``, and ``token_nats``: [piece, -log p(token
            | all other tokens)] of each token, whose sum is not the bound.
        """
        if not isinstance(texts, list):
            raise UserError("the texts are no list; give a list of strings")
        within("the number of texts", len(texts), 1, MOST_TEXTS)
        draws = _whole("--draws", draws, 1, MOST_DRAWS)
        seed = _whole("--seed", seed, -(2**63), 2**63 - 1)
        rows = token_rows(self.tokenizer, [_checked(text) for text in texts], self._room)
        bounds = score_texts(self.writer, texts, self._room, draws=draws, seed=seed)
        canvas = canvas_of(self.tokenizer, [torch.tensor(row) for row in rows])
        canvas = canvas.to(self.writer.device)
        own = ~canvas.padding
        own[:, 0] = False
        denoiser = self.writer.denoiser
        nats = token_nats(denoiser.reader, canvas, own, denoiser.noise).tolist()
        found = [
            {"text": text, **asdict(bound), "token_nats": [
                [piece, round(value, 4)]
                for piece, value in zip(self.tokens(text), row[1:], strict=False)
            ]}
            for text, bound, row in zip(texts, bounds, nats, strict=True)
        ]  # fmt: skip
        return sorted(found, key=lambda one: one["nats_per_token"])

    def scored(self, one: dict) -> Frame:
        """One of the texts of `score`, to be shown."""
        return self._still(one["text"], [math.exp(-nats) for _, nats in one["token_nats"]])


def _checked(text: str, what: str = "the text") -> str:
    """A text that can be encoded and is not too long; a prompt may be empty."""
    if not isinstance(text, str):
        raise UserError(f"{what} is {type(text).__name__}; give a string")
    if len(text) > MOST_CHARACTERS:
        raise UserError(
            f"{what} has {len(text)} characters, and at most {MOST_CHARACTERS} are read; shorten it"
        )
    return text if what == "the prompt" and not text else check_text(text, what)


def _whole(name: str, value, least: int, most: int) -> int:
    """A number of a request, which may be of any type."""
    if type(value) not in (int, float) or value != value // 1:
        raise UserError(
            f"{name} {short(str(value))} is not a whole number; give one from {least} to {most}"
        )
    within(name, value, least, most)
    return int(value)


def _trimmed(text: str, places: Sequence) -> list[Place]:
    """Places in order, those that touch as one, without white space at their ends."""
    try:
        ranges = sorted((int(start), int(end)) for start, end in places)
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"places {short(str(places))} are not pairs of start and end; give such"
        ) from None
    joined: list[Place] = []
    for start, end in ranges:
        if not 0 <= start < end <= len(text):
            raise UserError(
                f"place {start} to {end} is not in the text, which has {len(text)} characters; give "
                "a start and an end in it"
            )
        if joined and start <= joined[-1][1]:
            first, last = joined.pop()
            start, end = first, max(end, last)
        joined.append((start, end))
    if not (found := bare(text, joined)):
        raise UserError("nothing is selected; select at least one word")
    return found


def _replaced(parts: list[str], given: Template) -> Template:
    """A template with ``given`` between each two ``parts`` of a text."""
    first, *inner, last = given.texts
    texts = parts[:1]
    for part in parts[1:]:
        texts[-1] += first
        texts += [*inner, last + part]
    return Template(texts, given.blanks * (len(parts) - 1))


def _between(parts: list[str], ends: list[int]) -> list[Place]:
    """The places between the ``parts`` of a text, by their ends."""
    return [(at + len(part), end) for at, part, end in zip([0, *ends], parts, ends, strict=False)]
