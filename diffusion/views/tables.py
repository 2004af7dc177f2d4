"""Text and tables for a terminal, at most 100 columns wide."""

import io
import textwrap
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 100
NAME = 24  # columns that a name has at least, if it needs them


def wrapped(text: str) -> list[str]:
    """The lines of a text, those that are too long in several parts."""
    return [part for line in text.splitlines() for part in textwrap.wrap(line, WIDTH) or [""]]


def aligned(table: Sequence[Sequence[str]], names: int) -> list[str]:
    """The lines of a table whose first row is its head; the first ``names`` columns hold words, to
    the left, the others numbers, to the right. Where it is too wide, long words and heads take
    several lines, and columns that still do not fit follow below, beside the names again."""
    if not table:
        return []
    head, *rows = table
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= WIDTH:
        return _lines(table, widths, names)
    least = [
        max(map(cell_len, [*title.split(), *(row[i] for row in rows)]), default=1)
        for i, title in enumerate(head)
    ]
    fixed = sum(min(width, NAME) + 2 for width in widths[:names])
    parts: list[list[int]] = [[]]
    for i in range(names, len(head)):
        if parts[-1] and fixed + sum(least[j] + 2 for j in [*parts[-1], i]) > WIDTH + 2:
            parts.append([])
        parts[-1].append(i)
    lines = []
    for part in parts:
        room = (WIDTH + 2 - sum(least[i] + 2 for i in part)) // max(1, names) - 2
        columns = [*range(names), *part]
        given = [min(widths[i], room) if i < names else least[i] for i in columns]
        lines += _lines([[row[i] for i in columns] for row in table], given, names)
    return lines


def _lines(table: Sequence[Sequence[str]], widths: list[int], names: int) -> list[str]:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, (title, width) in enumerate(zip(table[0], widths, strict=True)):
        side = "left" if i < names else "right"
        grid.add_column(Text(title), justify=side, width=width, overflow="fold")
    for row in table[1:]:
        grid.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=WIDTH + 2, color_system=None)
    console.print(grid)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]
