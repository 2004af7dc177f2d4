"""The flags of the editing modes, what they conflict with, and the texts and files they name."""

import os
from dataclasses import dataclass, fields
from functools import partial
from itertools import combinations
from pathlib import Path

from diffusion.cli.checks import Conflict, check_conflicts, check_values, clash, conflict
from diffusion.cli.console import check_text
from diffusion.cli.files import check_apart
from diffusion.cli.flags import TEXT, flag
from diffusion.cli.options import WRITING, WritingOptions
from diffusion.cli.reading import PROSE, check_ending, ending, named, read_prose
from diffusion.editing.templates import kept_characters, parse_template
from diffusion.errors import UserError
from diffusion.options import GenerationOptions

MODES = ("infill", "rewrite", "interpolate", "score", "chat")
BRINGS_TEXT = MODES[:4]
_flag = partial(flag, group=TEXT)  # ``owners``: the modes that it is an option of


@dataclass
class EditingOptions:
    """What to do instead of continuing a prompt. None: not given."""

    infill: str | None = _flag(
        None, "Fill the blanks of a text or file: <mask:6> has six tokens. "
        "<mask:2-8> tries each length and keeps the text with the best pseudo-likelihood.",
        metavar="TEXT",
    )  # fmt: skip
    rewrite: str | None = _flag(
        None, "Mask random tokens of a text or of a file and fill them.", metavar="TEXT"
    )
    strength: float = _flag(
        0.4, "rewrite: probability that a token is masked.", range=(0, 1), owners=("rewrite",)
    )
    keep: list[str] | None = _flag(  # noqa: RUF009
        None, "rewrite: words that are never masked; put phrases in quotes.",
        action="extend", metavar="WORDS", owners=("rewrite",),
    )  # fmt: skip
    interpolate: list[str] | None = _flag(  # noqa: RUF009
        None, "Texts between two texts or files.", nargs=2, metavar=("A", "B")
    )
    points: int = _flag(
        5, "interpolate: texts, both ends included.", range=(2, None), owners=("interpolate",)
    )
    score: str | None = _flag(
        None, "Bound the likelihood of each line of a text or a file, in nats.", metavar="TEXT"
    )
    draws: int = _flag(
        16, "score: random mask patterns for each text.",
        range=(1, None), owners=("score",), rare=True,
    )  # fmt: skip
    chat: bool = _flag(
        False, "Answer questions in the form of the tokenizer's chat template. The interactive loop "
        "continues the conversation.",
    )  # fmt: skip
    system: str | None = _flag(
        None, "chat: system message, where the template has one.",
        metavar="TEXT", owners=("chat",), rare=True,
    )  # fmt: skip

    @property
    def mode(self) -> str | None:
        """The one of `MODES` that is asked for, or None."""
        return next((mode for mode in MODES if getattr(self, mode) not in (None, False)), None)

    def check(self, script: WritingOptions, generation: GenerationOptions, **more) -> None:
        """Refuse values out of range, and combinations of options that mean nothing; ``more``: the
        ``prompt`` of the command line, and whether the script ``asks`` for prompts."""
        check_values(self)
        more |= {"mode": self.mode, "brings_text": self.mode in BRINGS_TEXT}
        check_conflicts((*EDITING, *WRITING), self, script, generation, **more)

    def read(self, script: WritingOptions):
        """The text to work on, read and checked; None where the mode takes prompts."""
        if self.system is not None:
            check_text(self.system, "--system")
        if self.mode not in BRINGS_TEXT:
            return None
        flag, value = f"--{self.mode}", getattr(self, self.mode)
        names = value if isinstance(value, list) else [value]
        for name in names:
            check_apart(script.outputs, {flag: name})
        texts = [text_or_file(name, flag) for name in names]
        if self.score is not None:
            lines = enumerate(texts[0].split("\n"), 1)
            return [(n, line.removesuffix("\r")) for n, line in lines if line.strip()]
        if self.infill is not None:
            return parse_template(texts[0])
        kept_characters(texts[0], self.keep)
        return texts if self.interpolate is not None else texts[0]


# What a mode does not go with, and why. Whether the sampler can fill spans is `Writer`'s to check.
_WRITES = tuple(
    f"no_{option.name}" if option.default is True else option.name
    for option in fields(GenerationOptions)
    if option.name not in ("seed", "max_len", "soft_masking", "length", "window_stride")
)
_EXCLUDED = (
    (BRINGS_TEXT, ("prompt", "unconditional"), "brings its own text"),
    (BRINGS_TEXT, ("length",), "keeps the length of its text"),
    (MODES, ("window_stride",), "needs the model to see the whole text"),
    (("score",), (*_WRITES, "num_samples"), "only reads"),
    (("interpolate", "score"), ("save_animation",), "has several texts to animate"),
    (("chat",), ("unconditional",), "answers questions"),
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
    Conflict(
        "--num_samples with --chat without PROMPT",
        lambda o: o.chat and o.asks and o.num_samples != 1,
        "--num_samples {num_samples}: a conversation continues from one answer; leave it out, or "
        "give one question as an argument",
    ),
    conflict("--guidance {guidance} with --unconditional", "needs a prompt"),
)


def text_or_file(value: str, flag: str) -> str:
    """The text of the file ``value``, without the newlines at its end, or ``value`` itself.

    Raises:
        UserError: a file that cannot be read, is not UTF-8 or empty; a name that is no file.
    """
    if not os.path.exists(value):
        if ending(value) in PROSE and not any(map(str.isspace, value)):
            raise UserError(f"{flag} {value!r}: there is no such file")
        return check_text(value, flag)
    if os.path.isfile(value):  # not a pipe, which has no ending
        check_ending(value, PROSE, f"{flag} {value!r}")
    with named(flag):
        text = read_prose(Path(value))
    return check_text(text.rstrip("\n"), f"{flag} {value!r}")
