"""What is compared with what, and how much of the others' time this library may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import ours
from benchmarks.peers import others, pytorch, xla
from benchmarks.work import Side, Work, disk, mnist

MEMBERS = 64
EAGER, LOOP = "PyTorch eager", "PyTorch eager, model by model"


@dataclass(frozen=True)
class Peer:
    """Another library at the same work, and the share of its time that is the target."""

    make: Callable[[Work], Side | dict[str, Side]]  # of several ways the fastest counts
    target: float | None = None
    steps: int | None = None  # fewer than the row's where a lap would take too long


@dataclass(frozen=True)
class Row:
    name: str
    work: Work
    ours: Callable[[Work], Side]
    peers: dict[str, Peer]
    threads: int = 1


def step_rows() -> dict[str, Row]:
    small, large = disk(100, 64), mnist(100, 16)
    rows = {
        "eager-disk": Row(
            "eager step, 2-25-25-25-2, batch 100",
            small,
            ours.eager,
            {
                EAGER: Peer(pytorch.eager, 0.5),
                "HIPS autograd": Peer(others.hips),
                "MyGrad": Peer(others.mygrad),
                "micrograd": Peer(others.micrograd, steps=1),
            },
        ),
        "eager-mnist": Row(
            "eager step, 784-512-512-512-10, batch 100",
            large,
            ours.eager,
            {EAGER: Peer(pytorch.eager, 0.9)},
        ),
        "step-disk": Row(
            "compiled step, 2-25-25-25-2, batch 100",
            small,
            ours.compiled,
            {
                EAGER: Peer(pytorch.eager, 0.16),
                "torch.compile": Peer(pytorch.compiled, 0.2),
                "torch.compile of a functional step": Peer(pytorch.functional),
                "jax.jit": Peer(xla.steps, 0.8),
            },
        ),
    }
    for threads in (1, 2):
        rows[f"step-mnist-{threads}"] = Row(
            f"compiled step, 784-512-512-512-10, batch 100, threads: {threads}",
            large,
            ours.compiled,
            {
                EAGER: Peer(pytorch.eager, 0.85),
                "torch.compile": Peer(pytorch.compiled),
                "torch.compile of a functional step": Peer(pytorch.functional),
                "jax.jit": Peer(xla.steps, 1.1),
            },
            threads,
        )
    return rows


def loop_rows() -> dict[str, Row]:
    targets = {100: (100, 0.09, 0.75), 1: (1000, 0.016, 1.0)}  # by batch: steps, targets
    return {
        f"loop-{batch}": Row(
            f"compiled loop, 2-25-25-25-2, batch {batch}",
            disk(batch, steps),
            ours.loop,
            {EAGER: Peer(pytorch.eager, eager), "jax.lax.scan": Peer(xla.scans, scan)},
        )
        for batch, (steps, eager, scan) in targets.items()
    }


def ensemble_rows() -> dict[str, Row]:
    targets = {1: (1000, 0.003, 0.8), 5: (200, 0.005, 0.25), 100: (50, 0.06, 0.45)}
    return {
        f"ensemble-{batch}": Row(
            f"compiled ensemble of {MEMBERS}, batch {batch}, per model-step",
            disk(batch, steps, MEMBERS),
            ours.ensemble,
            {
                LOOP: Peer(pytorch.models, loop, steps=4),
                "torch.func.vmap(grad)": Peer(pytorch.vmapped, steps=20),
                "jax.jit(vmap(scan))": Peer(xla.ensembles, scan),
            },
        )
        for batch, (steps, loop, scan) in targets.items()
    }


def rows() -> dict[str, Row]:
    return {**step_rows(), **loop_rows(), **ensemble_rows()}

