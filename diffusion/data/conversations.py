"""Conversations, by a tokenizer's chat template -> blocks in which only the answers are learned."""

import re
from collections.abc import Iterable

import torch

from diffusion.cli.console import say
from diffusion.data import corpus
from diffusion.data.packing import ANSWER, CONTEXT, PADDING, Blocks
from diffusion.data.report import Report
from diffusion.errors import UserError, cause

_FORM = '{"messages": [{"role": "user", "content": "..."}, ...]}'
_TYPED, _ANSWER = "\ue000", "\ue001"  # around special tokens in a message; replaces an answer

Messages = list[dict[str, str]]


def load_conversations(
    name: str,
    split: str = "train",
    config: str | None = None,
    *,
    column: str = "messages",
    revision: str | None = None,
    report: Report | None = None,
) -> list[Messages]:
    """The conversations of a data set: JSON lines, another table that can hold lists, a folder, or a name
    on the hub.

    Args:
        column: it holds a list of ``{"role": ..., "content": ...}`` in each row.
        report: is filled; ``column`` and ``name`` are set here.

    Raises:
        UserError: missing, unreadable, or too many rows that are no conversation.
    """
    report = Report() if report is None else report
    report.unit = "conversation"
    return corpus.load_records(
        name, split, _messages, "conversation", "conversations", _FORM,
        reader="--chat", config=config, column=column, revision=revision, report=report,
    )  # fmt: skip


def _messages(row) -> Messages | None:
    """The messages of a row; None where it is no conversation."""
    try:
        found = [{part: message[part] for part in ("role", "content")} for message in row]
        for message in found:
            "".join(message.values()).encode("utf-8")  # nor half a character
    except (TypeError, KeyError, UnicodeEncodeError):
        return None
    return found


class Template:
    """The chat template of a tokenizer. Special tokens that a message spells stay words. An answer is
    learned up to the ``mark`` of its end: a ``token`` or, if that is None, words.

    Raises:
        UserError: there is none, or one that writes nothing after an answer.
    """

    def __init__(self, tokenizer):
        self.tokenizer, self.name = tokenizer, tokenizer.name_or_path or "the model"
        if not tokenizer.chat_template:
            raise UserError(
                f"the tokenizer of {self.name} has no chat template; set one, or leave out --chat"
            )
        added = tokenizer.added_tokens_decoder
        specials = {token.content for token in added.values() if token.special}
        longest_first = sorted(specials, key=len, reverse=True)
        self.specials = re.compile("|".join(map(re.escape, longest_first)))
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
        self.after = self._render(turns, "--chat").partition(_ANSWER)[2]
        self.token, self.mark = None, self.after.strip().partition("\n")[0]
        first = next(iter(self._plain(self.mark)), None)
        if first is None:
            raise UserError(
                f"the chat template of {self.name} writes nothing after an answer; a model learns "
                "where one ends from a token there"
            )
        if first in added:
            self.token, self.mark = first, added[first].content
        self.end = self.after.index(self.mark) + len(self.mark)

    def prompt(self, messages: Messages) -> list[int]:
        """The ids of a conversation up to its next answer."""
        return self._ids(self._render(self._marked(messages), "--chat", answer_next=True))

    def segments(self, messages: Messages, where: str) -> Iterable[tuple[list[int], list[int]]]:
        """For each answer the ids of the new text before it, and of the answer; a first message of the
        assistant is text.

        Raises:
            UserError: the template refuses the conversation, or changes a turn when others follow.
        """
        marked = self._marked(messages)
        written, at = "", 0
        for i, message in enumerate(messages):
            if i == 0 or message["role"] != "assistant":
                continue
            before = self._render(marked[:i], where, answer_next=True)
            through = self._render(marked[: i + 1], where)
            grows = before.startswith(written) and through.startswith(before)
            if not (grows and through.endswith(self.after)):
                raise UserError(
                    f"{where}: the chat template of {self.name} changes a conversation when it "
                    "continues; use another template"
                )
            stop = len(through) - len(self.after) + self.end
            yield self._ids(before[at:]), self._ids(through[len(before) : stop])
            written, at = through, stop

    def _marked(self, messages: Messages) -> Messages:
        """The messages with `_TYPED` around what spells a special token."""

        def mark(text: str) -> str:
            return self.specials.sub(rf"{_TYPED}\g<0>{_TYPED}", text.replace(_TYPED, ""))

        return [{**m, "content": mark(m["content"])} for m in messages]

    def _ids(self, text: str) -> list[int]:
        ids = []
        for i, part in enumerate(text.split(_TYPED)):
            ids += self._plain(part, split_special_tokens=True) if i % 2 else self._plain(part)
        return ids

    def _plain(self, text: str, **how) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False, **how)["input_ids"]

    def _render(self, messages: Messages, where: str, answer_next: bool = False) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answer_next
            )
        except Exception as error:  # a template may raise what it likes
            raise UserError(
                f"{where}: the chat template of {self.name} refuses the conversation: "
                f"{cause(error)}"
            ) from None


def pack_conversations(
    conversations: list[Messages],
    tokenizer,
    block_size: int,
    what: str = "data set",
    most: int | None = None,
) -> Blocks:
    """The first ``most`` conversations, one per block, padded, and cut after the last answer that fits;
    those without one are left out. Both are reported.

    Raises:
        UserError: none is left; see `Template`.
    """
    template = Template(tokenizer)
    pad = tokenizer.pad_token_id
    rows, kinds, cut, out = [], [], 0, 0
    for number, messages in enumerate(conversations[:most], 1):
        ids, kind = [], []
        for text, answer in template.segments(messages, f"conversation {number}"):
            if len(ids) + len(text) + len(answer) > block_size:
                cut += bool(ids)
                break
            ids += text + answer
            kind += [CONTEXT] * len(text) + [ANSWER] * len(answer)
        if not ids:
            out += 1
            continue
        free = block_size - len(ids)
        rows.append(ids + [pad] * free)
        kinds.append(kind + [PADDING] * free)
    if cut or out:
        say(
            f"note: of {number} conversations {cut} were cut after an answer at --block_size "
            f"{block_size}, and {out} left out, in which no answer fits"
        )
    if not rows:
        raise UserError(
            f"the {what} has no conversation with an answer that fits into {block_size} tokens; "
            "increase --block_size"
        )
    return Blocks(torch.tensor(rows, dtype=torch.int32), torch.tensor(kinds, dtype=torch.int8))
