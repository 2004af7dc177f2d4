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
    the left, the others numbers, to the right. Long words and heads take several lines, and columns
    that do not fit follow below, beside the names again."""
    if not table:
        return []
    widths = [
        max(map(cell_len, column), default=1) for column in zip(*(table[1:] or table), strict=True)
    ]
    widths[:names] = [min(width, NAME) for width in widths[:names]]
    first = used = sum(width + 2 for width in widths[:names])
    parts: list[list[int]] = [[]]
    for i, width in enumerate(widths[names:], start=names):
        if parts[-1] and used + width > WIDTH:
            parts.append([])
            used = first
        parts[-1].append(i)
        used += width + 2
    return [line for part in parts for line in _lines(table, widths, names, part)]


def _lines(table, widths: list[int], names: int, part: list[int]) -> list[str]:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    columns = [*range(names), *part]
    for i in columns:
        side = "left" if i < names else "right"
        least = {"min_width": widths[i], "overflow": "fold", "vertical": "bottom"}
        grid.add_column(Text(table[0][i]), justify=side, **least)
    for row in table[1:]:
        grid.add_row(*(Text(row[i]) for i in columns))
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    console.print(grid)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]
