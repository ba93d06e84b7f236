"""`python -m benchmarks`: prints every measurement beside its target, and keeps them as JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks import compiled, report, scalars, startup, steps, sweep

PARTS = {
    "steps": steps, "scalars": scalars, "startup": startup, "compiled": compiled, "sweep": sweep,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all if none is named")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter chains")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for name in options.parts or PARTS:
        results += PARTS[name].run(options.quick)
    report.show(results)
    report.write(results, options.out)


if __name__ == "__main__":
    main()
