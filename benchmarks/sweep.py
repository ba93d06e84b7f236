"""The sweep: the first of the reports, as its command runs it, on all cores.

What is measured is all of it: imports, compilation, tests on the way, PyTorch's slices, figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import Result

OUT = Path("build/benchmarks/sweep")


def run(quick: bool) -> list[Result]:
    """The whole sweep; `quick`, the report's small version."""
    command = [sys.executable, "-m", "tinygrad_ee559", "reports", "1", "--out", str(OUT)]
    start = time.perf_counter()
    subprocess.run([*command, *["--quick"] * quick], check=True)
    seconds = time.perf_counter() - start
    (table,) = json.loads((OUT / "timings.json").read_text())
    row = table["rows"][0]
    there = row["PyTorch's plain loop, from a slice"]
    times = f"{row['here']:.0f} s", f"{there / 3600:.1f} h"
    return [
        Result("the sweep, whole command", "6 minutes", seconds / 360, 1, f"{seconds:.0f} s", ""),
        Result(f"the sweep, {row['']}", "PyTorch's plain loop", row["here"] / there, None, *times),
    ]
