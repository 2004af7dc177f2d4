"""Prompts: from the command line, a pipe, or the question."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from diffusion.cli.console import say
from diffusion.cli.options import WritingOptions
from diffusion.cli.show import Output, write_texts
from diffusion.errors import UserError
from diffusion.options import at_least
from diffusion.views.animation import check_animation_path, check_display


def check(script: WritingOptions, prompt: str | None, edits: bool = False) -> None:
    """Everything that can be refused before a model is loaded; ``edits``: the text to work on is
    given by a flag."""
    at_least("--num_samples", script.num_samples, 1)
    at_least("--batch_size", script.batch_size, 1)
    if prompt is not None:
        if script.unconditional:
            raise UserError(
                "--unconditional writes from nothing; leave out the prompt, or the flag"
            )
        check_prompt(prompt)
    if script.save_animation is not None:
        check_animation_path(script.save_animation)
    if script.show:
        check_display()
    one_text = (prompt is not None or script.unconditional or edits) and script.num_samples == 1
    if (script.save_animation or script.show) and not one_text:
        flag = "--save_animation" if script.save_animation else "--show"
        if edits:
            raise UserError(
                f"{flag} animates one text, and --num_samples {script.num_samples} writes several; "
                "leave out one of the two"
            )
        raise UserError(
            f"{flag} animates one text; give one prompt (or --unconditional) and one sample"
        )
    if script.output is not None:
        folder = Path(script.output).absolute().parent
        bad = not script.output or Path(script.output).is_dir() or not folder.is_dir()
        if bad or not os.access(folder, os.W_OK):
            raise UserError(f"--output {script.output!r} cannot be written; give a file in a folder "
                            "that can")  # fmt: skip
        # The folder alone would allow it: a file is replaced whole.
        if Path(script.output).exists() and not os.access(script.output, os.W_OK):
            raise UserError(
                f"--output {script.output!r} is read-only; give another file, or make it writable"
            )
        if script.save_animation and same_file(script.output, script.save_animation):
            raise UserError(
                f"--output and --save_animation are both {script.output!r}; give two files"
            )


def same_file(one: str, other: str) -> bool:
    """Whether two names, of which a file may not exist yet, are of one file."""
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return Path(one).resolve() == Path(other).resolve()


def check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise UserError("the prompt is empty; give the beginning of a text")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError("the prompt is not UTF-8 text; re-encode it as UTF-8") from None


def piped_prompts() -> list[str]:
    """The non-empty lines of standard input."""
    try:
        lines = sys.stdin.buffer.read().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not UTF-8 text (byte {error.start}); re-encode it as UTF-8"
        ) from None
    prompts = [line.removesuffix("\r") for line in lines if line.strip()]
    if not prompts:
        raise UserError("no prompt on standard input; give one a line")
    return prompts


PROMPT_HELP = "Beginning of the text. Without one it is asked for, or read from a pipe."
QUESTION = "\nBeginning of a text (some {} tokens, or more; empty line: quit) > "


def interactive(writer, generation, script, output: Output) -> None:
    """Ask for beginnings, and write."""
    ask(lambda p: write_texts(writer, [p], generation, script, output), generation.prefix_len)


def ask(answer: Callable[[str], None], prefix_len: int) -> None:
    """Ask for beginnings until an empty line or Ctrl-D, and ``answer`` each."""
    while True:
        try:
            # Not by input(): with a redirected standard output the question would go there.
            print(QUESTION.format(prefix_len), end="", file=sys.stderr, flush=True)
            prompt = input()
        except EOFError:
            say("")
            return
        except UnicodeDecodeError:
            say("that line is not UTF-8 text; try again")
            continue
        if not prompt.strip():
            return
        try:
            check_prompt(prompt)
            answer(prompt)
        except UserError as error:  # a prompt that is too long ends nothing
            say(str(error))
