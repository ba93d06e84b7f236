"""Progress: what users see while a compiler runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def compiling(operators: int) -> Iterator[None]:
    """Shows that something is being compiled, and for how long, where people watch."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as p:
        p.add_task(f"compiling {operators} operators", total=None)
        yield
