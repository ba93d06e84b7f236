"""Interleaved timing: what is compared is measured in one process, in alternating rounds."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable


def medians(rounds: int, repeats: int, **sides: Callable[[], object]) -> dict[str, float]:
    """The median time of one call of each side, in seconds."""
    times = interleaved(rounds, repeats, **sides)
    return {name: statistics.median(values) for name, values in times.items()}


def interleaved(
    rounds: int, repeats: int, **sides: Callable[[], object]
) -> dict[str, list[float]]:
    """The time of one call of each side in each round, in seconds.

    A round calls each side `repeats` times in a row, one side after the other, so that the
    machine's drift meets all of them and each collects its own garbage.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for _ in range(rounds):
        for name, side in sides.items():
            gc.collect()
            start = time.perf_counter()
            for _ in range(repeats):
                side()
            times[name].append((time.perf_counter() - start) / repeats)
    return times
