"""The prompt loop of inference.py and its commands."""

import re
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, ClassVar

from diffusion.cli.console import say
from diffusion.cli.options import WritingOptions
from diffusion.cli.prompts import ask
from diffusion.editing.options import STRENGTH, EditingOptions, text_or_file
from diffusion.editing.templates import parse_template
from diffusion.errors import UserError
from diffusion.options import SAMPLERS, STEPPED, GenerationOptions
from diffusion.views.frames import printable

if TYPE_CHECKING:
    from diffusion.editing.modes import Desk


HELP = """\
Type the beginning of a text, or
  /infill TEXT     fill the holes of a text: /infill The <mask:4> sat on the <mask:2-5>.
  /rewrite TEXT    write a part of a text, or of a file, anew
  /strength X      how much of it, from 0 to 1 (now {strength})
  /keep WORDS      that /rewrite leaves, such as river "old town"; alone: none (now {keep})
  /sampler NAME    the order of writing (now {method}):
                   {samplers}
  /steps N         denoising steps of {stepped}
  /seed N          another seed, another text (now {seed})
  /help            this
An empty line ends."""


FLAGS = {f.name for options in (EditingOptions, GenerationOptions, WritingOptions)
         for f in fields(options)}  # fmt: skip


def at_the_question(message: str) -> str:
    """What a message says of flags, for somebody who has commands instead."""
    message = message.replace("use --max_len", "start again with --max_len")
    message = message.replace("change --max_len", "start again with another --max_len")
    message = message.replace("--n_steps", "/steps")
    return re.sub(r"--(sampler|seed|strength|keep)\b", r"/\1", message)


@dataclass
class Session:
    """The prompt loop and its commands."""

    desk: "Desk"
    options: EditingOptions
    keep: list[str] = field(default_factory=list)

    def run(self) -> None:
        say("/help lists the commands")
        ask(self.answer, self.desk.generation.prefix_len)

    def answer(self, line: str) -> None:
        """One line: a command, or the beginning of a text."""
        try:
            self.obey(line)
        except UserError as error:
            raise UserError(at_the_question(str(error))) from None

    def obey(self, line: str) -> None:
        if not line.startswith("/"):
            self.desk.prompts([line], self.options)
            return
        typed, _, value = line[1:].partition(" ")
        name = typed.lower()
        if name in ("quit", "exit", "q"):
            raise UserError(f"/{name} is no command; an empty line ends")
        if name in FLAGS and name not in self.COMMANDS:
            raise UserError(
                f"/{name} is no command, but a flag: start again with --{name}, or see /help"
            )
        if name not in self.COMMANDS:
            raise UserError(
                f"/{printable(typed)} is no command; /help lists them, and a text that begins with "
                "a slash can be given on the command line"
            )
        if not value.strip() and name not in ("help", "keep"):
            raise UserError(f"/{name} needs a value; /help shows how")
        self.COMMANDS[name](self, value)

    def infill(self, value: str) -> None:
        self.desk.infill(parse_template(text_or_file(value, "/infill")))

    def rewrite(self, value: str) -> None:
        self.desk.rewrite(text_or_file(value, "/rewrite"), self.strength, self.keep)

    def set_keep(self, value: str) -> None:
        """Words, or several in double quotes; an apostrophe is part of a word."""
        words = [several or one for several, one in re.findall(r'"([^"]*)"|(\S+)', value)]
        self.keep = [word for word in words if word.strip()]
        say(f"keep {self.kept()}")

    def kept(self) -> str:
        return printable(", ".join(map(repr, self.keep))) or "no words"

    @property
    def strength(self) -> float:
        return STRENGTH if self.options.strength is None else self.options.strength

    def set_strength(self, value: str) -> None:
        strength = _number(float, "/strength", value)
        if not 0 <= strength <= 1:
            raise UserError(f"/strength {value} must be a number from 0 to 1")
        self.options = replace(self.options, strength=strength)
        say(f"strength {strength}")

    def set_sampler(self, value: str) -> None:
        name = value.strip()
        # The options of the sampler before may mean nothing to this one.
        own = dict.fromkeys(self.desk.generation.own_options())
        if name in STEPPED:
            own.pop("n_steps", None)
        self.change(**own, sampler=None if name == "default" else name)

    def set_steps(self, value: str) -> None:
        self.change(n_steps=_number(int, "/steps", value))

    def set_seed(self, value: str) -> None:
        self.change(seed=_number(int, "/seed", value))

    def change(self, **options) -> None:
        generation = replace(self.desk.generation, **options)
        self.desk.writer.check(generation)
        self.desk.generation = generation
        say(f"{self.desk.writer.method(generation)}, seed {generation.seed}")

    def help(self, _: str) -> None:
        generation = self.desk.generation
        say(
            HELP.format(
                strength=self.strength,
                keep=self.kept(),
                method=self.desk.writer.method(generation).removeprefix("sampler "),
                samplers=", ".join(["default", *SAMPLERS]),
                stepped=", ".join(STEPPED),
                seed=generation.seed,
            )
        )

    COMMANDS: ClassVar = {
        "infill": infill,
        "rewrite": rewrite,
        "strength": set_strength,
        "keep": set_keep,
        "sampler": set_sampler,
        "steps": set_steps,
        "seed": set_seed,
        "help": help,
    }


def _number(kind: type, flag: str, value: str):
    try:
        return kind(value)
    except ValueError:
        raise UserError(f"{flag} {value.strip()!r} is no number; give one") from None
