"""What a measurement says, and how all of them are printed and kept."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table


@dataclass
class Result:
    """One line: how much of something this library takes, as a fraction of what another takes."""

    work: str
    against: str
    ratio: float
    target: float | None  # None: listed beside, for information
    here: str
    there: str

    @property
    def met(self) -> bool:
        return self.target is None or self.ratio <= self.target


def show(results: list[Result]) -> None:
    """Print the results as a table."""
    table = Table(title=f"torch {torch.__version__}, {platform.processor() or platform.machine()}")
    for heading in ("work", "against", "ratio", "target", "here", "there"):
        table.add_column(heading, justify="left" if heading in ("work", "against") else "right")
    for r in results:
        mark = "" if r.met else " [red](missed)[/red]"
        table.add_row(
            r.work, r.against, f"{share(r.ratio)}{mark}", share(r.target), r.here, r.there
        )
    Console(width=120).print(table)


def write(results: list[Result], path: Path) -> None:
    """Keep the results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    content = {"machine": machine, "results": [asdict(r) for r in results]}
    path.write_text(json.dumps(content, indent=2) + "\n")


def share(ratio: float | None) -> str:
    """Two digits after the point, or, where that would say little, two that matter."""
    if ratio is None:
        return "-"
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def microseconds(seconds: float) -> str:
    digits = 1 if seconds >= 1e-5 else 3
    return f"{seconds * 1e6:,.{digits}f} us"
