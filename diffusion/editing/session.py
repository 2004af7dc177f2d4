"""The interactive loops of inference.py and their commands."""

import re
import textwrap
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, NamedTuple

from diffusion.cli.console import say
from diffusion.cli.options import WritingOptions
from diffusion.cli.prompts import QUESTION, Quit, ask
from diffusion.cli.values import check_values
from diffusion.editing.chat import Chat
from diffusion.editing.modes import MODES
from diffusion.editing.options import STRENGTH, EditingOptions, text_or_file
from diffusion.editing.templates import BLANK, parse_template
from diffusion.errors import UserError, printable
from diffusion.options import SAMPLER_FLAGS, GenerationOptions
from diffusion.samplers.catalog import SAMPLERS, STEPPED

if TYPE_CHECKING:
    from diffusion.job import Job

__all__ = ["MODES", "ChatSession", "Session", "note_marks"]

FLAGS = {f.name for options in (EditingOptions, GenerationOptions, WritingOptions)
         for f in fields(options)}  # fmt: skip


class Command(NamedTuple):
    """A command of a loop."""

    value: str  # what follows its name, as /help shows it
    help: str  # a format string over `Session.state`
    run: Callable[["Session", str], None]
    alone: bool = False  # whether the value may be left out


class Session:
    """The prompt loop.

    Args:
        job: commands change its options of generation.
        modes: what writes, by mode: (job, editing, text or prompts) -> None. That of no mode also
            takes the number of the first sample.
    """

    QUESTION, FIRST = QUESTION, "Type the beginning of a text, or"

    def __init__(self, job: "Job", editing: EditingOptions, modes: dict[str | None, Callable]):
        self.job, self.editing, self.modes = job, editing, modes
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
                self.write(line, 0)
        except UserError as error:
            raise UserError(_as_commands(str(error))) from None

    def obey(self, line: str) -> None:
        typed, _, value = line[1:].partition(" ")
        name = typed.lower()
        command = self.COMMANDS.get(name)
        if command is None and name in FLAGS:
            raise UserError(
                f"/{name} is no command, but a flag: start again with --{name}, or see /help"
            )
        if command is None:
            raise UserError(
                f"/{printable(typed)} is no command; /help lists them, and a text that begins with "
                "a slash can be given on the command line"
            )
        if not (value.strip() or command.alone or not command.value):
            raise UserError(f"/{name} needs a value; /help shows how")
        command.run(self, value)

    def write(self, prompt: str, sample: int) -> None:
        """Continue a prompt by the texts from number ``sample`` on."""
        self.prompt, self.sample = prompt, sample
        note_marks([prompt])
        if self.editing.best_of:
            self.modes["best_of"](self.job, self.editing, [prompt])
        else:
            self.modes[None](self.job, self.editing, [prompt], sample)

    # ------------------------------------------------------------ commands

    def again(self, _: str) -> None:
        if self.prompt is None:
            raise UserError("/again needs a text before it; type the beginning of one")
        if self.editing.best_of:
            raise UserError(
                "/again does not go with --best_of, which has tried several; /seed does"
            )
        self.write(self.prompt, self.sample + self.job.script.num_samples)

    def infill(self, value: str) -> None:
        template = parse_template(text_or_file(value, "/infill"))
        self.modes["infill"](self.job, self.editing, template)

    def rewrite(self, value: str) -> None:
        self.modes["rewrite"](self.job, self.editing, text_or_file(value, "/rewrite"))

    def save(self, value: str) -> None:
        self.job.save_last(value.strip())

    def quit(self, _: str) -> None:
        raise Quit

    def set_keep(self, value: str) -> None:
        """Words, or phrases in double quotes; an apostrophe is part of a word."""
        words = [phrase or word for phrase, word in re.findall(r'"([^"]*)"|(\S+)', value)]
        self.editing = replace(self.editing, keep=[word for word in words if word.strip()])
        say(f"keep {self.state['keep']}")

    def set_strength(self, value: str) -> None:
        editing = replace(self.editing, strength=_number(float, "/strength", value))
        check_values(editing)
        self.editing = editing
        say(f"strength {self.state['strength']}")

    def set_sampler(self, value: str) -> None:
        # Flags that the sampler before took may mean nothing to this one.
        flags, value = dict.fromkeys(SAMPLER_FLAGS), value.strip()
        if value.partition(":")[0] in STEPPED:
            flags.pop("n_steps")
        self.change(**flags, sampler=None if value == "default" else value)

    def set_number(self, command: str, option: str, kind: type, value: str) -> None:
        self.change(**{option: _number(kind, f"/{command}", value) if value.strip() else None})

    def change(self, **options) -> None:
        """Change options of generation, and say how the next text is written."""
        requested = replace(self.job.requested, **options)
        self.job.writer.check(requested)
        self.job.requested = requested
        generation = self.job.ready()
        said = [self.job.writer.method(generation), f"seed {generation.seed}"]
        said += [f"{n} {self.state[n]}" for n in ("length", "temperature") if n in options]
        say(", ".join(said))

    @property
    def state(self) -> dict:
        """What /help shows of the options."""
        generation = self.job.generation
        strength = self.editing.strength
        return {
            "strength": STRENGTH if strength is None else strength,
            "keep": printable(", ".join(map(repr, self.editing.keep or []))) or "no words",
            "method": self.job.writer.method(generation).removeprefix("sampler "),
            "samplers": ", ".join(["default", *SAMPLERS]),
            "stepped": ", ".join(STEPPED),
            "length": generation.length or "not fixed",
            "temperature": generation.temperature,
            "seed": generation.seed,
        }

    def help(self, _: str) -> None:
        lines = [self.FIRST]
        for name, command in self.COMMANDS.items():
            begin = f"  {f'/{name} {command.value}':19}"
            text = begin + command.help.format(**self.state)
            lines += textwrap.wrap(text, 100, subsequent_indent=" " * 21, drop_whitespace=True)
        say("\n".join([*lines, "Ctrl-C stops a text and keeps what is written."]))

    COMMANDS: dict[str, Command] = {}  # noqa: RUF012  (filled below, when the methods are known)


def _setter(command: str, option: str, kind: type) -> Callable[[Session, str], None]:
    return lambda session, value: session.set_number(command, option, kind, value)


_SHARED = {
    "sampler": Command(
        "NAME", "the order of writing, such as remdm:eta=0.02 (now {method}): {samplers}",
        Session.set_sampler,
    ),
    "steps": Command("N", "denoising steps of {stepped}", _setter("steps", "n_steps", int)),
    "temperature": Command(
        "X", "0 takes the most probable token (now {temperature})",
        _setter("temperature", "temperature", float),
    ),
    "seed": Command("N", "another seed, another text (now {seed})", _setter("seed", "seed", int)),
    "save": Command(
        "FILE", "the last text as .txt, or how it was written as .gif, .html, .mp4 or .png",
        Session.save,
    ),
    "quit": Command("", "end; so do two empty lines, and Ctrl-D", Session.quit),
    "help": Command("", "this list", Session.help),
}  # fmt: skip
Session.COMMANDS = {
    "again": Command("", "the same beginning, another text", Session.again),
    "infill": Command(
        "TEXT", "fill the blanks of a text: /infill The <mask:4> sat on the <mask:2-5>.",
        Session.infill,
    ),
    "rewrite": Command(
        "TEXT", "mask random tokens of a text, or of a file, and fill them", Session.rewrite
    ),
    "strength": Command(
        "X", "the share of them, from 0 to 1 (now {strength})", Session.set_strength
    ),
    "keep": Command(
        "WORDS", 'that /rewrite keeps, such as river "old town"; alone: none (now {keep})',
        Session.set_keep, alone=True,
    ),
    "length": Command(
        "N", "exactly N new tokens; alone: until the text ends (now {length})",
        _setter("length", "length", int), alone=True,
    ),
    **_SHARED,
}  # fmt: skip


class ChatSession(Session):
    """The loop of a conversation."""

    QUESTION, FIRST = "You (two empty lines: quit) > ", "Type a question, or"

    def __init__(self, job: "Job", editing: EditingOptions, modes: dict[str | None, Callable]):
        super().__init__(job, editing, modes)
        self.chat, self.turns = Chat(job, editing), []

    def write(self, prompt: str, sample: int) -> None:
        """Answer the next question or, with another sample than the first, the last one again."""
        turns = self.turns[:-2] if sample else self.turns
        self.turns = self.chat.turn(turns, prompt, sample)
        self.prompt, self.sample = prompt, sample

    def reset(self, _: str) -> None:
        self.turns, self.prompt = [], None
        say("a new conversation")


ChatSession.COMMANDS = {
    "again": Command("", "the same question, another answer", Session.again),
    "reset": Command("", "begin a new conversation", ChatSession.reset),
    "length": Command(
        "N", "N tokens for an answer; alone: what --max_len leaves (now {length})",
        _setter("length", "length", int), alone=True,
    ),
    **_SHARED,
}  # fmt: skip


def note_marks(prompts: list[str], commands: bool = False) -> None:
    """Say so where a prompt holds what looks like a blank or, with ``commands``, like a command."""
    if blank := next(filter(None, map(BLANK.search, prompts)), None):
        say(f"note: {blank[0]} in a prompt is plain text; --infill and /infill fill blanks")
    starts = (prompt.split(maxsplit=1)[0] for prompt in prompts if prompt.startswith("/"))
    command = next((word for word in starts if word[1:].lower() in Session.COMMANDS), None)
    if commands and command:
        say(
            f"note: {command} at the beginning of a prompt is plain text; commands work in the "
            "interactive loop only"
        )


def _as_commands(message: str) -> str:
    """A message about flags for a person who has commands instead."""
    message = message.replace("use --max_len", "start again with --max_len")
    message = message.replace("change --max_len", "start again with another --max_len")
    message = message.replace("--n_steps", "/steps")
    return re.sub(r"--(sampler|seed|strength|keep|length|temperature)\b", r"/\1", message)


def _number(kind: type, flag: str, value: str):
    try:
        return kind(value)
    except ValueError:
        raise UserError(f"{flag} {value.strip()!r} is no number; give one") from None
