"""Messages for the person at the terminal, and prompts: from the command line, from a pipe, or asked for
in a loop."""

import contextlib
import errno
import io
import os
import signal
import stat
import sys
from collections.abc import Callable, Sequence

from diffusion.cli.launch import is_first
from diffusion.cli.reading import decoded
from diffusion.errors import UserError, printable, sentence

# Ctrl-C, the system's wish that a process ends, and a terminal that is closed (not on Windows).
STOPS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


def prepare_streams() -> None:
    """Any text can be written, and what ends a process leaves the terminal in order."""
    # A text may hold any character, whatever the locale of the pipe.
    if isinstance(sys.stdout, io.TextIOWrapper):  # not in a notebook
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    # An exception, not sudden death: the live view puts the terminal back in order.
    for number in STOPS[1:]:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda number, frame: sys.exit(128 + number))


_bar = None


def progress(done: int, total: int, what: str = "drawing frame") -> None:
    """A bar on standard error, where that is a terminal, of the first of several processes; it ends
    when all is done."""
    global _bar
    if _bar is None:
        from tqdm import tqdm

        shown = is_first() and sys.stderr.isatty()
        _bar = tqdm(total=total, desc=what, leave=False, disable=not shown)
    _bar.set_description(what, refresh=False)
    _bar.update(done - _bar.n)
    if done >= total:
        _bar.close()
        _bar = None


def put(text: str, end: str = "\n") -> None:
    """On standard output: into a pipe as it is, on a terminal without what would steer it."""
    print(printable(text) if sys.stdout.isatty() else text, end=end, flush=True)


def say(message: str) -> None:
    """A line on standard error, from the first of several processes alone."""
    if is_first():
        with contextlib.suppress(OSError):  # a closed terminal must not end the work
            if _bar is not None:
                _bar.clear()
            print(printable(message), file=sys.stderr, flush=True)


_unread = False  # whether the reader of a pipe has gone


def unread() -> bool:
    """Whether a pipe that was written to has no reader any more, as after ``| head``; that counts as a
    closed terminal, which a process under nohup ignores."""
    hangup = getattr(signal, "SIGHUP", None)
    return _unread and (hangup is None or signal.getsignal(hangup) is not signal.SIG_IGN)


class _Lasting(io.FileIO):
    """A terminal or a pipe that may be closed: what is written then is lost, and no error."""

    def write(self, data) -> int:
        global _unread
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                raise
            _unread = _unread or error.errno == errno.EPIPE
            return len(data)


def outlive_readers() -> None:
    """From here on writing to a terminal or a pipe that was closed raises nothing. Before anything is
    imported that keeps a stream."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            closes = stream.isatty() or stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
        except (OSError, ValueError, AttributeError):  # a stream of another program
            closes = False
        if closes:
            file = io.BufferedWriter(_Lasting(stream.fileno(), "w", closefd=False))
            text = io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, text)


# Of the prompt loop of inference.py, which also takes them from a pipe.
TOUCH = ("tokens", "again", "fix", "undo")
COMMANDS = ("infill", "rewrite", *TOUCH, "set", "quit", "help")


def is_command(line: str, names: Sequence[str] = COMMANDS) -> bool:
    """Whether a line is one of the commands, such as ``/again 5-9``."""
    return line[:1] == "/" and line[1:].split(" ")[0].strip() in names


PROMPT_HELP = "Beginning of the text; else prompts are read from a pipe, or asked for."
QUESTION = "Beginning of a text{} (two empty lines: quit) > "


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
    try:  # bytes: a prompt may hold any character that ends a line of text but the newline
        lines = decoded(sys.stdin.buffer.read()).split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text ({error}); re-encode it") from None
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise UserError("no prompt on standard input; give one a line")
    return prompts


def question(example: str | None) -> str:
    """What the prompt loop asks, with a beginning that the model can continue."""
    return QUESTION.format(f", such as {example!r}" if example else "")


def ask(answer: Callable[[str], None], question: str) -> None:
    """Ask a question until two empty lines or Ctrl-D (EOFError), and answer each line that is not empty.
    Ctrl-C ends an answer, or empties the line; what is wrong with a line ends nothing."""
    with contextlib.suppress(ImportError):  # Windows has none: lines cannot be edited there
        import readline  # noqa: F401  (input() takes it: arrow keys, and the lines typed before)

    empty = 0
    while empty < 2:
        try:
            line = _input(question)
            empty = 0 if line.strip() else empty + 1
            if line.strip():
                answer(check_text(line))
        except EOFError:
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
