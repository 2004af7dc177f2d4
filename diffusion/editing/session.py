"""The prompt loop of inference.py and its commands."""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, ClassVar

from diffusion.cli.console import say
from diffusion.cli.options import WritingOptions
from diffusion.cli.prompts import QUESTION, Quit, ask
from diffusion.cli.values import check_values
from diffusion.editing.options import STRENGTH, EditingOptions, text_or_file
from diffusion.editing.templates import HOLE, parse_template
from diffusion.errors import UserError, printable
from diffusion.options import SAMPLER_FLAGS, GenerationOptions
from diffusion.samplers.catalog import SAMPLERS, STEPPED

if TYPE_CHECKING:
    from diffusion.job import Job

OPTIONS_HELP = """\
  /sampler NAME      the order of writing (now {method}):
                     {samplers}
  /steps N           denoising steps of {stepped}
  /temperature X     0 takes the most probable token (now {temperature})
  /seed N            another seed, another text (now {seed})
  /save FILE         the last text as .txt, or how it was written as .gif, .html, .mp4 or .png
  /quit              end; so do two empty lines, and Ctrl-D
  /help              this
Ctrl-C stops a text and keeps what is written."""


FLAGS = {f.name for options in (EditingOptions, GenerationOptions, WritingOptions)
         for f in fields(options)}  # fmt: skip


def at_the_question(message: str) -> str:
    """What a message says of flags, for somebody who has commands instead."""
    message = message.replace("use --max_len", "start again with --max_len")
    message = message.replace("change --max_len", "start again with another --max_len")
    message = message.replace("--n_steps", "/steps")
    return re.sub(r"--(sampler|seed|strength|keep|length|temperature)\b", r"/\1", message)


def note_marks(prompts: list[str], commands: bool = False) -> None:
    """Say so where a prompt holds what looks like a hole or, with ``commands``, like a command."""
    if hole := next(filter(None, map(HOLE.search, prompts)), None):
        say(f"note: {hole[0]} in a prompt is plain text; --infill and /infill fill holes")
    starts = (prompt.split(maxsplit=1)[0] for prompt in prompts if prompt.startswith("/"))
    command = next((word for word in starts if word[1:].lower() in Session.COMMANDS), None)
    if commands and command:
        say(
            f"note: {command} at the beginning of a prompt is plain text; commands work only at "
            "the question of the interactive loop"
        )


class Session:
    """The prompt loop and its commands.

    Args:
        job: its options of generation change by commands.
        modes: what `modes.MODES` holds.
        write: (prompts, number of the first sample) -> None, continues prompts.
    """

    QUESTION = QUESTION
    HELP = (
        """\
Type the beginning of a text, or
  /again             the same beginning, another text
  /infill TEXT       fill the holes of a text: /infill The <mask:4> sat on the <mask:2-5>.
  /rewrite TEXT      write a part of a text, or of a file, anew
  /strength X        how much of it, from 0 to 1 (now {strength})
  /keep WORDS        that /rewrite leaves, such as river "old town"; alone: none (now {keep})
  /length N          exactly so many new tokens; alone: until the text ends (now {length})
"""
        + OPTIONS_HELP
    )

    def __init__(
        self, job: "Job", editing: EditingOptions, modes: dict[str, Callable], write: Callable
    ):
        self.job, self.editing, self.modes, self.write = job, editing, modes, write
        self.prompt: str | None = None  # the last one
        self.sample = 0  # of its last text

    def run(self) -> None:
        say("/help lists the commands")
        ask(self.answer, self.QUESTION.format(self.job.generation.prefix_len))

    def answer(self, line: str) -> None:
        """One line: a command, or the beginning of a text."""
        try:
            if line.startswith("/"):
                self.obey(line)
            else:
                self.continue_(line, 0)
        except UserError as error:
            raise UserError(at_the_question(str(error))) from None

    def continue_(self, prompt: str, sample: int) -> None:
        self.prompt, self.sample = prompt, sample
        note_marks([prompt])
        if self.editing.best_of:
            self.modes["best_of"](self.job, self.editing, [prompt])
        else:
            self.write([prompt], sample)

    def obey(self, line: str) -> None:
        typed, _, value = line[1:].partition(" ")
        name = typed.lower()
        if name in FLAGS and name not in self.COMMANDS:
            raise UserError(
                f"/{name} is no command, but a flag: start again with --{name}, or see /help"
            )
        if name not in self.COMMANDS:
            raise UserError(
                f"/{printable(typed)} is no command; /help lists them, and a text that begins with "
                "a slash can be given on the command line"
            )
        if not value.strip() and name not in self.ALONE:
            raise UserError(f"/{name} needs a value; /help shows how")
        whole = name in ("infill", "rewrite")  # a text is given as it is
        self.COMMANDS[name](self, value if whole else value.strip())

    # ------------------------------------------------------------ texts

    def again(self, _: str) -> None:
        if self.prompt is None:
            raise UserError("/again needs a text before it; type the beginning of one")
        if self.editing.best_of:
            raise UserError(
                "/again does not go with --best_of, which has tried several; /seed does"
            )
        self.continue_(self.prompt, self.sample + self.job.script.num_samples)

    def infill(self, value: str) -> None:
        template = parse_template(text_or_file(value, "/infill"))
        self.modes["infill"](self.job, self.editing, template)

    def rewrite(self, value: str) -> None:
        self.modes["rewrite"](self.job, self.editing, text_or_file(value, "/rewrite"))

    def save(self, value: str) -> None:
        self.job.save_last(value)

    def quit(self, _: str) -> None:
        raise Quit

    # ------------------------------------------------------------ options

    def edit(self, **options) -> None:
        editing = replace(self.editing, **options)
        check_values(editing)
        self.editing = editing

    def set_keep(self, value: str) -> None:
        """Words, or several in double quotes; an apostrophe is part of a word."""
        words = [several or one for several, one in re.findall(r'"([^"]*)"|(\S+)', value)]
        self.edit(keep=[word for word in words if word.strip()])
        say(f"keep {self.kept()}")

    def kept(self) -> str:
        return printable(", ".join(map(repr, self.editing.keep or []))) or "no words"

    @property
    def strength(self) -> float:
        return STRENGTH if self.editing.strength is None else self.editing.strength

    def set_strength(self, value: str) -> None:
        self.edit(strength=_number(float, "/strength", value))
        say(f"strength {self.strength}")

    def set_sampler(self, value: str) -> None:
        # The options of the sampler before may mean nothing to this one.
        own = dict.fromkeys(SAMPLER_FLAGS)
        if value.partition(":")[0] in STEPPED:
            own.pop("n_steps")
        self.change(**own, sampler=None if value == "default" else value)

    def set_steps(self, value: str) -> None:
        self.change(n_steps=_number(int, "/steps", value))

    def set_length(self, value: str) -> None:
        self.change(length=_number(int, "/length", value) if value else None)

    def set_temperature(self, value: str) -> None:
        self.change(temperature=_number(float, "/temperature", value))

    def set_seed(self, value: str) -> None:
        self.change(seed=_number(int, "/seed", value))

    def change(self, **options) -> None:
        asked = replace(self.job.asked, **options)
        self.job.writer.check(asked)
        self.job.asked = asked
        generation = self.job.ready()
        told = [self.job.writer.method(generation), f"seed {generation.seed}"]
        if "length" in options:
            told.append(f"length {generation.length or 'as it comes'}")
        if "temperature" in options:
            told.append(f"temperature {generation.temperature}")
        say(", ".join(told))

    def help(self, _: str) -> None:
        generation = self.job.generation
        say(
            self.HELP.format(
                strength=self.strength,
                keep=self.kept(),
                method=self.job.writer.method(generation).removeprefix("sampler "),
                samplers=", ".join(["default", *SAMPLERS]),
                stepped=", ".join(STEPPED),
                length=generation.length or "none",
                temperature=generation.temperature,
                seed=generation.seed,
            )
        )

    ALONE: ClassVar = ("again", "keep", "length", "quit", "help")  # commands without a value
    COMMANDS: ClassVar = {
        "again": again,
        "infill": infill,
        "rewrite": rewrite,
        "strength": set_strength,
        "keep": set_keep,
        "sampler": set_sampler,
        "steps": set_steps,
        "length": set_length,
        "temperature": set_temperature,
        "seed": set_seed,
        "save": save,
        "quit": quit,
        "help": help,
    }


def _number(kind: type, flag: str, value: str):
    try:
        return kind(value)
    except ValueError:
        raise UserError(f"{flag} {value!r} is no number; give one") from None
