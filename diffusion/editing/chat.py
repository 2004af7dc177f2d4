"""Conversations: the tokenizer's chat template formats the turns and the question, and a span of masks
after them becomes the answer."""

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from diffusion.canvas import Step, encode
from diffusion.cli.console import say
from diffusion.editing.canvases import TO_WRITE, canvas_of
from diffusion.editing.options import EditingOptions
from diffusion.editing.templates import short
from diffusion.errors import UserError, first_line

if TYPE_CHECKING:
    from diffusion.job import Job

# In the text of the template these stand for special tokens that a user typed, and for an answer.
TYPED, ANSWER = "\ue000", "\ue001"


class Chat:
    """A model that answers questions. The texts of the job's writer end where answers end.

    Raises:
        UserError: the tokenizer has no chat template, or one that fails for a question.
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
        # What the template writes after an answer: a token, or a mark in words.
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

    def run(self, questions: list[str]) -> None:
        """Answer each question on its own."""
        conversations = [self.fit([], question) for question in questions]
        numbers = range(self.job.script.num_samples)
        for some in self.job.chunks(itertools.product(conversations, numbers)):
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
        """The messages with the latest of ``turns`` that leave room for an answer, and their ids.

        An answer needs ``--length`` tokens, else a quarter of ``--max_len`` if turns can be dropped.

        Raises:
            UserError: the question alone leaves no room.
        """
        options = self.job.generation
        while True:
            messages = [*self.system, *turns, _message("user", question)]
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
        """The ids of a conversation up to its next answer. Only the template writes special tokens;
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
                f"the chat template of {self.job.writer.name} fails for this conversation "
                f"({first_line(error)}); {advice}give a --model with another"
            ) from None
        return text

    def answer(
        self, conversations: Sequence[tuple[list[dict], list[int]]], samples: Sequence[int]
    ) -> list[str]:
        """Write and show an answer to each of several conversations.

        Args:
            conversations: the messages and the ids of each.
            samples: their numbers.
        """
        options = self.job.ready()
        rows = [
            torch.tensor(ids + [TO_WRITE] * (options.length or options.max_len - len(ids)))
            for _, ids in conversations
        ]
        canvas = canvas_of(self.tokenizer, rows)
        steps = self.job.writer.denoise(canvas, options, samples, may_end=True)
        answers = Answers(self, steps, [len(ids) for _, ids in conversations])

        def record(step: Step, row: int, facts: dict) -> dict:
            text = answers.text(row)
            messages = [*conversations[row][0], _message("assistant", text)]
            return {"messages": messages, **facts, "text": text, "ids": facts["ids"][1:]}

        self.job.show(answers, [record] * len(rows), samples)
        return self.job.last[0]


@dataclass
class Answers:
    """The Steps of a generation with the answers alone: what precedes them, and what follows their
    ends once they are written, counts as padding."""

    chat: Chat
    steps: Iterable[Step]
    starts: list[int]  # of each answer, in tokens
    last: Step | None = None  # as it was written

    def __iter__(self) -> Iterator[Step]:
        for step in self.steps:
            self.last, ids, gone = step, step.ids.clone(), step.padding.clone()
            ids[:, 0] = self.chat.tokenizer.bos_token_id  # which no view shows
            for row, start in enumerate(self.starts):
                gone[row, 1:start] = True
                if not step.masked[row].any():
                    gone[row, start + self.length(row) :] = True
            yield replace(step, ids=ids, padding=gone, frozen=step.frozen | gone)

    def ids(self, row: int) -> list[int]:
        """Of an answer, up to the token that ends it."""
        ids = self.last.ids[row][~self.last.padding[row]].tolist()[self.starts[row] :]
        return list(itertools.takewhile(lambda token: token not in self.chat.ends, ids))

    def text(self, row: int) -> str:
        """An answer as far as it is written."""
        return self._before_mark(self._decode(self.ids(row))).strip()

    def length(self, row: int) -> int:
        """Tokens of an answer that are shown, with the token that ends it, or up to a mark in words."""
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


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
