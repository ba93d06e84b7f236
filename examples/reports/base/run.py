"""A run of a report: its trials one after the other, each kept on disk as soon as it is done."""

from __future__ import annotations

import os
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

from reports.base.table import Table, write
from tinygrad_ee559.errors import CheckpointError
from tinygrad_ee559.saving import load_checkpoint, save_checkpoint

_FINISHED = "trial"


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
        folder: for tables, figures and finished jobs.
        quick: do a small version, for tests.
        resume: go on with what an interrupted run has left in `folder`; otherwise that is deleted.
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
        self.work = folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        if not resume:
            for path in (*self.work.glob(f"*.{_FINISHED}"), *self.work.glob("*.safetensors")):
                path.unlink()
        #: Results are those of one version of the report only.
        self._kind = f"{title}, {'quick' if quick else 'full'}, torch {torch.__version__}"

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
        results = {}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[done]}"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            total = sum(job.steps for job in jobs)
            task = progress.add_task(self.title, total=total, done="")
            finished = 0.0
            for i, job in enumerate(jobs):
                done = f"{i} of {len(jobs)} done, now {job.name}"
                progress.update(task, completed=finished, done=done)
                results[job.name] = self._result(job, lambda n: progress.advance(task, n))
                finished += job.steps
            progress.update(task, completed=finished, done=f"all {len(jobs)} done")
        return results

    def _result(self, job: Job, advance: Callable[[float], object]) -> Any:
        """What a job found, now or in an earlier run."""
        path = self.path_of(job.name, _FINISHED)
        if path.exists():
            try:
                saved = load_checkpoint(path)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{error}; or delete the file, and this part is done again"
                ) from error
            if (saved.get("kind"), saved.get("job")) == (self._kind, job.name):
                return saved["result"]
            raise CheckpointError(
                f"{path} belongs to another run, {saved.get('kind')}, and this one is "
                f"{self._kind}; give another folder, or run without --resume"
            )
        result = job.work(advance)
        save_checkpoint(path, kind=self._kind, job=job.name, result=result)
        return result

    def path_of(self, name: str, suffix: str) -> Path:
        """A file for the unfinished business of a job."""
        return self.work / f"{re.sub('[^A-Za-z0-9.]+', '-', name)}.{suffix}"

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
        for path in sorted(os.scandir(self.folder), key=lambda entry: entry.name):
            if path.is_file() and not path.name.startswith("."):
                self.console.out(path.path)
