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
    columns = list(zip(*table, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    wide = sum(widths) + 2 * len(widths) > WIDTH + 2
    if wide:
        for i, (head, *cells) in enumerate(columns[names:], start=names):
            widths[i] = max(map(cell_len, [*head.split(), *cells]), default=1)
    fixed = sum(min(width, NAME) + 2 for width in widths[:names])
    parts: list[list[int]] = [[]]
    for i in range(names, len(columns)):
        if parts[-1] and fixed + sum(widths[j] + 2 for j in [*parts[-1], i]) > WIDTH + 2:
            parts.append([])
        parts[-1].append(i)
    console = Console(file=io.StringIO(), width=WIDTH + 2, color_system=None)
    for part in parts if table else ():
        room = (WIDTH + 2 - sum(widths[i] + 2 for i in part)) // max(1, names) - 2
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for i in [*range(names), *part]:
            side = "left" if i < names else "right"
            width = min(widths[i], room) if wide and i < names else widths[i]
            grid.add_column(Text(columns[i][0]), justify=side, width=width, overflow="fold")
        for row in table[1:]:
            grid.add_row(*(Text(row[i]) for i in [*range(names), *part]))
        console.print(grid)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]
