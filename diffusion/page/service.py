"""What the page does: text and numbers in, text and numbers out. It knows no browser, and it alone
enforces the limits, since a request need not come from the page."""

import itertools
import json
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

import torch

from diffusion.autoregressive import CausalWriter
from diffusion.canvas import Canvas, Query, Step
from diffusion.cli.checks import within
from diffusion.cli.console import check_text
from diffusion.cli.flags import read_flags
from diffusion.editing.canvases import (
    blank_spans,
    canvas_of,
    check_room,
    infill_canvas,
    score_texts,
    segments,
    token_rows,
)
from diffusion.editing.templates import BLANK, Template, parse_template, short
from diffusion.editing.touch import Draft
from diffusion.errors import UserError
from diffusion.generate import Writer
from diffusion.hardware import memory_told
from diffusion.likelihood import pseudo_likelihood, token_nats
from diffusion.measure import measured
from diffusion.options import GenerationOptions
from diffusion.samplers.catalog import check_feature
from diffusion.text import read
from diffusion.views import record
from diffusion.views.animation import save_film
from diffusion.views.film import Film
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
    places: list[tuple[int, int]]
    replaced: list[tuple[int, int]]


class Service:
    """What can be done with a model, and with the two of a comparison.

    Args:
        compared: the diffusion model that is compared with the ``baseline``; None: the ``writer``.
    """

    def __init__(self, writer: Writer, baseline: CausalWriter, compared: Writer | None = None):
        check_feature("--infill with a range of lengths", writer.noise.name, writer.name)
        self.writer, self.pair = writer, [compared or writer, baseline]
        self.tokenizer, self.framer = writer.tokenizer, Framer(writer.tokenizer)
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
        template = self._template(text, places, by)
        if not template.blanks:
            new = "".join(template.texts)
            yield Edit(self._still(new), _resized(places, len(by)), places)
            return
        layouts = list(itertools.product(*template.blanks))
        if len(layouts) > MOST_LAYOUTS:
            raise UserError(
                f"the lengths of the gaps have {len(layouts)} combinations, and at most "
                f"{MOST_LAYOUTS} are tried; narrow the ranges"
            )
        most = sum(blank[-1] for blank in template.blanks)
        within("tokens in gaps:", most, 1, MOST_TOKENS)
        fixed = sum(len(part.ids) for part in segments(self.framer.speller, template))
        check_room(f"the text with {most} tokens in its gaps", 1 + fixed + most, self._room)
        canvas = infill_canvas(self.tokenizer, template, layouts)
        generation = self._options(options)
        with memory_told(lambda: f"{len(layouts)} lengths of gaps; narrow the ranges"):
            for step in self.writer.denoise(
                canvas, generation, [sample] * len(layouts), may_end=False
            ):
                if len(layouts) == 1:
                    yield Edit(self._frame(step), [], places)
            row = self._best(step) if len(layouts) > 1 else 0
        blanks = blank_spans(self.tokenizer, template, layouts[row])
        new, spans = self._frame(step, row), self.framer.spans(step, row, blanks)
        # The space before a blank is a part of what was written there, and not of the place.
        spaces = [text.endswith(" ") for text in template.texts]
        spans = [
            (start + (space and new.text[start:end].startswith(" ")), end)
            for (start, end), space in zip(spans, spaces, strict=False)
        ]
        yield Edit(new, _joined(spans, by, len(places)), places)

    @property
    def _room(self) -> int:
        """The most positions of a text that the model has to see whole."""
        return min(GenerationOptions().fitted(self.writer.positions).max_len, self.writer.positions)

    def _template(self, text: str, places: list[tuple[int, int]], by: str) -> Template:
        """The text with ``by`` in each place, or with a blank of as many tokens as are there."""
        if by == "":
            return Draft({"text": text}, "").template(self.tokenizer, places)
        by = _checked(by, "what replaces the places")
        given = parse_template(by) if BLANK.search(by) else Template([by], [])
        texts, at, front = [], 0, ""
        for start, end in places:
            *done, front = [front + text[at:start] + given.texts[0], *given.texts[1:]]
            texts += done
            at = end
        return Template([*texts, front + text[at:]], given.blanks * len(places))

    def _best(self, step: Step) -> int:
        """The row whose written tokens have the highest pseudo-likelihood."""
        canvas, denoiser = Canvas(step.ids, step.frozen, step.padding), self.writer.denoiser
        return int(
            pseudo_likelihood(denoiser.reader, canvas, ~step.frozen, denoiser.noise).argmax()
        )

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

    @staticmethod
    def comparison(data: dict) -> dict:
        """The JSON of a comparison, as `compare.py --replay` reads it."""
        return json.loads(record.dump(data))

    @staticmethod
    def save(film: Film | dict, path: Path, slowdown: float = 1.0) -> Path:
        """A film, or a comparison, as a file of the kind that the path names, see `save_film`."""
        if path.suffix == ".json":
            path.write_text(record.dump(film) + "\n", encoding="utf-8")
        else:
            shown = film if isinstance(film, Film) else record.film_of_record(film, slowdown)
            save_film(shown, path)
        return path

    # ------------------------------------------------------------ score

    def score(self, texts: list[str], draws: int, seed: int) -> list[dict]:
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


def _trimmed(text: str, places: Sequence) -> list[tuple[int, int]]:
    """Places in order, those that touch as one, without white space at their ends."""
    try:
        ranges = sorted((int(start), int(end)) for start, end in places)
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"places {short(str(places))} are not pairs of start and end; give such"
        ) from None
    joined: list[list[int]] = []
    for start, end in ranges:
        if not 0 <= start < end <= len(text):
            raise UserError(
                f"place {start} to {end} is not in the text, which has {len(text)} characters; give "
                "a start and an end in it"
            )
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(end, joined[-1][1])
        else:
            joined.append([start, end])
    found = []
    for start, end in joined:
        bare = text[start:end].strip()
        if bare:
            start += text[start:end].index(bare)
            found.append((start, start + len(bare)))
    if not found:
        raise UserError("nothing is selected; select at least one word")
    return found


def _resized(places: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Where places are when each has become ``size`` characters long."""
    moved, shift = [], 0
    for start, end in places:
        moved.append((start + shift, start + shift + size))
        shift += size - (end - start)
    return moved


def _joined(spans: list[tuple[int, int]], by: str, count: int) -> list[tuple[int, int]]:
    """The ``count`` places that blanks are parts of, an equal number of each place, with the fixed text
    of ``by`` around and between them."""
    first, *_, last = parse_template(by).texts if by else ("", "")
    each = len(spans) // count
    return [
        (spans[i][0] - len(first), spans[i + each - 1][1] + len(last))
        for i in range(0, len(spans), each)
    ]
