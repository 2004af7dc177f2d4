"""What was read of a data set, what was left out and why, and what was changed on the way."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from diffusion.errors import UserError

MOST_BAD = 0.01  # of the rows, without --skip_bad
_ENOUGH_BAD = 100  # rows, to refuse a stream before its end


def counted(number: int, what: str) -> str:
    """``9,120 documents``, ``1 row``."""
    plural = what if number == 1 else what + "s"
    return f"{number:,} {plural}"


@dataclass
class Report:
    """The account of one data set; all that read it fill it.

    Attributes:
        column: of tables, that was read.
        unit: what a document is called.
        skip_bad: bad rows are left out, however many they are.
        streaming: it is not read to its end.
        documents: what it gave.
        rows: of tables, those that were left out among them.
        tables, texts: files that were read.
        empty: rows, or text files, in which nothing stands.
        bad: rows that are damaged, or hold something else.
        first_bad: the first of them, and why it is bad.
        left_out: names of files that were not read, by the reason.
        changed: how often something is unusual or was changed: {("blank line", "became ..."): 3}.
        how: what else was done to the text.
    """

    name: str = ""
    column: str = "text"
    unit: str = "document"
    skip_bad: bool = False
    streaming: bool = False
    documents: int = 0
    rows: int = 0
    tables: int = 0
    texts: int = 0
    empty: int = 0
    bad: int = 0
    first_bad: str = ""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    changed: Counter = field(default_factory=Counter)
    how: str = ""
    _first_here: str = ""

    def note_bad(self, where: str, why: str, rows: int = 1) -> None:
        """A row that cannot be used, or several that look like one; `UserError` as soon as a stream has
        too many."""
        self.bad += rows
        self.rows += rows - 1
        self.first_bad = self.first_bad or f"{where} {why}"
        self._first_here = self._first_here or f"{where} {why}"
        if self.streaming and self.bad >= _ENOUGH_BAD:
            self.check()

    @contextlib.contextmanager
    def file(self) -> Iterator[None]:
        """While a table is read; `UserError` where all of its rows are bad."""
        self.tables += 1
        rows, bad, self._first_here = self.rows, self.bad, ""
        yield
        rows, bad = self.rows - rows, self.bad - bad
        if rows and rows == bad:
            self._refuse(bad, rows, self._first_here)

    def leave_out(self, why: str, name: str) -> None:
        """A file that is not read."""
        self.left_out.setdefault(why, []).append(name)

    def check(self) -> None:
        """Refuse a data set of which too much is bad.

        Raises:
            UserError: see above; it names the first bad row.
        """
        if self.bad > MOST_BAD * self.rows:
            self._refuse(self.bad, self.rows, self.first_bad)

    def _refuse(self, bad: int, rows: int, first: str) -> None:
        if not self.skip_bad:
            raise UserError(
                f"{bad:,} of {counted(rows, 'row')} of {self.name} cannot be used: {first}; mend the file, "
                "name another column by --text_column, or leave such rows out by --skip_bad"
            )

    def __str__(self) -> str:
        """``read 9,120 documents from column "text" of 9,200 rows in 3 files; 80 rows empty``."""
        sources = []
        if self.rows or self.tables:
            files = f" in {counted(self.tables, 'file')}" if self.tables else ""
            sources.append(f'column "{self.column}" of {counted(self.rows, "row")}{files}')
        if self.texts:
            sources.append(counted(self.texts, "text file"))
        said = [
            f"read {counted(self.documents, self.unit)} from {' and '.join(sources) or 'nothing'}"
        ]
        if self.empty:
            said.append(f"{counted(self.empty, 'row')} empty")
        if self.bad:
            said.append(f"{counted(self.bad, 'row')} left out, the first: {self.first_bad}")
        for why, names in self.left_out.items():
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            said.append(f"{counted(len(names), 'file')} left out, {why}: {some}")
        said += [f"{counted(n, what)} {how}" for (what, how), n in self.changed.items()]
        said += [self.how] if self.how else []
        return "; ".join(said)

    def __add__(self, other: "Report") -> "Report":
        """The account of two data sets that are joined."""
        numbers = ("documents", "rows", "tables", "texts", "empty", "bad")
        left_out = {
            why: self.left_out.get(why, []) + other.left_out.get(why, [])
            for why in {**self.left_out, **other.left_out}
        }
        return Report(
            f"{self.name}, {other.name}", self.column, self.unit,
            **{name: getattr(self, name) + getattr(other, name) for name in numbers},
            first_bad=self.first_bad or other.first_bad,
            left_out=left_out,
            changed=self.changed + other.changed,
            how="; ".join(filter(None, {self.how: 0, other.how: 0})),
        )  # fmt: skip
