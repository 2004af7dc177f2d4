"""The interactive loops of inference.py and their commands."""

import re
import textwrap
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from diffusion.cli.checks import check_values
from diffusion.cli.console import say
from diffusion.cli.prompts import QUESTION, Quit, ask
from diffusion.editing.chat import Chat
from diffusion.editing.modes import MODES
from diffusion.editing.options import EditingOptions, text_or_file
from diffusion.editing.templates import BLANK, parse_template
from diffusion.errors import UserError, printable
from diffusion.options import SAMPLER_FLAGS
from diffusion.samplers.catalog import SAMPLERS, STEPPED

if TYPE_CHECKING:
    from diffusion.job import Job

__all__ = ["MODES", "ChatSession", "Session", "note_blanks"]


class Command(NamedTuple):
    """A command of a loop."""

    value: str  # what follows its name, as /help shows it; in brackets: may be left out
    help: str
    run: Callable[["Session", str], None]


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
        except UserError as error:  # its flags are commands here
            message = re.sub(r"(use|change) --max_len", r"start again with --max_len", str(error))
            message = message.replace("--n_steps", "/steps")
            commands = r"--(sampler|seed|strength|keep|length|temperature)\b"
            raise UserError(re.sub(commands, r"/\1", message)) from None

    def obey(self, line: str) -> None:
        name, _, value = line[1:].partition(" ")
        command = self.COMMANDS.get(name.lower())
        if command is None:
            raise UserError(
                f"/{printable(name)} is no command; /help lists them, and a text that begins with "
                "a slash can be given on the command line"
            )
        if command.value.isalpha() and not value.strip():
            raise UserError(f"/{name} needs a value; /help shows how")
        command.run(self, value)

    def write(self, prompt: str, sample: int) -> None:
        """Continue a prompt by the texts from number ``sample`` on."""
        self.prompt, self.sample = prompt, sample
        note_blanks([prompt])
        if self.editing.best_of:
            self.work_on("best_of", [prompt])
        else:
            self.modes[None](self.job, self.editing, [prompt], sample)

    # ------------------------------------------------------------ commands

    def again(self, _: str) -> None:
        if self.prompt is None or self.editing.best_of:
            raise UserError("/again needs a text before it, and not --best_of; type a beginning")
        self.write(self.prompt, self.sample + self.job.script.num_samples)

    def work_on(self, mode: str, text) -> None:
        self.modes[mode](self.job, self.editing, text)

    def quit(self, _: str) -> None:
        raise Quit

    def set_sampler(self, value: str) -> None:
        # Flags that the sampler before took may mean nothing to this one.
        flags, value = dict.fromkeys(SAMPLER_FLAGS), value.strip()
        if value.partition(":")[0] in STEPPED:
            flags.pop("n_steps")
        self.change(**flags, sampler=None if value == "default" else value)

    def change(self, **options) -> None:
        """Change options of generation."""
        requested = replace(self.job.requested, **options)
        self.job.writer.check(requested)
        self.job.requested = requested
        self.job.ready()
        say(self.settings)

    def edit(self, **options) -> None:
        """Change options of editing."""
        editing = replace(self.editing, **options)
        check_values(editing)
        self.editing = editing
        say(self.settings)

    @property
    def settings(self) -> str:
        """How the next text is written."""
        generation, editing = self.job.generation, self.editing
        return ", ".join([
            self.job.writer.method(generation),
            f"seed {generation.seed}",
            f"length {generation.length or 'not fixed'}",
            f"temperature {generation.temperature}",
            f"strength {editing.strength}",
            f"keep {printable(', '.join(map(repr, editing.keep or []))) or 'no words'}",
        ])  # fmt: skip

    def help(self, _: str) -> None:
        lines = [self.FIRST]
        for name, command in self.COMMANDS.items():
            text = f"  {f'/{name} {command.value}':19}{command.help}"
            lines += textwrap.wrap(text, 100, subsequent_indent=" " * 21, drop_whitespace=True)
        say("\n".join([*lines, "Ctrl-C stops a text and keeps what is written.", self.settings]))

    COMMANDS: dict[str, Command] = {}  # noqa: RUF012  (filled below, when the methods are known)


def _number(kind: type, value: str):
    try:
        return kind(value) if value.strip() else None
    except ValueError:
        raise UserError(f"{value.strip()!r} is no number; give one") from None


def _words(value: str) -> list[str]:
    """Words, or phrases in double quotes; an apostrophe is part of a word."""
    found = [phrase or word for phrase, word in re.findall(r'"([^"]*)"|(\S+)', value)]
    return [word for word in found if word.strip()]


_EDITING = {
    "infill": Command(
        "TEXT", "fill the blanks of a text: /infill The <mask:4> sat on the <mask:2-5>.",
        lambda s, x: s.work_on("infill", parse_template(text_or_file(x, "/infill"))),
    ),
    "rewrite": Command(
        "TEXT", "mask random tokens of a text, or of a file, and fill them",
        lambda s, x: s.work_on("rewrite", text_or_file(x, "/rewrite")),
    ),
    "strength": Command(
        "X", "the share of them, from 0 to 1", lambda s, x: s.edit(strength=_number(float, x))
    ),
    "keep": Command(
        "[WORDS]", 'that /rewrite keeps, such as river "old town"; alone: none',
        lambda s, x: s.edit(keep=_words(x)),
    ),
}  # fmt: skip
_SHARED = {
    "again": Command("", "the same beginning or question, another text", Session.again),
    "length": Command(
        "[N]", "exactly N new tokens; alone: until the text ends",
        lambda s, x: s.change(length=_number(int, x)),
    ),
    "sampler": Command(
        "NAME", f"the order of writing, such as remdm:eta=0.02: default, {', '.join(SAMPLERS)}",
        Session.set_sampler,
    ),
    "steps": Command(
        "N", f"denoising steps of {', '.join(STEPPED)}",
        lambda s, x: s.change(n_steps=_number(int, x)),
    ),
    "temperature": Command(
        "X", "0 takes the most probable token",
        lambda s, x: s.change(temperature=_number(float, x)),
    ),
    "seed": Command(
        "N", "another seed, another text", lambda s, x: s.change(seed=_number(int, x))
    ),
    "save": Command(
        "FILE", "the last text as .txt, or how it was written as .gif, .html, .mp4 or .png",
        lambda s, x: s.job.save_last(x.strip()),
    ),
    "quit": Command("", "end; so do two empty lines, and Ctrl-D", Session.quit),
    "help": Command("", "this list", Session.help),
}  # fmt: skip
Session.COMMANDS = _EDITING | _SHARED


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
    "reset": Command("", "begin a new conversation", ChatSession.reset),
    **_SHARED,
}


def note_blanks(prompts: list[str]) -> None:
    """Say so where a prompt holds what looks like a blank."""
    if blank := next(filter(None, map(BLANK.search, prompts)), None):
        say(f"note: {blank[0]} in a prompt is plain text; --infill and /infill fill blanks")
