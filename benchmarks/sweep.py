"""The sweep: the first of the reports, as its command runs it, on all cores.

Compilation and tests on the way count; the whole command, with PyTorch's slices, is listed beside.
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
    here, there = row["here"], row["PyTorch's plain loop, from a slice"]
    times = f"{here:.0f} s", f"{there / 3600:.1f} h"
    whole = "the same with PyTorch's slices, tables and figures"
    return [
        Result("the sweep, compilation included", "6 minutes", here / 360, 1, times[0], ""),
        Result(whole, "6 minutes", seconds / 360, None, f"{seconds:.0f} s", ""),
        Result(f"the sweep, {row['']}", "PyTorch's plain loop", here / there, None, *times),
    ]
