"""User-facing errors in one sentence, and text that is safe to print on a terminal."""

import contextlib
import errno
import os
import re
import signal
import sys
import time
from collections.abc import Callable

# Errors that say what a program looked for, not what is wrong with a file.
_INTERNAL = (AttributeError, LookupError, StopIteration, TypeError)


def cause(error: BaseException, most: int = 300) -> str:
    """What a library's error says and, after it, what the errors say that caused it, down to the
    innermost: the sentences of each that fit into ``most`` characters, on one line."""
    said: list[str] = []
    seen = error
    while seen is not None:
        text = " ".join(str(seen).split()).rstrip(" .:;,")
        text = re.sub(r"(\[[^][]{100}[^],]*),[^][]{100,}\]", r"\1, ...]", text)  # a long list
        if isinstance(seen, KeyError) or not text:
            text = f"{type(seen).__name__} {text}".strip()
        internal = said and isinstance(seen, _INTERNAL)
        if not internal and not any(text in other for other in said):
            said.append(_whole(text, most))
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return ": ".join(said)


def _whole(text: str, most: int) -> str:
    """The first sentences of a text that fit, or the first one."""
    ends = [found.start() for found in re.finditer(r"[.!?] (?=[^a-z])", text)]
    fitting = [end for end in ends if end <= most]
    return text if len(text) <= most or not ends else text[: max(fitting, default=ends[0])]


# Control codes, lone surrogates, line separators, bidirectional overrides.
_STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with tabs as spaces and every character that could steer a terminal or reorder a
    line written as a backslash escape. Newlines stay."""
    text = text.replace("\r\n", "\n").expandtabs(4)
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def sentence(message: str, most: int = 1000) -> str:
    """A message on one line, printable, its middle left out where it is long."""
    line = printable(" ".join(message.split()))
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


class UserError(Exception):
    """A wrong input. The message names the value, says what is allowed and what to do."""


def run(main: Callable[[], None]) -> None:
    """Run a script's ``main``: a `UserError` becomes one line on standard error and exit code 2,
    Ctrl-C exit code 130, and a reader that closes our pipe (``| head``) ends us quietly."""
    if sys.flags.optimize > 1 and os.environ.get("PYTHONOPTIMIZE") != "1":
        # transformers reads its own docstrings, which -OO drops: start anew with -O.
        os.environ["PYTHONOPTIMIZE"] = "1"
        words = (word for word in sys.orig_argv[1:] if word != "-OO")
        os.execv(sys.executable, [sys.executable, *words])
    interrupted: list[float] = []

    def interrupt(number, frame):
        interrupted.append(time.monotonic())
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (Exception, KeyboardInterrupt) as error:
        # A library that was being imported may make of a Ctrl-C what it likes.
        recent = interrupted and time.monotonic() - interrupted[-1] < 2
        if isinstance(error, KeyboardInterrupt) or (recent and not isinstance(error, UserError)):
            print("stopped", file=sys.stderr)
            sys.exit(130)
        if isinstance(error, UserError):
            said = sentence(str(error))
        elif getattr(error, "errno", None) == errno.ENOSPC:
            said = "the disk is full; free some space"
            with contextlib.suppress(OSError, ValueError):  # what is left cannot be written either
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        elif isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY):
            said = "there is not enough memory, or too little is allowed (ulimit -v); free some"
        else:
            raise
        print(f"{os.path.basename(sys.argv[0])}: {said}", file=sys.stderr)
        sys.exit(2)


# Of an object, of a library that is being loaded, of a tensor.
_NO_MEMORY = ("allocate memory", "failed to map segment", "out of memory")
