"""PyTorch's own operators with its own samples of their arguments, and how far we get on each.

`python tests/op_db.py` goes through all of them and writes those that are missing, with reasons, to
`docs/missing.csv`, which the documentation shows. `python tests/op_db.py fft conv` tells of those
with such names, and writes nothing.
"""

import csv
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from compare import (
    TorchCannotError,
    assert_same_gradients,
    assert_second_order_by_differences,
    tensors,
)
from torch.testing._internal.common_methods_invocations import op_db

MISSING = Path(__file__).parent.parent / "docs" / "missing.csv"
DTYPES = (torch.float64, torch.complex128)
NOT_ON_CPU = "PyTorch does not differentiate it on a CPU"
NOT_IN_TORCH = "PyTorch has no second derivative to compare with"
#: Seconds that one operator may take with one dtype.
LIMIT = 120


class Outcome(NamedTuple):
    """What was found of one operator: the reason why a derivative is missing, None if it is not."""

    first: str | None
    second: str | None


def operators() -> dict[str, Any]:
    """The operators of which PyTorch says that they can be differentiated, by name."""
    return {op.formatted_name: op for op in op_db if op.supports_autograd}


def samples(op: Any, dtype: torch.dtype) -> Iterator[Any]:
    torch.manual_seed(0)
    return iter(op.sample_inputs("cpu", dtype, requires_grad=True))


def outcome(op: Any) -> Outcome:
    """Compare an operator with torch.autograd on all samples, in all dtypes that it knows."""
    dtypes = [dtype for dtype in DTYPES if dtype in op.supported_backward_dtypes("cpu")]
    if not dtypes:
        return Outcome(*[NOT_ON_CPU] * 2)
    first = second = None
    if not op.supports_gradgrad:
        second = NOT_IN_TORCH
    for dtype in dtypes:
        for number, sample in enumerate(samples(op, dtype)):
            order = 1 if second else 2
            while order:
                problem = compare(op, sample, order)
                if problem is None:
                    break
                problem = f"{str(dtype).removeprefix('torch.')} sample {number}: {problem}"
                if order == 2:
                    second = problem
                else:
                    first = problem
                order -= 1
            if first:
                return Outcome(first, second or first)
    return Outcome(first, second)


def as_method(op: Any) -> Any:
    """What is called: of a method of torch.Tensor, the tensor's own method."""
    if hasattr(op.op, "__objclass__"):
        return lambda x, *args, **kwargs: getattr(x, op.op.__name__)(*args, **kwargs)
    return op.op


def compare(op: Any, sample: Any, order: int) -> str | None:
    """One sample; what went wrong, if anything did."""
    def late(*_: Any) -> None:
        raise TimeoutError(f"took more than {LIMIT} s")

    given = list(tensors((sample.input, sample.args, sample.kwargs)))
    if not given:
        return None  # nothing that could be a tensor of ours
    if not any(t.requires_grad for t in given):
        order = 0
    single = any(t.dtype in (torch.float32, torch.complex64) for t in given)
    signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    process = sample.output_process_fn_grad or (lambda outputs: outputs)
    what = (as_method(op), (sample.input, *sample.args), sample.kwargs)
    try:
        assert_same_gradients(
            *what,
            order=order,
            rtol=1e-4 if single else 1e-6,
            atol=1e-4 if single else 1e-7,
            process=process,
        )
    except TorchCannotError as cannot:
        if order < 2:
            return f"torch.autograd fails: {cannot}"
        first = compare(op, sample, 1)
        return first or _problem(assert_second_order_by_differences, *what, process=process)
    except Exception as error:
        return _described(error)
    finally:
        signal.alarm(0)
    return None


def _problem(check: Any, *args: Any, **kwargs: Any) -> str | None:
    try:
        check(*args, **kwargs)
    except Exception as error:
        return _described(error)
    return None


def _described(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:300]}"


def missing() -> dict[str, dict[str, str]]:
    """The operators that are known to be missing, with the order from which on, and the reason."""
    with MISSING.open(newline="") as file:
        return {row["operator"]: row for row in csv.DictReader(file)}


def _outcome_of(name: str) -> tuple[str, Outcome]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    return name, outcome(operators()[name])


def main(parts: list[str]) -> None:
    names = [n for n in operators() if not parts or any(part in n for part in parts)]
    known = missing() if MISSING.exists() else {}
    found = {}
    rows = []
    with multiprocessing.Pool(maxtasksperchild=50) as pool:
        for name, result in pool.imap(_outcome_of, names):
            found[name] = result
            if result.first or (result.second and result.second != NOT_IN_TORCH):
                reason = known.get(name, {}).get("reason") or result.first or result.second
                rows.append([name, "1" if result.first else "2", reason])
                print(f"{name}: {result.first or result.second}", flush=True)
    print("first order:", sum(not o.first for o in found.values()), "of", len(found))
    of_second = [o for o in found.values() if o.second != NOT_IN_TORCH]
    print("second order:", sum(not o.second for o in of_second), "of", len(of_second))
    if not parts:
        with MISSING.open("w", newline="") as file:
            table = [["operator", "order", "reason"], *rows]
            csv.writer(file, lineterminator="\n").writerows(table)


if __name__ == "__main__":
    main(sys.argv[1:])
