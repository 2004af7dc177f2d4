"""User-facing errors in one sentence, and text that is safe to print on a terminal."""

import contextlib
import errno
import os
import signal
import sys
import time
import unicodedata
from collections.abc import Callable


def first_line(error: Exception) -> str:
    """What a library's error says, short enough for one sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(" .")


def printable(text: str) -> str:
    """The text with tabs as spaces and every character that could steer a terminal or reorder a
    line (control codes, line separators, bidirectional overrides, lone surrogates) written as a
    backslash escape. Newlines stay."""
    return "".join(
        _escape(char) if not (" " <= char <= "~") else char
        for char in text.replace("\r\n", "\n").expandtabs(4)
    )


def _escape(char: str) -> str:
    steers = unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
    reorders = unicodedata.bidirectional(char) in _BIDI_CONTROLS
    if char == "\n" or not (steers or reorders):
        return char
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"


_BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def sentence(message: str, most: int = 1000) -> str:
    """A message on one line, printable, its middle left out where it is long."""
    line = printable(" ".join(message.split()))
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


class UserError(Exception):
    """A wrong input. The message names the value, says what is allowed and what to do."""


def run(main: Callable[[], None]) -> None:
    """Run a script's ``main``: a `UserError` becomes one line on standard error and exit code 2,
    Ctrl-C exit code 130, and a reader that closes our pipe (``| head``) ends us quietly."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    interrupted: list[float] = []

    def interrupt(number, frame):
        interrupted.append(time.monotonic())
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        print(f"{os.path.basename(sys.argv[0])}: {sentence(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        # A library that was being imported may make of a Ctrl-C what it likes.
        if interrupted and time.monotonic() - interrupted[-1] < 2:
            print("stopped", file=sys.stderr)
            sys.exit(130)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            with contextlib.suppress(OSError, ValueError):  # what is left cannot be written either
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            message = "the disk is full; free some space"
        elif _no_memory(error):
            message = "there is not enough memory, or too little is allowed (ulimit -v); free some"
        else:
            raise
        print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
        sys.exit(2)


def _no_memory(error: Exception) -> bool:
    """Whether memory has run out: for an object, a tensor, or a library that is being loaded."""
    signs = ("allocate memory", "failed to map segment", "out of memory")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
