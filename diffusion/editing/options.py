"""The flags of the editing modes, and what they read: a text, a file, or the lines of a file."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from diffusion.cli.console import say
from diffusion.editing.templates import HOLE
from diffusion.errors import UserError
from diffusion.options import at_least
from diffusion.views.frames import printable

STRENGTH, POINTS, DRAWS = 0.4, 5, 16


@dataclass
class EditingOptions:
    """What to do instead of continuing a prompt. None: not asked for."""

    infill: str | None = field(
        default=None,
        metadata={"help": "Fill the holes of a text, or of a file: 'The <mask:6> sat' has one of six tokens, "
                  "<mask:2-8> tries the lengths and keeps the one with the best pseudo-likelihood.",
                  "metavar": "TEXT"},
    )  # fmt: skip
    rewrite: str | None = field(
        default=None,
        metadata={"help": "Mask a random part of a text, or of a file, and write it anew.",
                  "metavar": "TEXT"},
    )  # fmt: skip
    strength: float | None = field(
        default=None,
        metadata={"help": "rewrite: probability of masking a token, from 0 to 1; default "
                  f"{STRENGTH}.", "metavar": "X"},
    )  # fmt: skip
    keep: list[str] | None = field(
        default=None,
        metadata={"help": "rewrite: words that are never masked; several that belong together "
                  "in quotes.",
                  "action": "extend", "metavar": "WORDS"},
    )  # fmt: skip
    interpolate: list[str] | None = field(
        default=None,
        metadata={
            "help": "Texts on the way between two texts, or files; not with --save_animation.",
            "metavar": ("A", "B"),
        },
    )
    points: int | None = field(
        default=None,
        metadata={"help": f"interpolate: texts, both ends included; default {POINTS}.",
                  "metavar": "N"},
    )  # fmt: skip
    score: str | None = field(
        default=None,
        metadata={"help": "Bound the likelihood of each line of a file, in nats; not with "
                  "--save_animation.",
                  "metavar": "FILE"},
    )  # fmt: skip
    rank: bool = field(
        default=False, metadata={"help": "score: the likeliest first, by nats per token."}
    )
    best_of: int | None = field(
        default=None,
        metadata={"help": "Write so many texts for each one asked for, and keep the one with the "
                  "least likelihood bound per token.", "metavar": "N"},
    )  # fmt: skip
    draws: int | None = field(
        default=None,
        metadata={"help": f"score, best_of: random sets of masks for each text; default {DRAWS}.",
                  "metavar": "N"},
    )  # fmt: skip

    # Which options belong to which mode.
    _OWN: ClassVar = {
        "strength": ("rewrite",),
        "keep": ("rewrite",),
        "points": ("interpolate",),
        "rank": ("score",),
        "draws": ("score", "best_of"),
    }

    def check(self) -> str | None:
        """The mode that is asked for: infill, rewrite, interpolate, score, best_of, or None.

        Raises:
            UserError: two modes, an option of another mode, a value outside its range.
        """
        modes = [m for m in ("infill", "rewrite", "interpolate", "score", "best_of")
                 if getattr(self, m) is not None]  # fmt: skip
        if len(modes) > 1:
            raise UserError(f"--{modes[0]} and --{modes[1]} are two tasks; give one of them")
        mode = modes[0] if modes else None
        for name, owners in self._OWN.items():
            value = getattr(self, name)
            given = value is not None and value is not False  # 0.0 is a value, and equals False
            if given and mode not in owners:
                raise UserError(
                    f"--{name} is an option of --{' or --'.join(owners)}; add that, or leave it out"
                )
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise UserError(f"--strength {self.strength} must be a number from 0 to 1")
        if self.interpolate is not None and len(self.interpolate) != 2:
            raise UserError(
                f"--interpolate takes two texts, each in quotes, and not {len(self.interpolate)}"
            )
        for name, least in (("points", 2), ("draws", 1), ("best_of", 1)):
            if getattr(self, name) is not None:
                at_least(f"--{name}", getattr(self, name), least)
        return mode


def text_or_file(value: str, flag: str) -> str:
    """The text of the file ``value``, without the newlines at its end, or ``value`` itself.

    Raises:
        UserError: a file that cannot be read, is not UTF-8 or empty; a name that is no file.
    """
    if os.path.exists(value):  # a pipe, too
        return check_text(read_utf8(value, flag).rstrip("\r\n"), f"{flag} {value!r}")
    document = Path(value).suffix.lower() in (".txt", ".md")
    spaces = any(map(str.isspace, value))
    if document and not spaces:
        raise UserError(f"{flag} {value!r}: there is no such file")
    one_word = not spaces and ("/" in value or re.search(r"\w\.\w{1,5}$", value))
    if (document or one_word) and "\n" not in value and not HOLE.search(value):
        say(f"note: there is no file {printable(value)!r}; it is taken as the text")
    return check_text(value, flag)


def check_text(text: str, what: str) -> str:
    if not text.strip():
        raise UserError(f"{what} has no text to work on; give some")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{what}: the text is not UTF-8; re-encode it as UTF-8") from None
    return text


def read_utf8(path: str, flag: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{flag} {path!r} is not UTF-8 text (byte {error.start}); re-encode it as UTF-8"
        ) from None
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{flag} {path!r} cannot be read: {reason}") from None


def score_lines(path: str) -> list[tuple[int, str]]:
    """(line number, text) of the lines of a file that are not blank."""
    if not path:
        raise UserError("--score '' names no file; give one with a text a line")
    lines = read_utf8(path, "--score").split("\n")
    texts = [(n, line.removesuffix("\r")) for n, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise UserError(f"--score {path!r} has no text; give a file with a text a line")
    return texts
