"""`python -m benchmarks.peers`: the others alone, and what the targets make of their times."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from benchmarks.compiled import measured
from benchmarks.report import microseconds, share
from benchmarks.rows import rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*rows(), []], help="all if none is named")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    table = Table("work", "peer", "per step", "target", "at most")
    for key in options.rows or rows():
        row = rows()[key]
        for peer, (name, seconds) in measured(key, options.quick, with_ours=False).items():
            target = row.peers[peer].target
            most = microseconds(target * seconds) if target else "-"
            table.add_row(row.name, name, microseconds(seconds), share(target), most)
        table.add_section()
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
