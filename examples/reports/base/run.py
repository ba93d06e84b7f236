"""A run of a report: its jobs one after the other, each kept on disk as soon as it is done."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from reports.base.table import Table, write
from tinygrad_ee559.errors import CheckpointError
from tinygrad_ee559.saving import load_checkpoint, save_checkpoint

#: How the names of files end: of what a job found, and of a training that is under way.
_DONE, _UNDER_WAY = ".done", ".training"


class Job(NamedTuple):
    """A part of a report's work.

    Args:
        name: unlike that of any other job of the report.
        steps: how much work it is.
        work: does it, calling its argument with the number of steps made on the way; gives what
            was found: numbers, lists, dicts and tensors.
    """

    name: str
    steps: float
    work: Callable[[Callable[[float], object]], dict[str, Any]]


class Run:
    """Where a report's files go, how large it is, and what of it is done.

    Args:
        title: of the report.
        folder: for tables, figures and, in `folder/work`, what jobs have found.
        quick: do a small version, for tests.
        resume: go on with what an interrupted run has left in `folder/work`; otherwise that is
            deleted.
        data: the folder of MNIST's files; None for the usual places.
        console: shows progress and tables.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        title: str,
        folder: Path,
        *,
        quick: bool,
        resume: bool,
        data: Path | None,
        console: Console,
    ) -> None:
        self.title = title
        self.folder = folder
        self.quick = quick
        self.data = data
        self.console = console
        self._work = folder / "work"
        self._work.mkdir(parents=True, exist_ok=True)
        if not resume:
            for path in (*self._work.glob(f"*{_DONE}"), *self._work.glob(f"*{_UNDER_WAY}")):
                path.unlink()
        size = "quick" if quick else "full"
        #: Numbers of different programs do not belong into one table.
        self._kind = f"{title}, {size}, version {_version()}, torch {torch.__version__}"

    def size(self, full: int, quick: int) -> int:
        """One number or the other, as the run is a full or a quick one."""
        return quick if self.quick else full

    def do(self, jobs: Iterable[Job]) -> dict[str, Any]:
        """Do what is not done yet; gives what was found, by the names of the jobs.

        Raises:
            CheckpointError: what an earlier run has left is damaged, or belongs to another version
                of the report; says what to do.
        """
        jobs = list(jobs)
        results = {job.name: self._kept(job) for job in jobs}
        left = [job for job in jobs if results[job.name] is None]
        total = sum(job.steps for job in jobs)
        finished = total - sum(job.steps for job in left)
        columns = (
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
        )
        with Progress(*columns, console=self.console, expand=True) as progress:
            task = progress.add_task("", total=total, completed=finished)
            for i, job in enumerate(left, len(jobs) - len(left)):
                now = f"{i} of {len(jobs)} done, now {job.name}"
                progress.update(task, completed=finished, description=now)
                results[job.name] = self._found(job, lambda n: progress.advance(task, n))
                finished += job.steps
            progress.update(task, completed=total, description=f"all {len(jobs)} done")
        return results

    def _kept(self, job: Job) -> Any:
        """What an earlier run found, or None."""
        path = self._path(job.name, _DONE)
        if not path.exists():
            return None
        try:
            saved = load_checkpoint(path)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}; or delete the file, and this part is done again"
            ) from error
        if (saved.get("kind"), saved.get("job")) != (self._kind, job.name):
            raise CheckpointError(
                f"{path} belongs to another run, {saved.get('kind')}, and this one is "
                f"{self._kind}; give another folder, or run without --resume, which deletes it"
            )
        return saved["result"]

    def _found(self, job: Job, advance: Callable[[float], object]) -> Any:
        """What a job finds, which is kept."""
        result = job.work(advance)
        save_checkpoint(self._path(job.name, _DONE), kind=self._kind, job=job.name, result=result)
        self.training_of(job.name).unlink(missing_ok=True)
        return result

    def training_of(self, name: str) -> Path:
        """Where a job may keep a training that is under way."""
        return self._path(name, _UNDER_WAY)

    def _path(self, name: str, suffix: str) -> Path:
        return self._work / (re.sub("[^A-Za-z0-9.]+", "-", name) + suffix)

    def finish(self, tables: list[Table], timings: list[Table] | None = None) -> None:
        """Print and write the tables; those of timings apart, as every run has others.

        Raises:
            OSError: a file cannot be written.
        """
        for table in (*tables, *(timings or ())):
            self.console.print(table.printed(), "")
        for name, group in (("results", tables), ("timings", timings)):
            if group:
                write(self.folder / name, group)
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                self.console.out(path)


def _version() -> str:
    """A digest of the reports' code."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
