"""Steps, loops and ensembles beside PyTorch, torch.compile, JAX and other engines.

Every row runs in a process of its own, on as many cores as it may use threads. There all sides
must first agree on the parameters after a few steps, and are then timed in alternating rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np
import torch

from benchmarks.pinned import load, output
from benchmarks.report import Result, microseconds
from benchmarks.rows import Peer, Row, rows
from benchmarks.timing import interleaved
from benchmarks.work import Side, Work

CHECKED = 20  # steps
TURN = 0.1  # seconds that a side's turn takes, or one lap of it if that is longer
SLOW = 2.0  # seconds: a side whose lap takes longer is timed once
Ways = dict[str, Side]


def ways(peer: Peer, work: Work) -> Ways:
    """The ways to do the work, by name; the only way has none."""
    made = peer.make(work)
    return {"": made} if isinstance(made, Side) else made


def error(found: list[np.ndarray], expected: list[np.ndarray], members: int | None) -> float:
    """The largest difference between two sets of parameters, relative to the largest parameter.

    Of many members the worst twentieth is left out: where the input of a ReLU is all but zero, a
    rounding decides whether it is on, and two right answers differ.
    """
    lead = members or 1
    differences = [
        np.abs(f - e).reshape(lead, -1).max(1) / np.abs(e).reshape(lead, -1).max(1)
        for f, e in zip(found, expected)
    ]
    worst = np.sort(np.max(differences, axis=0))
    return float(worst[math.ceil(0.95 * lead) - 1])


def check(row: Row) -> None:
    """All sides lead from the same parameters to the same parameters."""
    reference = next(iter(row.peers.values()))
    for name, peer in row.peers.items():
        work = replace(row.work, steps=min(CHECKED, peer.steps or CHECKED))
        (wanted,) = ways(reference, work).values()
        wanted.lap()
        for way, side in ways(peer, work).items():
            side.lap()
            off = error(side.parameters(), wanted.parameters(), work.members)
            assert off < 1e-5, f"{name} {way}: off by {off:.1e} after {work.steps} steps"


def turn(side: Side) -> tuple[Callable[[], None], int]:
    """A call that takes long enough to be timed, and its number of steps."""
    laps = math.ceil(TURN / lap_time(side))

    def call() -> None:
        for _ in range(laps):
            side.lap()

    return call, laps * side.steps


def lap_time(side: Side) -> float:
    gc.collect()
    start = time.perf_counter()
    side.lap()
    return time.perf_counter() - start


def times(
    sides: Ways, threads: int, rounds: int, choose: Callable[[list[float]], float]
) -> dict[str, float]:
    """Seconds per step, by `choose` from those of the rounds."""
    for side in sides.values():
        side.lap()
    seconds = {name: lap_time(side) / side.steps for name, side in sides.items()}
    slow = {name for name, side in sides.items() if seconds[name] * side.steps > SLOW}
    turns = {name: turn(side) for name, side in sides.items() if name not in slow}
    calls = {name: call for name, (call, _) in turns.items()}
    found: dict[str, list[float]] = {}
    mine, others = load(lambda: found.update(interleaved(rounds, 1, **calls)))
    assert mine < threads + 0.05, f"{mine:.2f} cores are at work, not {threads}"
    if others > 0.1:
        print(f"other processes took {others:.0%} of a core: repeat this", file=sys.stderr)
    chosen = {name: choose(found[name]) / steps for name, (_, steps) in turns.items()}
    return {**seconds, **chosen}


def fastest(name: str, sides: Ways, threads: int) -> tuple[str, Side]:
    """The fastest of several ways, and its name; all of them go to stderr."""
    if len(sides) == 1:
        return name, next(iter(sides.values()))
    found = times(sides, threads, 5, min)
    for way, seconds in found.items():
        print(f"{name} ({way}): {microseconds(seconds)}", file=sys.stderr, flush=True)
    best = min(found, key=found.__getitem__)
    return f"{name} ({best})", sides[best]


def measure(row: Row, quick: bool, with_ours: bool) -> dict[str, tuple[str, float]]:
    """The name of each side, with the way it works, and its seconds per step."""
    if with_ours:
        row = replace(row, peers={**row.peers, "here": Peer(row.ours)})
    check(row)
    names, sides = {}, {}
    for name, peer in row.peers.items():
        work = replace(row.work, steps=peer.steps or row.work.steps)
        names[name], sides[name] = fastest(name, ways(peer, work), row.threads)
    seconds = times(sides, row.threads, 5 if quick else 15, statistics.median)
    return {name: (names[name], seconds[name]) for name in sides}


def measured(name: str, quick: bool, with_ours: bool) -> dict[str, tuple[str, float]]:
    """`measure`, in a process of its own."""
    options = ["--quick"] * quick + ["--peers-only"] * (not with_ours)
    return json.loads(output("benchmarks.compiled", [name, *options], rows()[name].threads))


def run(quick: bool) -> list[Result]:
    results = []
    for key, row in rows().items():
        found = measured(key, quick, with_ours=True)
        _, here = found["here"]
        for other, peer in row.peers.items():
            name, there = found[other]
            text = [microseconds(seconds) for seconds in (here, there)]
            results.append(Result(row.name, f"{name}'s time", here / there, peer.target, *text))
    return results


def main() -> None:
    """One row, in the process that `measured` started for it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("row", choices=rows())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peers-only", action="store_true")
    options = parser.parse_args()
    row = rows()[options.row]
    assert len(os.sched_getaffinity(0)) == row.threads, "only `measured` starts this"
    torch.set_num_threads(row.threads)
    sys.setrecursionlimit(100_000)  # micrograd's backward recurses
    # To hand each call to another thread costs time, and gains none where there is one core.
    jax.config.update("jax_cpu_enable_async_dispatch", row.threads > 1)
    print(json.dumps(measure(row, options.quick, not options.peers_only)))


if __name__ == "__main__":
    main()
