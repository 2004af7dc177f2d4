"""Conversations: a question behind the turns before it, as the tokenizer's chat template writes them
down, and a span of masks behind that for the answer."""

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from diffusion.canvas import Step, encode
from diffusion.cli.console import say
from diffusion.editing.canvases import TO_WRITE, canvas_of
from diffusion.editing.options import EditingOptions
from diffusion.editing.session import OPTIONS_HELP, Session, note_marks
from diffusion.editing.templates import short
from diffusion.errors import UserError, first_line

if TYPE_CHECKING:
    from diffusion.job import Job

# Stand for what a user typed in a text that is otherwise the template's: for special tokens, and for
# an answer.
TYPED, ANSWER = "\ue000", "\ue001"


class Chat:
    """A model that answers questions.

    Args:
        job: its writer gets the end of an answer for the end of a text.

    Raises:
        UserError: its tokenizer has no chat template, or one that makes nothing of a question.
    """

    def __init__(self, job: "Job", editing: EditingOptions):
        self.job, self.editing = job, editing
        self.tokenizer = job.writer.tokenizer
        if not self.tokenizer.chat_template:
            raise UserError(
                f"the tokenizer of {job.writer.name} has no chat template; give a --model that was "
                "trained to chat, or leave out --chat"
            )
        self.system = [_message("system", editing.system)] if editing.system is not None else []
        added = self.tokenizer.added_tokens_decoder
        specials = [token.content for token in added.values() if token.special]
        specials = sorted([*specials, TYPED], key=len, reverse=True)
        self.specials = re.compile("|".join(map(re.escape, specials)))
        # What the template writes behind an answer: a token, or a mark in words.
        turns = [*self.system, _message("user", "?"), _message("assistant", ANSWER)]
        self.mark = self._render(turns, False).partition(ANSWER)[2].strip().partition("\n")[0]
        self.ends = {self.tokenizer.eos_token_id}
        first = next(iter(self._encode(self.mark)), None)
        if first in added:
            self.mark = ""
            self.ends.add(first)
            self._end_at(first)

    def _end_at(self, token: int) -> None:
        """Have texts end at this token."""
        writer = self.job.writer
        if token != self.tokenizer.eos_token_id:
            self.tokenizer = copy.deepcopy(self.tokenizer)
            self.tokenizer.eos_token = self.tokenizer.convert_ids_to_tokens(token)
            denoiser = writer.denoiser.allowing(token)
            self.job.writer = replace(writer, tokenizer=self.tokenizer, denoiser=denoiser)

    def run(self, questions: list[str] | None) -> None:
        """Answer each question on its own; None: ask for them, and keep the conversation."""
        if questions is None:
            ChatSession(self).run()
            return
        note_marks(questions, commands=True)
        asked = [self.fit([], question) for question in questions]
        numbers = range(self.job.script.num_samples)
        for some in self.job.chunks(itertools.product(asked, numbers)):
            self.answer(*zip(*some, strict=True))

    def turn(self, turns: list[dict], question: str, sample: int) -> list[dict]:
        """The conversation after a question: the turns that had room, the question, its answer."""
        messages, ids = self.fit(turns, question)
        lost = len(self.system) + len(turns) + 1 - len(messages)
        if lost:
            which = "oldest turn has" if lost == 2 else f"{lost // 2} oldest turns have"
            say(f"note: the {which} no room in --max_len any more and will not be read again")
        (text,) = self.answer([(messages, ids)], [sample])
        return [*messages[len(self.system) :], _message("assistant", text)]

    def fit(self, turns: list[dict], question: str) -> tuple[list[dict], list[int]]:
        """The messages with the latest of ``turns`` that leave room for an answer, and their ids. That
        is ``--length`` tokens, or a quarter of ``--max_len`` where there are turns to leave out.

        Raises:
            UserError: the question alone leaves no room.
        """
        options, asked = self.job.generation, _message("user", question)
        while True:
            messages = [*self.system, *turns, asked]
            ids = self.ids(messages)
            room = options.length or (options.max_len // 4 if turns else 1)
            if len(ids) + room <= options.max_len:
                return messages, ids
            if not turns:
                raise UserError(
                    f"the question {short(question)!r} has {len(ids)} tokens in its template, and with "
                    f"{room} for the answer needs {len(ids) + room} of {options.max_len} positions; "
                    "shorten it, or change --max_len or --length"
                )
            turns = turns[2:]

    def ids(self, messages: list[dict]) -> list[int]:
        """A conversation up to where its next answer begins. Special tokens are the template's alone:
        ``<mask>`` or ``</s>`` typed by a user stays text."""
        typed: list[str] = []

        def hide(found: re.Match) -> str:
            typed.append(found[0])
            return f"{TYPED}{len(typed) - 1}{TYPED}"

        hidden = [{**m, "content": self.specials.sub(hide, m["content"])} for m in messages]
        text, *pieces = re.split(f"{TYPED}([0-9]+){TYPED}", self._render(hidden, True))
        ids = self._encode(text)
        for number, text in zip(pieces[::2], pieces[1::2], strict=True):
            ids += encode(self.tokenizer, typed[int(number)]) + self._encode(text)
        return ids

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _render(self, messages: list[dict], answer_next: bool) -> str:
        """The text that the template makes of messages."""
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answer_next
            )
        except Exception as error:  # a template may raise what it likes
            advice = "leave out --system, or " if self.system else ""
            raise UserError(
                f"the chat template of {self.job.writer.name} makes nothing of the conversation "
                f"({first_line(error)}); {advice}give a --model with another"
            ) from None
        return text

    def answer(
        self, asked: Sequence[tuple[list[dict], list[int]]], samples: Sequence[int]
    ) -> list[str]:
        """Write and show an answer behind each of several conversations.

        Args:
            asked: the messages and the ids of each.
            samples: their numbers.
        """
        options = self.job.ready()
        rows = [
            torch.tensor(ids + [TO_WRITE] * (options.length or options.max_len - len(ids)))
            for _, ids in asked
        ]
        canvas = canvas_of(self.tokenizer, rows)
        steps = self.job.writer.denoise(canvas, options, samples, may_end=True)
        answers = Answers(self, steps, [len(ids) for _, ids in asked])

        def known(messages: list[dict]):
            def record(step: Step, row: int, written: dict) -> dict:
                text = answers.text(row)
                said = [*messages, _message("assistant", text)]
                return {"messages": said, **written, "text": text, "ids": written["ids"][1:]}

            return record

        self.job.show(answers, [known(messages) for messages, _ in asked], samples)
        return self.job.last[0]


@dataclass
class Answers:
    """The Steps of a generation as they are shown: with the answers alone. What stands in front of
    them, and behind their ends when they are written, counts as padding."""

    chat: Chat
    steps: Iterable[Step]
    given: list[int]  # tokens in front of each answer
    last: Step | None = None  # as it was written

    def __iter__(self) -> Iterator[Step]:
        for step in self.steps:
            self.last, ids, gone = step, step.ids.clone(), step.padding.clone()
            ids[:, 0] = self.chat.tokenizer.bos_token_id  # which no view shows
            for row, given in enumerate(self.given):
                gone[row, 1:given] = True
                if not step.masked[row].any():
                    gone[row, given + self.length(row) :] = True
            yield replace(step, ids=ids, padding=gone, frozen=step.frozen | gone)

    def ids(self, row: int) -> list[int]:
        """Of an answer, up to the token that ends it."""
        ids = self.last.ids[row][~self.last.padding[row]].tolist()[self.given[row] :]
        return list(itertools.takewhile(lambda token: token not in self.chat.ends, ids))

    def text(self, row: int) -> str:
        """An answer as far as it is written."""
        return self._before_mark(self._decode(self.ids(row))).strip()

    def length(self, row: int) -> int:
        """Tokens of an answer that are shown: those up to its end, which has a sign of its own, or up
        to a mark in words, which has not."""
        ids = self.ids(row)
        text = self._decode(ids)
        shown = len(self._before_mark(text))
        if shown == len(text):
            return len(ids) + 1
        return max(n for n in range(len(ids)) if len(self._decode(ids[:n])) <= shown)

    def _before_mark(self, text: str) -> str:
        return text.partition(self.chat.mark)[0] if self.chat.mark else text

    def _decode(self, ids: list[int]) -> str:
        return self.chat.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


class ChatSession(Session):
    """The loop of one conversation after the other, and its commands."""

    QUESTION = "You (two empty lines: quit) > "
    HELP = (
        """\
Type a question, or
  /again             the same question, another answer
  /reset             begin a new conversation
  /length N          so many tokens for an answer; alone: what --max_len leaves (now {length})
"""
        + OPTIONS_HELP
    )

    def __init__(self, chat: Chat):
        super().__init__(chat.job, chat.editing, {}, chat.answer)
        self.chat, self.turns = chat, []

    def continue_(self, prompt: str, sample: int) -> None:
        """The next question, or with another sample than the first the last one anew."""
        turns = self.turns[:-2] if sample else self.turns
        self.turns = self.chat.turn(turns, prompt, sample)
        self.prompt, self.sample = prompt, sample

    def reset(self, _: str) -> None:
        self.turns, self.prompt = [], None
        say("a new conversation")

    ALONE: ClassVar = (*Session.ALONE, "reset")
    COMMANDS: ClassVar = {
        **{
            name: command
            for name, command in Session.COMMANDS.items()
            if name not in ("infill", "rewrite", "strength", "keep")
        },
        "reset": reset,
    }


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
