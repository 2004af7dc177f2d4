"""What is said to the person at the terminal, and how."""

import os
import signal
import sys


def prepare_streams() -> None:
    """Any text can be written, and SIGTERM leaves the terminal in order."""
    # A text may hold any character, whatever the locale of the pipe.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(
            **({"errors": "replace"} if sys.stdout.isatty() else {"encoding": "utf-8"})
        )
    # An exception, not sudden death: the live view puts the terminal back in order.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))


def progress(done: int, total: int, what: str = "drawing frame") -> None:
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        print(f"\r{what} {done}/{total}", end=end, file=sys.stderr, flush=True)


def say(message: str) -> None:
    """One line to standard error; of several processes of a training the first one speaks."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(message, file=sys.stderr, flush=True)
