"""Marks in a text and the difference of two texts: what the editing modes read and show, as strings.

Imports nothing heavy: a template that makes no sense is refused before a model is loaded.
"""

import difflib
import itertools
import math
import re
from dataclasses import dataclass

from diffusion.errors import UserError, printable

# ---------------------------------------------------------------- blanks

BLANK = re.compile(r"<mask:([^<>]*)>")
LIKE_A_BLANK = re.compile(r"<\s*mask\b[^<>\s]*>?", re.IGNORECASE)
_COUNT = re.compile(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?")
MAX_LAYOUTS = 256


@dataclass(frozen=True)
class Template:
    """A text with n blanks: the n + 1 fixed ``texts`` around them, and in ``blanks`` the numbers of
    tokens that each may have."""

    texts: list[str]
    blanks: list[range]

    @property
    def layouts(self) -> int:
        """The number of combinations of lengths."""
        return math.prod(map(len, self.blanks))

    def __str__(self) -> str:
        """The template as it was typed."""
        sizes = (f"{h[0]}" if len(h) == 1 else f"{h[0]}-{h[-1]}" for h in self.blanks)
        marks = [f"<mask:{size}>" for size in sizes]
        return "".join(itertools.chain(*zip(self.texts, [*marks, ""], strict=True)))

    def fixed(self) -> list[str]:
        """The fixed texts without the space before each blank: in a byte-level BPE a word includes
        the space before it, so that space belongs to the blank."""
        return [text.removesuffix(" ") for text in self.texts[:-1]] + self.texts[-1:]


def parse_template(text: str) -> Template:
    """``"The <mask:6> sat, <mask:2-8>."`` as a `Template`.

    Raises:
        UserError: no blank; a blank that is no positive number or range; too many ranges.
    """
    *parts, last = BLANK.split(text)
    blanks = []
    for size in parts[1::2]:
        blank = f"blank '<mask:{short(size)}>'"
        match = _COUNT.fullmatch(size)
        if not match:
            raise UserError(
                f"{blank} has no number of tokens; write <mask:6> for six, "
                "<mask:2-8> for two to eight"
            )
        if max(map(len, match.groups(""))) > 9:
            raise UserError(f"{blank} has more tokens than any model sees; give a smaller number")
        low, high = int(match[1]), int(match[2] or match[1])
        if low < 1:
            raise UserError(f"{blank}: a blank has at least one token; write <mask:1> or more")
        if low > high:
            raise UserError(f"{blank} has a range from large to small; write <mask:{high}-{low}>")
        blanks.append(range(low, high + 1))
    if not blanks:
        raise UserError(
            f"no blank in {short(text)!r}; mark one with its number of tokens, as in "
            "'The <mask:3> sat.'"
        )
    template = Template([*parts[::2], last], blanks)
    if template.layouts > MAX_LAYOUTS:
        raise UserError(
            f"the ranges of the blanks have {template.layouts} combinations, and at most "
            f"{MAX_LAYOUTS} are tried; narrow the ranges"
        )
    return template


# ---------------------------------------------------------------- words to keep


def kept_characters(text: str, keep: list[str] | None) -> list[tuple[int, int]]:
    """(start, end) of every place where the words to keep stand in a text, as whole words.

    Raises:
        UserError: words that are not there.
    """
    spans = []
    for words in keep or []:
        # A boundary only where the words themselves begin or end with a letter or digit.
        pattern = re.escape(words.strip())
        pattern = (r"(?<!\w)" if re.match(r"\w", words.strip()) else "") + pattern
        pattern += r"(?!\w)" if re.search(r"\w$", words.strip()) else ""
        found = [match.span() for match in re.finditer(pattern, text)] if words.strip() else []
        if not found:
            raise UserError(f"--keep {words!r} does not occur in the text; give words that do")
        spans += found
    return spans


# ---------------------------------------------------------------- what changed


@dataclass(frozen=True)
class Change:
    """Characters ``old[start:end]`` became ``new[new_start:new_end]``."""

    start: int
    end: int
    new_start: int
    new_end: int


def changes(old: str, new: str) -> list[Change]:
    """What changed between two texts, in whole words."""
    pieces = [re.findall(r"\s*\S+|\s+", text) for text in (old, new)]
    # Where each word ends, in characters.
    ends = [[0, *itertools.accumulate(map(len, words))] for words in pieces]
    out = []
    matcher = difflib.SequenceMatcher(None, *pieces, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            continue
        (a, b), (c, d) = ((e[i], e[j]) for e, i, j in zip(ends, (a, c), (b, d), strict=True))
        # White space that both begin with has not changed.
        while a < b and c < d and old[a] == new[c] and old[a].isspace():
            a, c = a + 1, c + 1
        out.append(Change(a, b, c, d))
    return out


def marked_changes(old: str, new: str, colour: bool) -> str:
    """The new text with what it replaced: ``[-old-]{+new+}``, or red and green."""
    before, after = (
        ("\x1b[31;9m{}\x1b[0m", "\x1b[32m{}\x1b[0m") if colour else ("[-{}-]", "{{+{}+}}")
    )
    parts, at = [], 0
    for change in changes(old, new):
        was, now = old[change.start : change.end], new[change.new_start : change.new_end]
        parts.append(printable(new[at : change.new_start]))
        parts += [
            mark.format(printable(text)) for mark, text in ((before, was), (after, now)) if text
        ]
        at = change.new_end
    return "".join([*parts, printable(new[at:])])


def short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
