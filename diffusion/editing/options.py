"""The flags of the editing modes, what they conflict with, and the texts and files they name."""

import os
import re
from dataclasses import dataclass, field, fields
from itertools import combinations
from pathlib import Path

from diffusion.cli.conflicts import Conflict, check_conflicts, clash
from diffusion.cli.console import say
from diffusion.cli.files import check_apart, read_bytes
from diffusion.cli.flags import TEXT, flag
from diffusion.cli.options import WRITING, WritingOptions
from diffusion.cli.prompts import check_text
from diffusion.cli.values import check_values
from diffusion.editing.templates import BLANK, kept_characters, parse_template
from diffusion.errors import UserError, printable
from diffusion.options import GenerationOptions
from diffusion.samplers.catalog import CAUSAL

MODES = ("infill", "rewrite", "interpolate", "score", "best_of", "chat")
BOTH_SIDES = MODES[:3]  # fixed text may follow what is written
BRINGS_TEXT = MODES[:4]
STRENGTH, POINTS, DRAWS = 0.4, 5, 16


@dataclass
class EditingOptions:
    """What to do instead of continuing a prompt. None: not given."""

    infill: str | None = flag(
        None, "Fill the blanks of a text or file: <mask:6> has six tokens. "
        "<mask:2-8> tries each length and keeps the text with the best pseudo-likelihood.",
        metavar="TEXT", group=TEXT,
    )  # fmt: skip
    rewrite: str | None = flag(
        None, "Mask random tokens of a text or of a file and fill them.", metavar="TEXT", group=TEXT
    )
    strength: float | None = flag(
        None, f"rewrite: probability that a token is masked. Default {STRENGTH}.",
        range=(0, 1), owners=("rewrite",), group=TEXT,
    )  # fmt: skip
    keep: list[str] | None = field(
        default=None,
        metadata={"help": "rewrite: words that are never masked; put phrases in quotes.",
                  "action": "extend", "metavar": "WORDS", "owners": ("rewrite",), "group": TEXT},
    )  # fmt: skip
    interpolate: list[str] | None = field(
        default=None,
        metadata={"help": "Texts between two texts or files.",
                  "nargs": 2, "metavar": ("A", "B"), "group": TEXT},
    )  # fmt: skip
    points: int | None = flag(
        None, f"interpolate: texts, both ends included. Default {POINTS}.",
        range=(2, None), owners=("interpolate",), group=TEXT,
    )  # fmt: skip
    score: str | None = flag(
        None, "Bound the likelihood of each line of a file, in nats.", metavar="FILE", group=TEXT
    )
    rank: bool = flag(
        False, "score: sort by nats per token, the most likely first.",
        owners=("score",), group=TEXT,
    )  # fmt: skip
    best_of: int | None = flag(
        None, "Keep the best of N texts. That is the one with the lowest likelihood bound per token.",
        range=(1, None), group=TEXT,
    )  # fmt: skip
    draws: int | None = flag(
        None, f"score, best_of: random mask patterns for each text. Default {DRAWS}.",
        range=(1, None), owners=("score", "best_of"), rare=True, group=TEXT,
    )  # fmt: skip
    chat: bool = flag(
        False, "Answer questions in the form of the tokenizer's chat template. The interactive loop "
        "continues the conversation.", group=TEXT,
    )  # fmt: skip
    system: str | None = flag(
        None, "chat: system message, where the template has one.",
        metavar="TEXT", owners=("chat",), rare=True, group=TEXT,
    )  # fmt: skip

    @property
    def mode(self) -> str | None:
        """The one of `MODES` that is asked for, or None."""
        return next((mode for mode in MODES if _given(getattr(self, mode))), None)

    @property
    def brings_text(self) -> bool:
        """Whether a flag names the text to work on."""
        return self.mode in BRINGS_TEXT

    def check(self, script: WritingOptions, generation: GenerationOptions, **more) -> None:
        """Refuse values out of range, and combinations of options that mean nothing.

        Args:
            more: the ``prompt`` of the command line, and whether the script ``asks`` for prompts.
        """
        check_values(self)
        more |= {"mode": self.mode, "brings_text": self.brings_text}
        more |= {"sampler_name": generation.sampler_name}
        check_conflicts((*EDITING, *WRITING), self, script, generation, **more)

    def read(self, script: WritingOptions):
        """The text to work on, read and checked; None where the mode takes prompts."""
        if self.system is not None:
            check_text(self.system, "--system")
        if not self.brings_text:
            return None
        values = getattr(self, self.mode)
        for name in values if isinstance(values, list) else [values]:
            check_apart(script.outputs, {f"--{self.mode}": name})
        if self.score is not None:
            return score_lines(self.score)
        if self.interpolate is not None:
            return [text_or_file(text, "--interpolate") for text in self.interpolate]
        text = text_or_file(values, f"--{self.mode}")
        if self.infill is not None:
            return parse_template(text)
        kept_characters(text, self.keep)
        return text


def _given(value) -> bool:
    return value is not None and value is not False  # 0.0 is a value, and equals False


# What a mode does not go with, and why.
_WRITES = tuple(
    f"no_{option.name}" if option.default is True else option.name
    for option in fields(GenerationOptions)
    if option.name not in ("seed", "max_len", "soft_masking", "length", "window_stride")
)
_EXCLUDED = (
    (BRINGS_TEXT, ("prompt", "unconditional"), "brings its own text"),
    (BRINGS_TEXT, ("length",), "keeps the length of its text"),
    (BRINGS_TEXT, ("window_stride",), "needs the model to see the whole text"),
    (("score",), (*_WRITES, "num_samples"), "only reads"),
    (("interpolate", "score"), ("save_animation", "show"), "has several texts to animate"),
    (BOTH_SIDES, ("approximate_cache",), "has fixed text after its masks"),
    (("chat",), ("unconditional",), "answers questions"),
    (("chat",), ("window_stride",), "needs the model to see the whole conversation"),
    (MODES, ("list_samplers",), "writes or reads texts"),
)
EDITING = (
    *(
        clash(one, other, f"--{one} and --{other} are two tasks; give one of them")
        for one, other in combinations(MODES, 2)
    ),
    *(
        Conflict(
            f"--{option.name} without --{' or --'.join(owners)}",
            lambda o, name=option.name, owners=owners: name in o.given and o.mode not in owners,
            f"--{option.name} is an option of --{' or --'.join(owners)}; add that or leave it out",
        )
        for option in fields(EditingOptions)
        if (owners := option.metadata.get("owners"))
    ),
    *(
        clash(name, mode, f"--{mode} {why}; leave out {name if name == 'prompt' else '--' + name}")
        for modes, names, why in _EXCLUDED
        for mode in modes
        for name in names
    ),
    *(
        Conflict(
            f"{flags} with --{mode}",
            lambda o, mode=mode, applies=applies: o.mode == mode and applies(o),
            f"--{mode} has fixed text after its masks, and {said} writes from left to right; leave "
            f"out {said.split()[0]}",
        )
        for mode in BOTH_SIDES
        for flags, said, applies in (
            ("--sampler causal", "--sampler {sampler}", lambda o: o.sampler_name in CAUSAL),
            ("--attention block", "--attention block", lambda o: o.attention == "block"),
        )
    ),
    Conflict(
        "--num_samples with --chat without PROMPT",
        lambda o: o.chat and o.asks and o.num_samples != 1,
        "--num_samples {num_samples}: a conversation continues from one answer; leave it out, or "
        "give one question as an argument",
    ),
    clash(
        "guidance", "unconditional",
        "--guidance {guidance} needs a prompt; leave out --guidance or --unconditional",
    ),
)  # fmt: skip


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
    if (document or one_word) and "\n" not in value and not BLANK.search(value):
        say(f"note: there is no file {printable(value)!r}; it is taken as the text")
    return check_text(value, flag)


def read_utf8(path: str, flag: str) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
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
