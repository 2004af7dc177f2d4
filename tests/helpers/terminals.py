"""Terminals for tests: one that understands the live view, one of a process, and what to feed them."""

import io
import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions

from diffusion.views.frames import Frame, State

ROOT = Path(__file__).resolve().parents[2]

NASTY = [" <script>alert(1)</script>", " $x_1^2$", " 100%", " a\\b", " \"&amp;'", " </script>", "\n",
         " @@DATA@@", " \x1b[31m", " \ud800", " \\frac{"]  # fmt: skip


def frame(*cells, index=1, total=10, seconds=0.25, **other) -> Frame:
    """A frame from (piece, state) pairs; a bare string is a settled piece, None a mask."""
    pairs = [("", State.MASKED) if cell is None else cell if isinstance(cell, tuple)
             else (cell, State.SETTLED) for cell in cells]  # fmt: skip
    pieces, states = [p for p, _ in pairs], [s for _, s in pairs]
    return Frame(pieces, states, index, total, index, seconds, **other)


def records(out: str) -> list[dict]:
    return [json.loads(line) for line in out.split("\n") if line]


def refused(script: str, found: tuple[int, str, str], named: str) -> None:
    """Checks that a script ended with exit code 2 and one sentence, and wrote nothing."""
    code, out, err = found
    said = [line for line in err.splitlines() if line.startswith(f"{script}.py: ")]
    assert (code, out, len(said)) == (2, "", 1), err
    assert named in said[0] and "Traceback" not in err


def in_a_terminal(script: str, model, typed: bytes) -> bytes:
    """What a terminal shows of the interactive loop of a script."""
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, script, "--model", str(model), "--max_len", "24"],
        stdin=side,
        stdout=side,
        stderr=side,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(side)
    os.write(terminal, typed)
    seen = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(terminal)
    assert process.wait(timeout=60) == 0, seen
    return seen


def fake_terminals(monkeypatch) -> type:
    """`FakeTerminal`, with rich taking its size and a live view drawing on it."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(Console, "size", property(lambda self: self.file.size))
    return FakeTerminal


class FakeTerminal(io.StringIO):
    """Keeps what a live view writes, which may use few sequences: line after line, from the first."""

    encoding = "utf-8"

    def __init__(self, columns, lines):
        super().__init__()
        self.size = ConsoleDimensions(columns, lines)

    def isatty(self):
        return True

    def is_on(self, mode: str) -> bool:
        """Whether the last that was said of a mode, such as 1049 (the alternate screen), is on."""
        raw = self.getvalue()
        return raw.rfind(f"\x1b[?{mode}h") > raw.rfind(f"\x1b[?{mode}l")

    def last(self) -> str:
        """What was written since the screen was last begun, styles included."""
        last = re.split(r"\x1b\[1;1H|\x1b\[\?1049[hl]", self.getvalue())[-1]
        return re.sub(r"\x1b\[\d+;1H", "\n", last)

    def lines(self) -> list[str]:
        """What the screen shows, without spaces at the end of lines and empty lines at its end."""
        text = re.sub(r"\x1b\[([\d;]*m|\?25[hl])", "", self.last())
        wrong = [char for char in text if unicodedata.category(char) == "Cc" and char != "\n"]
        assert not wrong, f"{wrong} reached the terminal"
        lines = [line.rstrip() for line in text.split("\n")]
        assert all(cell_len(line) <= self.size.width for line in lines)
        assert len(lines) <= self.size.height or not self.is_on("1049")  # nothing scrolls
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def style_of(self, word) -> str:
        """The style in which a word begins."""
        before = self.last().split(word)[0]
        assert before != self.last(), f"{word!r} is not on the screen"
        return re.split(r"\x1b\[([\d;]*)m", f"\x1b[m{before}")[-2].removeprefix("0")
