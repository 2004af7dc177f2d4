"""The interactive loop of inference.py and its commands."""

import re
import textwrap
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, NamedTuple

from diffusion.cli.checks import check_values, one_of
from diffusion.cli.console import ask, question, say
from diffusion.cli.flags import read_flags
from diffusion.editing.chat import Chat
from diffusion.editing.modes import MODES
from diffusion.editing.options import EditingOptions, text_or_file
from diffusion.editing.templates import parse_template
from diffusion.errors import UserError, printable
from diffusion.options import GenerationOptions

if TYPE_CHECKING:
    from diffusion.job import Job

# Of /set.
SETTABLE = {option.name: option for option in fields(GenerationOptions)}
SETTABLE |= {o.name: o for o in fields(EditingOptions) if o.name in ("strength", "keep")}


class Command(NamedTuple):
    """A command of the loop."""

    value: str  # what follows its name, as /help shows it
    help: str
    run: Callable[["Session", str], None]


class Session:
    """The prompt loop, or that of a conversation.

    Args:
        job: /set changes its options of generation.
        write: continues prompts: (job, editing, prompts, number of the first sample) -> None.
    """

    def __init__(self, job: "Job", editing: EditingOptions, write: Callable):
        self.job, self.editing, self.continue_prompts = job, editing, write
        self.chat = Chat(job, editing) if editing.chat else None
        self.turns: list[dict] = []  # of the conversation
        self.prompt: str | None = None  # the last one
        self.sample = 0  # of its last text
        self.commands = (CHAT if editing.chat else EDITING) | SHARED

    def run(self) -> None:
        say("/help lists the commands")
        ask(
            self.answer,
            "You (two empty lines: quit) > " if self.chat else question(self.job.writer.example),
        )

    def answer(self, line: str) -> None:
        """One line: a command, or the beginning of a text."""
        if not line.startswith("/"):
            return self.write(line, 0)
        name, _, value = line[1:].partition(" ")
        command = self.commands.get(name)
        if command is None:
            raise UserError(
                f"/{printable(name)} is no command; /help lists them, and a text that begins with "
                "a slash can be given on the command line"
            )
        if command.value and not value.strip():
            raise UserError(f"/{name} needs a value; /help shows how")
        command.run(self, value)

    def write(self, prompt: str, sample: int) -> None:
        """Continue a prompt, or answer a question, by the texts from number ``sample`` on."""
        self.prompt, self.sample = prompt, sample
        if self.chat:  # another sample than the first answers the last question again
            turns = self.turns[:-2] if sample else self.turns
            self.turns = self.chat.turn(turns, prompt, sample)
        else:
            self.continue_prompts(self.job, self.editing, [prompt], sample)

    def again(self, _: str) -> None:
        if self.prompt is None:
            raise UserError("/again needs a text before it; type a beginning")
        self.write(self.prompt, self.sample + self.job.script.num_samples)

    def set(self, value: str) -> None:
        """Set an option to the words after its name; without any, to its default."""
        # An apostrophe is part of a word, phrases are in double quotes.
        words = [phrase or word for phrase, word in re.findall(r'"([^"]*)"|(\S+)', value)]
        name = one_of("/set", words[0], SETTABLE)
        given = {name: SETTABLE[name].default}
        if words[1:]:
            given = read_flags((GenerationOptions, EditingOptions), [f"--{name}", *words[1:]])
        if hasattr(self.editing, name):
            editing = replace(self.editing, **given)
            check_values(editing)
            self.editing = editing
        else:
            requested = replace(self.job.requested, **given)
            self.job.writer.check(requested)
            self.job.requested = requested
        generation = self.job.ready()
        how = f"{self.job.writer.method(generation)}, seed {generation.seed}"
        say(f"{name} {given[name]}; {how}")

    def reset(self, _: str) -> None:
        self.turns, self.prompt = [], None
        say("a new conversation")

    def quit(self, _: str) -> None:
        raise EOFError

    def help(self, _: str) -> None:
        lines = ["Type the beginning of a text or a question, or"]
        for name, command in self.commands.items():
            text = f"  {f'/{name} {command.value}':22}{command.help}"
            lines += textwrap.wrap(text, 100, subsequent_indent=" " * 24)
        say("\n".join([*lines, "Ctrl-C stops a text and keeps what is written."]))


CHAT = {"reset": Command("", "begin a new conversation", Session.reset)}
EDITING = {
    "infill": Command(
        "TEXT",
        "fill the blanks of a text: /infill The <mask:4> sat on the <mask:2-5>.",
        lambda s, x: MODES["infill"](s.job, s.editing, parse_template(text_or_file(x, "/infill"))),
    ),
    "rewrite": Command(
        "TEXT",
        "mask random tokens of a text, or of a file, and fill them; /set strength and /set keep",
        lambda s, x: MODES["rewrite"](s.job, s.editing, text_or_file(x, "/rewrite")),
    ),
}
SHARED = {
    "again": Command("", "the same beginning or question, another text", Session.again),
    "set": Command(
        "OPTION [VALUE]",
        "a flag that says how text is written: /set sampler remdm:eta=0.02, /set length 40; without a "
        "value its default",
        Session.set,
    ),
    "quit": Command("", "end; so do two empty lines, and Ctrl-D", Session.quit),
    "help": Command("", "this list", Session.help),
}
