"""Conversations: the tokenizer's chat template formats the turns and the question, and a span of masks
after them becomes the answer."""

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from diffusion.canvas import Step, written_ids
from diffusion.cli.console import say
from diffusion.data.conversations import Template as ChatTemplate
from diffusion.editing.canvases import TO_WRITE, canvas_of
from diffusion.editing.options import EditingOptions
from diffusion.editing.templates import short
from diffusion.errors import UserError

if TYPE_CHECKING:
    from diffusion.job import Job


class Chat:
    """A model that answers questions. The texts of the job's writer end where answers end.

    Raises:
        UserError: the tokenizer has no chat template, or one that fails for a question.
    """

    def __init__(self, job: "Job", editing: EditingOptions):
        self.job, writer = job, job.writer
        self.template, self.tokenizer = ChatTemplate(writer.tokenizer), writer.tokenizer
        self.system = [_message("system", editing.system)] if editing.system is not None else []
        end, self.ends = self.template.token, {self.tokenizer.eos_token_id}
        self.mark = self.template.mark if end is None else ""  # that ends an answer in words
        if end is not None and end not in self.ends:
            self.ends.add(end)
            self.tokenizer = copy.deepcopy(self.tokenizer)
            self.tokenizer.eos_token = self.tokenizer.convert_ids_to_tokens(end)
            denoiser = writer.denoiser.allowing(end)
            job.writer = replace(writer, tokenizer=self.tokenizer, denoiser=denoiser)

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
            say(f"note: {lost // 2} of the oldest turns no longer fit --max_len and are dropped")
        (text,) = self.answer([(messages, ids)], [sample])
        return [*messages[len(self.system) :], _message("assistant", text)]

    def fit(self, turns: list[dict], question: str) -> tuple[list[dict], list[int]]:
        """The messages with the latest of ``turns`` that leave room for an answer, and their ids.

        An answer needs ``--length`` tokens, else a quarter of ``--max_len`` if turns can be dropped.
        """
        options = self.job.generation
        while True:
            messages = [*self.system, *turns, _message("user", question)]
            ids = self.template.prompt(messages)
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

    def answer(self, conversations: Sequence[tuple[list, list]], samples: Sequence) -> list[str]:
        """Write and show an answer to each of several conversations (messages, their ids)."""
        options = self.job.ready()
        rows = [
            torch.tensor(ids + [TO_WRITE] * (options.length or options.max_len - len(ids)))
            for _, ids in conversations
        ]
        canvas, texts = canvas_of(self.tokenizer, rows), {}
        steps = self.job.writer.denoise(canvas, options, samples, may_end=True)

        def record(step: Step, row: int, facts: dict) -> dict:
            messages = [*conversations[row][0], _message("assistant", texts[row])]
            return {"messages": messages, **facts, "text": texts[row], "ids": facts["ids"][1:]}

        answers = self.alone(steps, [len(ids) for _, ids in conversations], texts)
        return self.job.show(answers, [record] * len(rows), samples)

    def alone(self, steps: Iterable[Step], starts: list[int], texts: dict) -> Iterator[Step]:
        """The Steps with the answers alone, from the tokens ``starts`` on: what precedes them, and
        what follows their ends once they are written, counts as padding. ``texts`` receives each
        answer as far as it is written, by row."""
        for step in steps:
            ids, gone = step.ids.clone(), step.padding.clone()
            ids[:, 0] = self.tokenizer.bos_token_id  # which no view shows
            for row, start in enumerate(starts):
                texts[row], shown = self.read(written_ids(step, row)[start:])
                gone[row, 1:start] = True
                if not step.masked[row].any():
                    gone[row, start + shown :] = True
            yield replace(step, ids=ids, padding=gone, frozen=step.frozen | gone)

    def read(self, ids: list[int]) -> tuple[str, int]:
        """(the text of an answer, how many of its tokens are shown: with the token that ends it, or
        up to a mark in words)."""
        ids = list(itertools.takewhile(lambda token: token not in self.ends, ids))
        how = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        text = self.tokenizer.decode(ids, **how)
        answer = text.partition(self.mark)[0] if self.mark else text
        if answer == text:
            return answer.strip(), len(ids) + 1
        lengths = [len(self.tokenizer.decode(ids[:n], **how)) for n in range(len(ids))]
        return answer.strip(), max(n for n, m in enumerate(lengths) if m <= len(answer))


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
