"""Places of a text, (start, end) in characters, that are written anew while all else stays: what the prompt
loop of inference.py and the page share."""

import itertools
import math
from collections.abc import Iterable, Sequence

from torch import Tensor

from diffusion.canvas import Canvas, Step
from diffusion.editing.canvases import blank_spans, check_room, infill_canvas, segments
from diffusion.editing.templates import Template
from diffusion.likelihood import pseudo_likelihood
from diffusion.samplers.catalog import check_feature
from diffusion.text import encode, in_word
from diffusion.views.frames import Framer

Place = tuple[int, int]


def bare(text: str, places: Iterable[Place]) -> list[Place]:
    """Places without the white space at their ends; one of nothing else is left out."""
    found = []
    for start, end in places:
        part = text[start:end]
        if part.strip():
            found.append((end - len(part.lstrip()), start + len(part.rstrip())))
    return found


def outside(text: str, places: Sequence[Place]) -> list[str]:
    """The n + 1 parts of a text around n places in order."""
    cuts = [0, *itertools.chain(*places), len(text)]
    return [text[a:b] for a, b in zip(cuts[::2], cuts[1::2], strict=True)]


def touched(parts: Iterable[Place], places: Sequence[Place]) -> list[int]:
    """The numbers, from 0, of the parts of a text, such as its words, with any character in a place."""
    inside = (any(a < end and start < b for a, b in places) for start, end in parts)
    return [number for number, within in enumerate(inside) if within]


def opened(tokenizer, text: str, places: Sequence[Place]) -> Template:
    """The text with a blank of as many tokens in each place."""
    blanks, apart = [], []
    for start, end in places:
        # With the text before it, which decides how a word is cut; its own space belongs to it.
        before = encode(tokenizer, text[:start].removesuffix(" "))
        length = max(1, len(encode(tokenizer, text[:end])) - len(before))
        blanks.append(range(length, length + 1))
        # A sign beside a word stays apart from it.
        letter = [in_word(text[i : i + 1]) for i in (start - 1, start, end - 1, end)]
        apart.append((letter[0] and not letter[1], not letter[2] and letter[3]))
    return Template(outside(text, places), blanks, apart)


class Filling:
    """A template whose blanks a writer fills, in a text of at most ``most`` positions.

    Attributes:
        layouts: the lengths of the blanks that are tried, in tokens, a tuple each.

    Raises:
        UserError: the longest does not fit, or the noise of the model does not go with several.
    """

    def __init__(self, writer, framer: Framer, template: Template, most: int):
        self.denoiser, self.framer, self.template = writer.denoiser, framer, template
        self.tokenizer = framer.speller.tokenizer
        if math.prod(map(len, template.blanks)) > 1:
            check_feature("--infill with a range of lengths", writer.noise.name, writer.name)
        # Before a canvas is made, which may be huge.
        fixed = sum(len(part.ids) for part in segments(framer.speller, template))
        tokens = sum(blank[-1] for blank in template.blanks)
        check_room(f"the text with {tokens} tokens in its blanks", 1 + fixed + tokens, most)
        self.layouts = list(itertools.product(*template.blanks))

    def canvas(self, layouts: Sequence[tuple[int, ...]]) -> Canvas:
        """A row for each of the ``layouts``."""
        return infill_canvas(self.tokenizer, self.template, layouts)

    def places(self, step: Step, row: int, lengths: tuple[int, ...]) -> list[Place]:
        """Where in the text of a row what fills the blanks stands, with a space that begins it."""
        blanks = blank_spans(self.tokenizer, self.template, lengths)
        return self.framer.spans(step, row, blanks)

    def scores(self, step: Step, batch_size: int = 16) -> Tensor:
        """(B,) pseudo-likelihood of what was written in each row, in nats per token."""
        canvas = Canvas(step.ids, step.frozen, step.padding)
        reader, noise = self.denoiser.reader, self.denoiser.noise
        return pseudo_likelihood(reader, canvas, ~step.frozen, noise, batch_size)
