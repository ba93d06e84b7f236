"""How long the import takes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from benchmarks.report import Result

#: Bytecode is kept, as torch's was when it was installed, whatever this shell wants.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def import_time(module: str) -> float:
    """Seconds that a fresh interpreter needs to start and import a module."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=ENVIRONMENT)
    return time.perf_counter() - start


def run(quick: bool) -> list[Result]:
    times: dict[str, list[float]] = {"tinygrad_ee559": [], "torch": []}
    import_time("tinygrad_ee559")  # compiles it
    for _ in range(4 if quick else 12):
        for module, values in times.items():
            values.append(import_time(module))
    here, there = (statistics.median(values) for values in times.values())
    text = [f"{t:.2f} s" for t in (here, there)]
    return [Result("import tinygrad_ee559", "import torch", here / there, 1.1, *text)]
