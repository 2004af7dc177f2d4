"""Prompts: from the command line, from a pipe, or asked for in a loop."""

import contextlib
import sys
from collections.abc import Callable, Iterable

from diffusion.cli.console import say
from diffusion.errors import UserError, sentence
from diffusion.text import folds_case, unknown

with contextlib.suppress(ImportError):  # Windows has none: lines cannot be edited there
    import readline  # noqa: F401  (input() takes it: arrow keys, and the lines typed before)

PROMPT_HELP = "Beginning of the text; else prompts are read from a pipe, or asked for."
QUESTION = "Beginning of a text (some {} tokens, or more; two empty lines: quit) > "


def check_text(text: str, what: str = "the prompt") -> str:
    """The text; `UserError` if it is empty, or holds bytes that are no UTF-8."""
    if not text.strip():
        raise UserError(f"{what} is empty; give some text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{what} is not UTF-8 text; re-encode it as UTF-8") from None
    return text


def given_prompts(prompt: str | None, unconditional: bool) -> list[str] | None:
    """The one of the command line, an empty one to write from nothing, the non-empty lines of a
    pipe, or None where somebody sits at a terminal and can be asked."""
    if unconditional or prompt is not None:
        return [prompt or ""]
    if sys.stdin.isatty():
        return None
    prompts = []
    # Bytes: a prompt may hold any character that ends a line of text but the newline.
    for number, line in enumerate(sys.stdin.buffer.read().split(b"\n"), start=1):
        try:
            prompts.append(line.decode("utf-8-sig").removesuffix("\r"))
        except UnicodeDecodeError:
            raise UserError(
                f"line {number} of standard input is not UTF-8 text; re-encode it as UTF-8"
            ) from None
    prompts = [prompt for prompt in prompts if prompt.strip()]
    if not prompts:
        raise UserError("no prompt on standard input; give one a line")
    return prompts


def note_unknown(tokenizer, name: str, texts: Iterable[str]) -> None:
    """Say so where the tokenizer of a model has no tokens for parts of given texts."""
    found = dict.fromkeys(part for text in texts for part in unknown(tokenizer, text))
    if found:
        some = ", ".join(map(repr, list(found)[:5])) + (", ..." if len(found) > 5 else "")
        say(
            f"note: the tokenizer of {name} does not know {some}; the model reads "
            f"{tokenizer.unk_token} there"
        )


def note_case(tokenizer, name: str) -> None:
    """Say so where a model sees no capitals, and writes none."""
    if folds_case(tokenizer):
        say(
            f"note: {name} reads and writes small letters only; what you give is shown as you "
            "typed it"
        )


class Quit(Exception):
    """Ends `ask`."""


def ask(answer: Callable[[str], None], question: str) -> None:
    """Ask a question until two empty lines, Ctrl-D or a `Quit`, and answer what is typed.

    Ctrl-C ends an answer, or empties the line; what is wrong with a line ends nothing.

    Args:
        answer: called with each line that is not empty.
        question: shown before each line, such as `QUESTION.format(prefix_len)`.
    """
    empty = 0
    while empty < 2:
        try:
            line = _input(question)
            empty = 0 if line.strip() else empty + 1
            if line.strip():
                answer(check_text(line))
        except (EOFError, Quit):
            say("")
            return
        except KeyboardInterrupt:
            say("\nstopped; two empty lines or Ctrl-D end")
        except UnicodeDecodeError:
            say("that line is not UTF-8 text; try again")
        except UserError as error:  # a prompt that is too long
            say(sentence(str(error)))


def _input(question: str) -> str:
    if sys.stdout.isatty():  # readline has to know the question, or it draws over it
        print(flush=True)
        return input(question)
    # With a redirected standard output the question would go there.
    print(f"\n{question}", end="", file=sys.stderr, flush=True)
    return input()
