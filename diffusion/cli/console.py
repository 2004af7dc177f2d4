"""Messages for the person at the terminal."""

import contextlib
import errno
import io
import os
import signal
import stat
import sys

from diffusion.errors import printable

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

        shown = _is_first() and sys.stderr.isatty()
        _bar = tqdm(total=total, desc=what, leave=False, disable=not shown)
    _bar.set_description(what, refresh=False)
    _bar.update(done - _bar.n)
    if done >= total:
        _bar.close()
        _bar = None


def put(text: str, end: str = "\n") -> None:
    """On standard output: into a pipe as it is, on a terminal without what would steer it."""
    print(printable(text) if sys.stdout.isatty() else text, end=end, flush=True)


def say(message: str, styled: bool = False) -> None:
    """A line on standard error, from the first of several processes alone; ``styled``: it is
    printable already, but for its colours."""
    if _is_first():
        with contextlib.suppress(OSError):  # a closed terminal must not end the work
            if _bar is not None:
                _bar.clear()
            print(message if styled else printable(message), file=sys.stderr, flush=True)


class _Lasting(io.FileIO):
    """A terminal that may be closed: what is written then is lost, and no error."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            let_go_of_terminal()
            return len(data)


def outlive_terminal() -> None:
    """From here on writing to a terminal that was closed raises nothing. Before anything is imported
    that keeps a stream."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream.isatty():
            file = io.BufferedWriter(_Lasting(stream.fileno(), "w", closefd=False))
            text = io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, text)


def let_go_of_terminal() -> None:
    """What is written to a terminal from here on is lost: it was closed, and would raise errors."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                os.dup2(nothing, stream.fileno())
    os.close(nothing)


def _is_first() -> bool:
    return int(os.environ.get("RANK", 0)) == 0
