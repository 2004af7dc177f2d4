"""A text of the prompt loop that is changed in places: its words by number, and which of them are fixed."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rich.cells import cell_len, set_cell_size

from diffusion.editing.places import Place, bare, outside
from diffusion.editing.templates import short
from diffusion.errors import UserError, printable
from diffusion.text import IDEOGRAM, in_word

# ---------------------------------------------------------------- words

# Over the kinds of characters, see `_kind`. A mark or a joiner belongs to the character before it.
_WORD = re.compile(r"im*|[wd](?:[wdm]|-(?=[wd])|(?<=d)\.(?=d))*|[sm]+|[-.p][-.pm]*")


def words(text: str) -> list[Place]:
    """The words of a text, and what stands between them: ``It's 5,000 m!`` has four. Punctuation,
    symbols such as emoji, and each ideogram count as words."""
    return [found.span() for found in _WORD.finditer("".join(map(_kind, text)))]


def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if character.isspace():
        return " "
    if category[0] == "M" or category == "Cf":
        return "m"
    if IDEOGRAM.match(character):
        return "i"
    if in_word(character):
        return "d" if character.isdigit() else "w"
    if character in "'’-\u2010\u2011":  # joins two parts of a word
        return "-"
    if character in ".,:":  # joins two parts of a number
        return "."
    return "p" if category[0] == "P" else "s"


def numbered(text: str, width: int) -> str:
    """The words of a text with a number below each, in lines of at most ``width`` cells."""
    lines, above, below, last = [], "", "", 0
    for number, (start, end) in enumerate(words(text), 1):
        word = printable(text[start:end])
        if cell_len(word) >= width:
            word = set_cell_size(word, max(1, width - 2)) + "…"
        gap = text[last:start]
        if gap:
            above += " "
        # One space at least between two numbers.
        above = set_cell_size(above, max(cell_len(above), len(below) + bool(below)))
        if "\n" in gap or cell_len(above) + max(cell_len(word), len(str(number))) > width:
            lines += [above, below]
            above = below = ""
        below = f"{below:{cell_len(above)}}{number}"
        above += word
        last = end
    return "\n".join(line.rstrip() for line in [*lines, above, below] if line.strip())


def ranges(numbers: Iterable[int]) -> str:
    """Increasing numbers as people write them: ``1-3, 7``."""
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in _runs(numbers))


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """(first, last) of the runs of increasing numbers."""
    runs = groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    return [(run[0][1], run[-1][1]) for run in (list(run) for _, run in runs)]


# ---------------------------------------------------------------- a text and who wrote what

_WRITTEN, _NOT_FIXED = re.compile("w+"), re.compile("[tw]+")


@dataclass(frozen=True)
class Draft:
    """A text of the loop.

    Attributes:
        record: what was put out with it, see `Job.show`.
        owners: of each character t, typed by the user, or w, written by the model; as a capital where
            it is fixed.
        beginning: the prompt that it was written from; None: it was not.
    """

    record: dict
    owners: str
    beginning: str | None = None

    @classmethod
    def of(cls, record: dict) -> "Draft":
        """A text that was just written from a prompt, a template or another text."""
        length, prompt = len(record["text"]), record.get("prompt")
        if prompt is not None:
            return cls(record, "t" * len(prompt) + "w" * (length - len(prompt)), prompt)
        typed = cls(record, "t" * length)
        return typed.filled(typed.written, record)

    @property
    def text(self) -> str:
        return self.record["text"]

    @property
    def written(self) -> list[Place]:
        """What was written last, but for what follows a prompt."""
        filled = [(blank["start"], blank["end"]) for blank in self.record.get("blanks", ())]
        changes = self.record.get("changes", ())
        return filled + [(change["new_start"], change["new_end"]) for change in changes]

    @property
    def prompt(self) -> str | None:
        """Its beginning, if nothing after it is fixed and nothing in it was written anew."""
        typed = len(self.beginning or "")
        return self.beginning if typed and re.fullmatch(f"t{{{typed}}}w*", self.owners) else None

    def select(self, value: str, command: str) -> list[Place]:
        """The words that ``value``, such as ``3 5-9``, numbers.

        Raises:
            UserError: no number or range, or one of words that the text does not have.
        """
        places, numbers = words(self.text), set()
        count, what = len(places), f"{command} {short(value)}"
        for part in re.sub(r"\s*[-–]\s*", "-", value).replace(",", " ").split():
            match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
            if not match:
                raise UserError(
                    f"{what}: {short(part)!r} is no number of a word and no range; /tokens shows the "
                    "numbers, give some as in '5-9' or '3 5-9'"
                )
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise UserError(
                    f"{what}: the range {part} ends before it begins; give {last}-{first}"
                )
            if not 1 <= first <= last <= count:
                raise UserError(
                    f"{what}: the text has words 1 to {count}; give numbers of these, which /tokens shows"
                )
            numbers |= set(range(first, last + 1))
        return [(places[a - 1][0], places[b - 1][1]) for a, b in _runs(sorted(numbers))]

    def free(self, selected: Sequence[Place] | None) -> list[Place]:
        """All that is not fixed in the ``selected`` places, or (None) all that was written and is not
        fixed; without white space at their ends."""
        allowed = _WRITTEN if selected is None else _NOT_FIXED
        spans = selected or [(0, len(self.text))]
        return bare(
            self.text, (m.span() for span in spans for m in allowed.finditer(self.owners, *span))
        )

    def filled(self, spans: Sequence[Place], record: dict) -> "Draft":
        """The text after the ``spans`` were written anew, as the ``record`` of that has it."""
        new, owners = replace(self, record=record), ""
        kept = outside(self.owners, spans), outside(new.text, new.written)
        for before, after, (start, end) in zip(*kept, [*new.written, (0, 0)], strict=True):
            # The space before a blank may be a part of what was written there.
            owners += before[: len(after)] + "w" * (end - start)
        return replace(new, owners=owners)

    def fixed(self, selected: Sequence[Place] | None) -> "Draft":
        """With the ``selected`` places fixed, too, or (None) none."""
        owners = self.owners.lower() if selected is None else self.owners
        for start, end in selected or ():
            owners = owners[:start] + owners[start:end].upper() + owners[end:]
        return replace(self, owners=owners)

    def numbers(self, owners: str) -> list[int]:
        """The numbers of the words all of whose characters have one of ``owners``."""
        return [
            number
            for number, (start, end) in enumerate(words(self.text), 1)
            if set(self.owners[start:end]) <= set(owners)
        ]

    def status(self) -> str:
        """Who wrote what, in one sentence."""
        typed, fixed = ranges(self.numbers("tT")), ranges(self.numbers("TW"))
        return f"typed by you: {typed or 'none'}; fixed: {fixed or 'none'}"
