"""Text and tables for a terminal, at most 100 columns wide."""

import textwrap
from collections.abc import Sequence

WIDTH = 100
INDENT = " " * 4
Table = Sequence[Sequence[str]]


def wrapped(text: str) -> list[str]:
    """The lines of a text, those that are too long in several parts."""
    return [part for line in text.splitlines() for part in textwrap.wrap(line, WIDTH) or [""]]


def aligned(table: Table, names: int) -> list[str]:
    """The lines of a table whose first row is its head; the first ``names`` columns hold words, to
    the left, the others numbers, to the right.

    Where it is too wide, the cells of the head get several lines; where that is not enough, each
    row has a line of names and, indented below it, one or more of numbers.
    """
    if not table:
        return []
    for lines in (_lines(table, names), _lines(_low_head(table), names)):
        if max(map(len, lines)) <= WIDTH:
            return lines
    numbers = [table[0][names:], *([c.replace(" ± ", "±") for c in r[names:]] for r in table[1:])]
    numbers = _low_head(numbers)
    parts = [_lines([row[a:b] for row in numbers], 0) for a, b in _spans(numbers)]
    heads = len(numbers) - len(table) + 1
    out = [", ".join(filter(None, table[0][:names]))] if any(table[0][:names]) else []
    out += [INDENT + line for part in parts for line in part[:heads]]
    for i, row in enumerate(table[1:]):
        name = ", ".join(filter(None, row[:names]))
        out += textwrap.wrap(name, WIDTH, subsequent_indent=INDENT[:2])
        out += [INDENT + part[heads + i] for part in parts]
    return out


def _widths(rows: Table) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _lines(rows: Table, names: int) -> list[str]:
    widths = _widths(rows)
    return [
        "  ".join(
            cell.ljust(width) if i < names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _low_head(table: Table) -> list[Sequence[str]]:
    """The head as rows of words, so that no column is wider for its head than it must be."""
    head, *rows = table
    words = [max(map(len, cell.split()), default=1) for cell in head]
    widths = map(max, words, _widths(rows) if rows else words)
    most = WIDTH - len(INDENT)
    cells = [textwrap.wrap(cell, min(w, most)) for cell, w in zip(head, widths, strict=True)]
    height = max(map(len, cells))
    lowered = ([""] * (height - len(cell)) + cell for cell in cells)
    return [*zip(*lowered, strict=True), *rows]


def _spans(rows: Table) -> list[tuple[int, int]]:
    """(first, end) of the columns that share a line."""
    spans, first, used = [], 0, len(INDENT)
    for i, width in enumerate(_widths(rows)):
        used += width + 2 * (i > first)
        if used > WIDTH and i > first:
            spans.append((first, i))
            first, used = i, len(INDENT) + width
    return [*spans, (first, len(rows[0]))]
