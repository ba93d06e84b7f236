"""Fresh processes that have only so many cores.

JAX's thread pool is as large as the number of cores that its process may use; the flags
`--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1`, often seen, leave it as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def cores(number: int) -> Iterator[None]:
    """Child processes started inside run on the last of this thread's cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-number:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def output(module: str, arguments: list[str], threads: int) -> str:
    """The last line that a module prints when it is run on `threads` cores."""
    command = [sys.executable, "-m", module, *arguments]
    with cores(threads):
        process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return process.stdout.splitlines()[-1]


def load(call: Callable[[], object]) -> tuple[float, float]:
    """How many of its cores this process keeps busy during a call, and how many others do."""
    wall, mine, everyone = time.perf_counter(), time.process_time(), busy()
    call()
    wall, mine, everyone = (
        time.perf_counter() - wall,
        time.process_time() - mine,
        busy() - everyone,
    )
    return mine / wall, max(everyone - mine, 0.0) / wall


def busy() -> float:
    """The seconds that the cores of this process have worked for anyone."""
    names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    with open("/proc/stat") as file:
        lines = [line.split() for line in file]
    user_to_system = [sum(map(int, line[1:4])) for line in lines if line[0] in names]
    return sum(user_to_system) / os.sysconf("SC_CLK_TCK")
