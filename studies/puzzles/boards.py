"""Puzzles as texts: Sudoku of three sizes and paths in a graph, generated from a seed, and checked exactly.

A solved puzzle is a text whose characters are one token each. Some are given, in a puzzle the others are
shown as `BLANK`. Every puzzle has exactly one solution. Two solved puzzles are of one *class* if they differ
only in the names of their symbols: `test_class` puts each class into training or test, never both.

A Sudoku of 6x6 is six lines of six digits. A path is a list of arrows, in random order, and the nodes from
its first to its last, which are given:

    ac,fe,cb,fa,eg
    f..b
"""

import itertools
import math
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

BLANK = "."
FEWEST, MOST = 0.3, 0.45  # clues, as a share of the cells of a Sudoku
TEST_SHARE = 8  # one class in so many is for tests


def canonical(text: str, symbols: str) -> str:
    """A solved puzzle with its symbols renamed in the order in which they first occur: the same for all
    members of a class."""
    found = "".join(dict.fromkeys(c for c in text if c in symbols))
    return text.translate(str.maketrans(found, symbols[: len(found)]))


def test_class(text: str, symbols: str) -> bool:
    """Whether the class of a solved puzzle is for tests, from a checksum of its canonical text."""
    return zlib.crc32(canonical(text, symbols).encode()) % TEST_SHARE == 0


test_class.__test__ = False  # no test of pytest


def hide(text: str, given: list[bool]) -> str:
    """The puzzle of a solved text."""
    return "".join(c if known else BLANK for c, known in zip(text, given, strict=True))


@dataclass(frozen=True)
class Sudoku:
    """Boards of n x n cells, n = height * width of a box; every row, column and box has each digit once."""

    height: int
    width: int

    size = property(lambda self: self.height * self.width)
    symbols = property(lambda self: "123456789"[: self.size])

    @cached_property
    def units(self) -> list[tuple[int, int, int]]:
        """Of each cell the numbers of its row, column and box, out of 3n."""
        n, found = self.size, []
        for cell in range(n * n):
            row, column = divmod(cell, n)
            box = row // self.height * self.height + column // self.width
            found.append((row, n + column, 2 * n + box))
        return found

    def solutions(self, cells: list[int], draw: random.Random | None = None) -> Iterator[list[int]]:
        """All solutions of a board, 0 for an empty cell; with ``draw`` in random order."""
        used = [0] * (3 * self.size)  # bits of the digits in each unit
        for cell, digit in enumerate(cells):
            for unit in self.units[cell] if digit else ():
                if used[unit] >> digit & 1:
                    return
                used[unit] |= 1 << digit
        empty = [cell for cell, digit in enumerate(cells) if not digit]
        if draw is not None:
            draw.shuffle(empty)
        yield from self._search(list(cells), used, empty, draw)

    def _search(self, cells, used, empty, draw) -> Iterator[list[int]]:
        """Try the digits of the cell that has fewest."""
        if not empty:
            yield list(cells)
            return
        full, fewest = (2 << self.size) - 2, self.size + 1
        for cell in empty:
            row, column, box = self.units[cell]
            free = full & ~(used[row] | used[column] | used[box])
            if (count := free.bit_count()) < fewest:
                fewest, here, options = count, cell, free
                if count < 2:
                    break
        digits = [digit for digit in range(1, self.size + 1) if options >> digit & 1]
        if draw is not None:
            draw.shuffle(digits)
        rest = [cell for cell in empty if cell != here]
        for digit in digits:
            for unit in self.units[here]:
                used[unit] ^= 1 << digit
            cells[here] = digit
            yield from self._search(cells, used, rest, draw)
            for unit in self.units[here]:
                used[unit] ^= 1 << digit
        cells[here] = 0

    def solution(self, draw: random.Random) -> str:
        """A solved board. All can occur, but not all are equally probable."""
        cells = next(self.solutions([0] * self.size**2, draw))
        lines = [cells[i : i + self.size] for i in range(0, len(cells), self.size)]
        return "\n".join("".join(map(str, line)) for line in lines)

    def given(self, text: str, draw: random.Random) -> list[bool] | None:
        """Which characters are given, with a random number of clues from `FEWEST` to `MOST`. Cells are emptied
        in random order, as long as every other digit there leads to no solution. None where that ends with
        more than `MOST`."""
        cells = self.read(text)
        order = draw.sample(range(len(cells)), len(cells))
        most = math.floor(MOST * len(cells))
        clues, left = draw.randint(math.ceil(FEWEST * len(cells)), most), len(cells)
        for cell in order:
            if left == clues:
                break
            digit = cells[cell]
            for other in range(1, self.size + 1):
                cells[cell] = other
                if other != digit and next(self.solutions(cells), None):
                    cells[cell] = digit
                    break
            else:
                cells[cell], left = 0, left - 1
        known = iter(cells)
        return [c == "\n" or next(known) > 0 for c in text] if left <= most else None

    def read(self, text: str) -> list[int]:
        """The digits of a board, 0 for a blank; other characters than line breaks are -1."""
        digits = BLANK + self.symbols
        return [digits.find(c) for c in text if c != "\n"]

    def solves(self, puzzle: str, text: str) -> bool:
        """Whether a text is the solution: all that is given is kept, and each unit has all digits."""
        if len(text) != len(puzzle):
            return False
        if any(a not in (b, BLANK) for a, b in zip(puzzle, text, strict=True)):
            return False
        found: list[set[int]] = [set() for _ in range(3 * self.size)]
        for cell, digit in enumerate(self.read(text)):
            for unit in self.units[cell]:
                found[unit].add(digit)
        return all(unit == set(range(1, self.size + 1)) for unit in found)

    def answer(self, text: str) -> str:
        """What a model that writes from left to right writes after the puzzle: the whole board."""
        return text

    def assembled(self, puzzle: str, answer: str) -> str:
        """The text of a puzzle and such an answer."""
        return answer


@dataclass(frozen=True)
class Paths:
    """Arms of nodes that leave one node, and the path from there to the end of an arm (the star graph of
    arXiv:2403.06963): from left to right its first step can only be guessed, from the end each is forced.
    """

    arms: int
    length: int  # arrows of an arm

    symbols: ClassVar = "abcdefghijklmnopqrstuvwxyz"

    def solution(self, draw: random.Random) -> str:
        names = draw.sample(self.symbols, 1 + self.arms * self.length)
        first, others = names[0], names[1:]
        arms = [[first, *others[i :: self.arms]] for i in range(self.arms)]
        arrows = [a + b for arm in arms for a, b in itertools.pairwise(arm)]
        draw.shuffle(arrows)
        return ",".join(arrows) + "\n" + "".join(arms[0])

    def given(self, text: str, draw: random.Random) -> list[bool]:
        """All but the inner nodes of the path."""
        inner = range(len(text) - self.length, len(text) - 1)
        return [i not in inner for i in range(len(text))]

    def solves(self, puzzle: str, text: str) -> bool:
        if len(text) != len(puzzle):
            return False
        if any(a not in (b, BLANK) for a, b in zip(puzzle, text, strict=True)):
            return False
        arrows, path = puzzle.split("\n")[0].split(","), text[-self.length - 1 :]
        return all(a + b in arrows for a, b in itertools.pairwise(path))

    def answer(self, text: str) -> str:
        return text[-self.length - 1 :]

    def assembled(self, puzzle: str, answer: str) -> str:
        return puzzle[: -self.length - 1] + answer


KINDS = {
    "sudoku4": Sudoku(2, 2),
    "sudoku6": Sudoku(2, 3),
    "sudoku9": Sudoku(3, 3),
    "path": Paths(3, 4),
}


def relabelled(text: str, symbols: str, draw: random.Random) -> str:
    """A member of the same class, with random names."""
    return text.translate(str.maketrans(symbols, "".join(draw.sample(symbols, len(symbols)))))


def puzzles(kind, test: bool, count: int, seed: int, copies: int = 1) -> Iterator[tuple[str, str]]:
    """``count`` pairs (puzzle, solved text).

    Args:
        test: of the classes for tests, instead of those for training.
        copies: so many puzzles after one another are one puzzle with other names, which costs nothing.
    """
    draw, made = random.Random(f"{seed} {test}"), 0
    while made < count:
        text = kind.solution(draw)
        if test_class(text, kind.symbols) != test or (given := kind.given(text, draw)) is None:
            continue
        for _ in range(min(copies, count - made)):
            solved = relabelled(text, kind.symbols, draw)
            yield hide(solved, given), solved
            made += 1
