"""The interactive loop of inference.py and its commands."""

import contextlib
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from diffusion.cli.checks import check_values, one_of
from diffusion.cli.console import ask, question, say
from diffusion.cli.flags import read_flags
from diffusion.editing.chat import Chat
from diffusion.editing.modes import MODES
from diffusion.editing.options import EditingOptions, text_or_file
from diffusion.editing.places import opened, touched
from diffusion.editing.templates import parse_template, short
from diffusion.editing.touch import Draft, numbered, ranges, words
from diffusion.errors import UserError, printable
from diffusion.options import GenerationOptions

if TYPE_CHECKING:
    from diffusion.job import Job

# Of /set.
SETTABLE = {option.name: option for option in fields(GenerationOptions)}
SETTABLE |= {o.name: o for o in fields(EditingOptions) if o.name in ("strength", "keep")}


class Command(NamedTuple):
    """A command of the loop."""

    value: str  # what follows its name, as /help shows it; in brackets if it can be left out
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
        self.question: str | None = None  # the last one of the conversation
        self.drafts: list[Draft] = []  # the last text, after those that /undo brings back
        self.sample = 0  # of the last text
        self.again_from: tuple | None = None  # what the last /again did
        self.commands = (CHAT if editing.chat else EDITING) | SHARED

    def run(self, lines: Iterable[str] | None = None) -> None:
        """Answer the lines of a person, or those of a pipe up to the first mistake."""
        if lines is not None:
            with contextlib.suppress(EOFError):  # /quit
                for line in lines:
                    self.answer(line)
            return
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
        if command.value[:1] not in ("", "[") and not value.strip():
            raise UserError(f"/{name} needs a value; /help shows how")
        if not command.value and value.strip():
            raise UserError(f"/{name} takes no value; leave out {short(value.strip())!r}")
        command.run(self, value)

    # ------------------------------------------------------------ texts

    def write(self, prompt: str, sample: int) -> None:
        """Continue a prompt, or answer a question, by the texts from number ``sample`` on."""
        if self.chat:  # another sample than the first answers the last question again
            turns = self.turns[:-2] if sample else self.turns
            self.question, self.sample = prompt, sample
            self.turns = self.chat.turn(turns, prompt, sample)
        else:
            self.continue_prompts(self.job, self.editing, [prompt], sample)
            self.keep(Draft.of(self.job.last), sample)

    def edit(self, mode: str, source) -> None:
        """Fill a template, or rewrite a text."""
        MODES[mode](self.job, self.editing, source)
        self.keep(Draft.of(self.job.last), 0)

    def keep(self, draft: Draft, sample: int) -> None:
        """A new last text."""
        self.drafts.append(draft)
        self.sample = sample

    def current(self, command: str) -> Draft:
        if not self.drafts:
            raise UserError(f"{command} needs a text before it; type a beginning")
        return self.drafts[-1]

    @property
    def next_sample(self) -> int:
        return self.sample + self.job.script.num_samples

    def answer_again(self, _: str) -> None:
        if self.question is None:
            raise UserError("/again needs a text before it; type a beginning")
        self.write(self.question, self.next_sample)

    # ------------------------------------------------------------ one text, changed in places

    def tokens(self, _: str) -> None:
        draft = self.current("/tokens")
        self.again_from = None  # from here on the numbers are those that are shown
        width = _width()
        say(
            "\n".join([numbered(draft.text, width), *textwrap.wrap(draft.status(), max(20, width))])
        )

    def again(self, value: str) -> None:
        """Write words, or all that is neither typed nor fixed, anew, with the text on both sides in
        sight; the same command twice in a row rewrites the same place."""
        value, draft = value.strip(), self.current("/again")
        if not value and draft.prompt is not None:  # all that follows the prompt, of any length
            return self.write(draft.prompt, self.next_sample)
        if self.again_from and self.again_from[0] == value and self.again_from[1] is draft:
            _, _, draft, spans = self.again_from
        else:
            spans = draft.free(draft.select(value, "/again") if value else None)
        if not spans:
            if value:
                raise UserError(
                    f"/again {short(value)}: these words are fixed; /fix without numbers releases them"
                )
            raise UserError(
                "/again: every word is typed by you or fixed; /fix without numbers releases the fixed "
                "ones, and /again with numbers, such as /again 1, rewrites typed ones, too"
            )
        sample = self.next_sample
        template = opened(self.job.writer.tokenizer, draft.text, spans)
        MODES["infill"](self.job, self.editing, template, sample)
        new = draft.filled(spans, self.job.last)
        self.keep(new, sample)
        self.again_from = value, new, draft, spans
        numbers = ranges(n + 1 for n in touched(words(new.text), new.written)) or "none"
        say(f"new words: {numbers}; /undo brings back the text before them")

    def fix(self, value: str) -> None:
        draft = self.current("/fix")
        spans = draft.select(value, "/fix") if value.strip() else None
        self.drafts.append(draft.fixed(spans))
        say(self.drafts[-1].status())

    def undo(self, _: str) -> None:
        self.current("/undo")
        if len(self.drafts) == 1:
            raise UserError("/undo: this is the first text, and there is none before it")
        gone = self.drafts.pop()
        draft = self.drafts[-1]
        if draft.record is gone.record:
            say(draft.status())
        else:
            self.job.output.write(draft.record)

    # ------------------------------------------------------------ the loop

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
        self.turns, self.question = [], None
        say("a new conversation")

    def quit(self, _: str) -> None:
        raise EOFError

    def help(self, _: str) -> None:
        width = max(20, min(100, _width()))
        lines = textwrap.wrap("Type the beginning of a text or a question, or", width)
        column, indent = (21, " " * 24) if width >= 60 else (0, " " * 4)
        for name, command in self.commands.items():
            text = f"  {f'/{name} {command.value}'.rstrip():{column}} {command.help}"
            lines += textwrap.wrap(text, width, subsequent_indent=indent)
        lines += textwrap.wrap("Ctrl-C stops a text and keeps what is written.", width)
        say("\n".join(lines))


def _width() -> int:
    """Of the terminal, in cells."""
    return Console(stderr=True).width


CHAT = {
    "reset": Command("", "begin a new conversation", Session.reset),
    "again": Command("", "the same question, another answer", Session.answer_again),
}
EDITING = {
    "infill": Command(
        "TEXT",
        "fill the blanks of a text: /infill The <mask:4> sat on the <mask:2-5>.",
        lambda s, x: s.edit("infill", parse_template(text_or_file(x, "/infill"))),
    ),
    "rewrite": Command(
        "TEXT",
        "mask random tokens of a text, or of a file, and fill them; /set strength and /set keep",
        lambda s, x: s.edit("rewrite", text_or_file(x, "/rewrite")),
    ),
    "tokens": Command("", "the last text with its words numbered", Session.tokens),
    "again": Command(
        "[WORDS]",
        "write words of the last text anew: /again 5-9, or 3 5-9; without numbers all that is neither "
        "typed nor fixed; once more: another one",
        Session.again,
    ),
    "fix": Command(
        "[WORDS]", "fix words, which /again keeps: /fix 3-4; without numbers none", Session.fix
    ),
    "undo": Command("", "back to what was before the last change", Session.undo),
}
SHARED = {
    "set": Command(
        "OPTION [VALUE]",
        "a flag that says how text is written: /set sampler remdm:eta=0.02, /set length 40; without a "
        "value its default",
        Session.set,
    ),
    "quit": Command("", "end; so do two empty lines, and Ctrl-D", Session.quit),
    "help": Command("", "this list", Session.help),
}
