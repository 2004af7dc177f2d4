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

ROOT = Path(__file__).resolve().parents[2]

NASTY = [" <script>alert(1)</script>", " $x_1^2$", " 100%", " a\\b", " \"&amp;'", " </script>", "\n",
         " @@DATA@@", " \x1b[31m", " \ud800", " \\frac{"]  # fmt: skip


def records(out: str) -> list[dict]:
    return [json.loads(line) for line in out.split("\n") if line]


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
    """A terminal that knows the few sequences the live view may use, and refuses all others."""

    encoding = "utf-8"

    def __init__(self, columns, lines):
        super().__init__()
        self.size = ConsoleDimensions(columns, lines)
        self.screens = {False: {}, True: {}}  # main and alternate: (line, column) -> (text, style)
        self.alternate = False
        self.row = self.column = 0
        self.style = ""
        self.cursor = self.wraps = True
        self.scrolled = 0

    def isatty(self):
        return True

    @property
    def cells(self):
        return self.screens[self.alternate]

    def write(self, text):
        text = text.encode(self.encoding, "replace").decode(self.encoding)
        for match in re.finditer(r"\x1b\[(\??)([\d;]*)([A-Za-z])|(.)", text, re.DOTALL):
            private, numbers, letter, char = match.groups()
            if char is None:
                self.sequence(private + letter, numbers)
            else:
                self.put(char)
        return len(text)

    def sequence(self, letter, numbers):
        if letter == "H":
            row, column = (int(n) for n in (numbers or "1;1").split(";"))
            self.row, self.column = min(row, self.size.height) - 1, column - 1
        elif letter == "K" and numbers == "2":
            for place in [p for p in self.cells if p[0] == self.row]:
                del self.cells[place]
        elif letter == "J" and numbers == "":
            for place in [p for p in self.cells if p >= (self.row, self.column)]:
                del self.cells[place]
        elif letter == "m":
            self.style = "" if numbers in ("", "0") else numbers
        elif letter in ("?h", "?l"):
            on = letter == "?h"
            if numbers == "1049":
                self.alternate = on
                if on:
                    self.cells.clear()
                    self.saved = self.row, self.column
                else:
                    self.row, self.column = self.saved
            elif numbers == "25":
                self.cursor = on
            elif numbers == "7":
                self.wraps = on
            else:
                raise AssertionError(f"unknown mode {numbers}")
        else:
            raise AssertionError(f"unknown sequence {letter!r} {numbers!r}")

    def put(self, char):
        if char == "\n":
            self.row, self.column = self.row + 1, 0
            self.scrolled += self.alternate
            return
        assert unicodedata.category(char) != "Cc", (
            f"control character {char!r} reached the terminal"
        )
        width = 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if unicodedata.category(char) in ("Mn", "Me", "Cf"):
            left = max(p for p in self.cells if p[0] == self.row)
            self.cells[left] = (self.cells[left][0] + char, self.cells[left][1])
            return
        if self.column + width > self.size.width:
            assert self.wraps, f"{char!r} runs over the right edge in row {self.row}"
            self.row, self.column = self.row + 1, 0
        self.cells[self.row, self.column] = (char, self.style)
        self.column += width

    def lines(self):
        """What the screen shows, without spaces at the end of lines and empty lines at its end."""
        last = max((row for row, _ in self.cells), default=-1)
        out = []
        for row in range(last + 1):
            line, column = "", 0
            for (_, at), (text, _) in sorted(p for p in self.cells.items() if p[0][0] == row):
                line += " " * (at - column) + text
                column = at + (2 if unicodedata.east_asian_width(text[0]) in "WF" else 1)
            out.append(line.rstrip())
        while out and not out[-1]:
            out.pop()
        return out

    def style_of(self, word):
        """The style of the first cell of ``word``."""
        for row, line in enumerate(self.lines()):
            if word in line:
                column = cell_len(line[: line.index(word)])
                return self.cells[row, column][1]
        raise AssertionError(f"{word!r} is not on the screen: {self.lines()}")
