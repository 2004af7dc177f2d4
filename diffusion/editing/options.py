"""The flags of the editing modes, and what they read: a text, a file, or the lines of a file."""

import os
import re
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

from diffusion.cli.console import say
from diffusion.cli.files import check_apart, read_bytes
from diffusion.cli.options import WritingOptions
from diffusion.cli.values import check_values
from diffusion.editing.templates import HOLE, kept_characters, parse_template
from diffusion.errors import UserError, printable
from diffusion.options import GenerationOptions
from diffusion.samplers.catalog import CAUSAL

MODES = ("infill", "rewrite", "interpolate", "score", "best_of", "chat")
HOLES = MODES[:3]  # what is given stands behind what is written, too
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
        metadata={"owners": ("rewrite",), "range": (0, 1), "help": "rewrite: probability of masking a token, from 0 to 1; default "
                  f"{STRENGTH}.", "metavar": "X"},
    )  # fmt: skip
    keep: list[str] | None = field(
        default=None,
        metadata={"owners": ("rewrite",), "help": "rewrite: words that are never masked; several that belong together "
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
        metadata={"owners": ("interpolate",), "range": (2, None), "help": f"interpolate: texts, both ends included; default {POINTS}.",
                  "metavar": "N"},
    )  # fmt: skip
    score: str | None = field(
        default=None,
        metadata={"help": "Bound the likelihood of each line of a file, in nats; not with "
                  "--save_animation.",
                  "metavar": "FILE"},
    )  # fmt: skip
    rank: bool = field(
        default=False,
        metadata={"owners": ("score",), "help": "score: the likeliest first, by nats per token."},
    )
    best_of: int | None = field(
        default=None,
        metadata={"range": (1, None), "help": "Write so many texts for each one asked for, and keep the one with the "
                  "least likelihood bound per token.", "metavar": "N"},
    )  # fmt: skip
    draws: int | None = field(
        default=None,
        metadata={"owners": ("score", "best_of"), "range": (1, None), "help": f"score, best_of: random sets of masks for each text; default {DRAWS}.",
                  "metavar": "N"},
    )  # fmt: skip
    chat: bool = field(
        default=False,
        metadata={"help": "Take prompts for questions, and answer them in the form of the tokenizer's chat "
                  "template; in the loop the conversation goes on."},
    )  # fmt: skip
    system: str | None = field(
        default=None,
        metadata={"owners": ("chat",), "help": "chat: what stands before the conversation, where the "
                  "template has a place for it.", "metavar": "TEXT"},
    )  # fmt: skip

    @property
    def modes(self) -> list[str]:
        """What is asked for of `MODES`, of which one may be."""
        return [mode for mode in MODES if _given(getattr(self, mode))]

    @property
    def mode(self) -> str | None:
        """The mode that is asked for: infill, rewrite, interpolate, score, best_of, chat, or None."""
        return next(iter(self.modes), None)

    def check_flags(self, generation: GenerationOptions, lists: bool = False) -> None:
        """Refuse two modes, an option of another mode, a value outside its range, and options of
        generation that would mean nothing.

        Args:
            lists: whether the samplers are to be listed, and nothing else.
        """
        if len(self.modes) > 1:
            first, second, *_ = self.modes
            raise UserError(f"--{first} and --{second} are two tasks; give one of them")
        for option in fields(self):
            owners = option.metadata.get("owners")
            if owners and _given(getattr(self, option.name)) and self.mode not in owners:
                raise UserError(
                    f"--{option.name} is an option of --{' or --'.join(owners)}; add that, or "
                    "leave it out"
                )
        check_values(self)
        if self.interpolate is not None and len(self.interpolate) != 2:
            raise UserError(
                f"--interpolate takes two texts, each in quotes, and not {len(self.interpolate)}"
            )
        if lists:
            if self.mode is not None:
                raise UserError(f"--list_samplers only lists; leave it out, or --{self.mode}")
            generation.own_options()
        elif self.mode in HOLES and (
            generation.sampler_name in CAUSAL
            or generation.attention == "block"
            or generation.approximate_cache is not None
        ):
            flag = "--attention block"
            if generation.approximate_cache is not None:
                flag = f"--approximate_cache {generation.approximate_cache}"
            if generation.sampler_name in CAUSAL:
                flag = f"--sampler {generation.sampler}"
            raise UserError(
                f"{flag} writes from left to right, and --{self.mode} fills holes; leave it out"
            )
        elif self.mode == "score":
            for option in fields(generation):
                value = getattr(generation, option.name)
                if (
                    option.name not in ("seed", "max_len", "soft_masking")
                    and value != option.default
                ):
                    raise UserError(
                        f"--{option.name} {value} is for writing, and --score only reads; leave "
                        "it out"
                    )

    @property
    def brings_text(self) -> bool:
        """Whether a flag gives the text to work on."""
        return self.mode not in (None, "best_of", "chat")

    def read(self, generation: GenerationOptions, script: WritingOptions, prompt: str | None):
        """What the mode works on, read and checked; None where prompts are what it takes."""
        mode = self.mode
        if mode == "chat":
            self._check_chat(generation, script, prompt)
        if not self.brings_text:
            return None
        if prompt is not None or script.unconditional:
            other = "a prompt" if prompt is not None else "--unconditional"
            raise UserError(f"--{mode} brings its own text; leave out {other}")
        if generation.length is not None:
            raise UserError(f"--length is for new texts; leave it out with --{mode}")
        if generation.window_stride is not None:
            raise UserError(
                f"--{mode} works on a whole text, which the model must see at once; leave out "
                "--window_stride"
            )
        animated = script.save_animation is not None or script.show
        if animated and mode in ("interpolate", "score"):
            flag = "--show" if script.show else "--save_animation"
            raise UserError(f"{flag} animates one text; --{mode} has several, leave it out")
        if mode == "score" and script.num_samples != 1:
            raise UserError("--num_samples is for writing, and --score only reads; leave it out")
        values = getattr(self, mode)
        for name in values if isinstance(values, list) else [values]:
            check_apart(script.outputs, {f"--{mode}": name})
        if mode == "infill":
            return parse_template(text_or_file(self.infill, "--infill"))
        if mode == "rewrite":
            text = text_or_file(self.rewrite, "--rewrite")
            kept_characters(text, self.keep)
            return text
        if mode == "interpolate":
            return [text_or_file(text, "--interpolate") for text in self.interpolate]
        return score_lines(self.score)

    def _check_chat(
        self, generation: GenerationOptions, script: WritingOptions, prompt: str | None
    ) -> None:
        if script.unconditional:
            raise UserError(
                "--unconditional writes from nothing, and --chat answers questions; leave out one of "
                "the two"
            )
        if generation.window_stride is not None:
            raise UserError(
                "--chat answers what the model must see at once; leave out --window_stride"
            )
        if script.num_samples != 1 and prompt is None and sys.stdin.isatty():
            raise UserError(
                f"--num_samples {script.num_samples}: a conversation goes on from one answer; leave it "
                "out, or give one question with --chat"
            )
        if self.system is not None:
            check_text(self.system, "--system")


def _given(value) -> bool:
    return value is not None and value is not False  # 0.0 is a value, and equals False


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
