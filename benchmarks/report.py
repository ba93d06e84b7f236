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
    target: float
    here: str
    there: str

    @property
    def met(self) -> bool:
        return self.ratio <= self.target


def show(results: list[Result]) -> None:
    """Print the results as a table."""
    table = Table(title=f"torch {torch.__version__}, {platform.processor() or platform.machine()}")
    for heading in ("work", "against", "ratio", "target", "here", "there"):
        table.add_column(heading, justify="left" if heading in ("work", "against") else "right")
    for r in results:
        mark = "" if r.met else " [red](missed)[/red]"
        table.add_row(
            r.work, r.against, f"{r.ratio:.2f}{mark}", f"{r.target:.2f}", r.here, r.there
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


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f} us"
