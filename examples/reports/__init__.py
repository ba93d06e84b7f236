"""Five published experiments, reproduced side by side with PyTorch.

`python -m tinygrad_ee559 reports` runs them. Each is a module that begins with what the report did,
says in `SETUP` how it is repeated, and in `reproduce` what is done; what they share is in `base`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from reports import batch_size, initialization, loss_functions, momentum, readability
from reports.base.run import Run


class Report(NamedTuple):
    """One of the five: what it is called, and what is done with a run of it."""

    title: str
    work: Callable[[Run], None]

    def run(
        self, folder: Path, quick: bool, resume: bool, data: Path | None, console: Console
    ) -> None:
        """Reproduce it; the arguments are those of `Run`."""
        self.work(Run(self.title, folder, quick=quick, resume=resume, data=data, console=console))


REPORTS = [
    Report(module.TITLE, module.reproduce)
    for module in (batch_size, initialization, loss_functions, readability, momentum)
]
