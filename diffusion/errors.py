"""Mistakes a user can mend, told in one sentence."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable


def first_line(error: Exception) -> str:
    """What a library's error says, short enough for one sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(" .")


class UserError(Exception):
    """A wrong input. The message names the value, says what is allowed and what to do."""


def run(main: Callable[[], None]) -> None:
    """Run a script's ``main``: a `UserError` becomes one line on standard error and exit code 2,
    Ctrl-C exit code 130, and a reader that closes our pipe (``| head``) ends us quietly."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        with contextlib.suppress(OSError, ValueError):  # what is left cannot be written either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(
            f"{os.path.basename(sys.argv[0])}: the disk is full; free some space", file=sys.stderr
        )
        sys.exit(2)
