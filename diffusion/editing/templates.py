"""Blanks in a text, words to keep, and the difference of two texts, as strings: what makes no sense is
refused before a model is loaded."""

import difflib
import itertools
import math
import re
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass

from diffusion.errors import UserError

BLANK = re.compile(r"<mask:([^<>]*)>")
MAX_LAYOUTS = 256


@dataclass(frozen=True)
class Template:
    """A text with n blanks: the n + 1 fixed ``texts`` around them, and in ``blanks`` the numbers of
    tokens that each may have. ``apart``: for each, whether it must not begin, or end, with a letter
    or digit, so that the words beside it stay as they are; (): all may."""

    texts: list[str]
    blanks: list[range]
    apart: Sequence[tuple[bool, bool]] = ()

    def __str__(self) -> str:
        sizes = (f"{b[0]}" if len(b) == 1 else f"{b[0]}-{b[-1]}" for b in self.blanks)
        marks = [*(f"<mask:{size}>" for size in sizes), ""]
        return "".join(itertools.chain(*zip(self.texts, marks, strict=True)))

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
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", size)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high:
            raise UserError(
                f"blank '<mask:{short(size)}>' has no number of tokens of at least one; write "
                "<mask:6> for six, <mask:2-8> for two to eight"
            )
        blanks.append(range(low, high + 1))
    if not blanks:
        raise UserError(
            f"no blank in {short(text)!r}; mark one with its number of tokens, as in "
            "'The <mask:3> sat.'"
        )
    layouts = math.prod(map(len, blanks))
    if layouts > MAX_LAYOUTS:
        raise UserError(
            f"the ranges of the blanks have {layouts} combinations, and at most {MAX_LAYOUTS} are "
            "tried; narrow the ranges"
        )
    return Template([*parts[::2], last], blanks)


def kept_characters(text: str, keep: list[str] | None) -> list[tuple[int, int]]:
    """(start, end) of every place where the words to keep are in a text, as whole words; a `UserError`
    for those that are not there."""
    spans = []
    for words in keep or []:
        # A boundary only where the words themselves begin or end with a letter or digit.
        bare = words.strip()
        before = r"(?<!\w)" if re.match(r"\w", bare) else ""
        after = r"(?!\w)" if re.search(r"\w$", bare) else ""
        found = [m.span() for m in re.finditer(before + re.escape(bare) + after, text) if bare]
        if not found:
            raise UserError(f"--keep {words!r} does not occur in the text; give words that do")
        spans += found
    return spans


# Characters ``old`` at [start:end] of a text became ``new`` at [new_start:new_end] of another.
Change = namedtuple("Change", "start end new_start new_end old new")


def changes(old: str, new: str) -> list[Change]:
    """What changed between two texts, in whole words."""
    pieces = [re.findall(r"\s*\S+|\s+", text) for text in (old, new)]
    # Where each word ends, in characters.
    ends, new_ends = ([0, *itertools.accumulate(map(len, words))] for words in pieces)
    out = []
    for kind, *at in difflib.SequenceMatcher(None, *pieces, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        a, b, c, d = ends[at[0]], ends[at[1]], new_ends[at[2]], new_ends[at[3]]
        # White space that both begin with has not changed.
        while a < b and c < d and old[a] == new[c] and old[a].isspace():
            a, c = a + 1, c + 1
        out.append(Change(a, b, c, d, old[a:b], new[c:d]))
    return out


def marked_changes(old: str, new: str) -> str:
    """The new text with what it replaced: ``[-old-]{+new+}``."""
    parts, at = [], 0
    for _, _, start, end, gone, come in changes(old, new):
        parts += [new[at:start], gone and f"[-{gone}-]", come and f"{{+{come}+}}"]
        at = end
    return "".join([*parts, new[at:]])


def short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
