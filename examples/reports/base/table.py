"""Tables of what the report says, what was measured here, and what PyTorch does."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table as Printed

from tinygrad_ee559.files import replace


@dataclass(frozen=True)
class Number:
    """A number in a table: a mean, with a standard deviation if there is one.

    Args:
        mean: or a single value.
        std: the standard deviation of one measurement.
        digits: behind the point.
    """

    mean: float
    std: float | None = None
    digits: int = 2

    def __str__(self) -> str:
        numbers = [self.mean] if self.std is None else [self.mean, self.std]
        return " ± ".join(f"{number:.{self.digits}f}" for number in numbers)


def mean_of(values: Iterable[float], scale: float = 1, digits: int = 2) -> Number:
    """The mean and the standard deviation of several runs."""
    scaled = [scale * value for value in values]
    std = statistics.stdev(scaled) if len(scaled) > 1 else None
    return Number(statistics.fmean(scaled), std, digits)


@dataclass
class Table:
    """A title, the names of the columns, and rows of texts and numbers."""

    title: str
    columns: Sequence[str]
    rows: list[list[str | Number]] = field(default_factory=list)

    def printed(self) -> Printed:
        """For a console."""
        table = Printed(*self.columns, title=self.title, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in self.rows:
            table.add_row(*map(str, row))
        return table

    def markdown(self) -> str:
        """As GitHub and Sphinx read it."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        rows = [list(self.columns), rule, *([str(cell) for cell in row] for row in self.rows)]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([f"**{self.title}**", "", *lines, ""])

    def data(self) -> dict[str, Any]:
        """The title, and the rows as dicts by the names of the columns, with unrounded numbers."""
        return {
            "title": self.title,
            "rows": [dict(zip(self.columns, map(_plain, row))) for row in self.rows],
        }


def write(path: Path, tables: Sequence[Table]) -> None:
    """Write tables to two files: `path` with the suffix .md, and with .json."""
    markdown = "\n".join(table.markdown() for table in tables)
    replace(path.with_suffix(".md"), markdown.encode())
    data = json.dumps([table.data() for table in tables], indent=1, ensure_ascii=False)
    replace(path.with_suffix(".json"), (data + "\n").encode())


def _plain(cell: str | Number) -> Any:
    if isinstance(cell, str):
        return cell
    return cell.mean if cell.std is None else {"mean": cell.mean, "std": cell.std}
