"""Progress: what users see while a compiler runs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


@contextmanager
def compiling(operators: int) -> Iterator[None]:
    """Shows that something is being compiled, and for how long, where people watch."""
    with mock.patch.object(random, "getrandbits", random.Random().getrandbits):
        import rich.style  # noqa: F401 - which draws a number, and would use up one of the user's
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as p:
        p.add_task(f"compiling {operators} operators", total=None)
        yield
