"""PyTorch's own operators with its own samples of their arguments, and how far we get on each."""

import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.testing._internal.common_methods_invocations import op_db

from compare import assert_same_gradients, tensors

DTYPES = (torch.float64, torch.complex128)
#: Seconds that one operator may take with one dtype.
LIMIT = 120


class Outcome(NamedTuple):
    """What was found of one operator: the reason why a derivative is missing, None if it is not."""

    first: str | None
    second: str | None


def operators() -> list[Any]:
    """The operators of which PyTorch says that they can be differentiated."""
    return [op for op in op_db if op.supports_autograd]


def samples(op: Any, dtype: torch.dtype) -> Iterator[Any]:
    torch.manual_seed(0)
    return iter(op.sample_inputs("cpu", dtype, requires_grad=True))


def outcome(op: Any) -> Outcome:
    """Compare an operator with torch.autograd on all samples, in all dtypes that it knows."""
    dtypes = [dtype for dtype in DTYPES if dtype in op.supported_backward_dtypes("cpu")]
    if not dtypes:
        return Outcome("not on a CPU", "not on a CPU")
    first = second = None
    if not op.supports_gradgrad:
        second = "PyTorch has none"
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

    if not any(t.requires_grad for t in tensors((sample.input, sample.args, sample.kwargs))):
        order = 0
    signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        assert_same_gradients(
            as_method(op),
            (sample.input, *sample.args),
            sample.kwargs,
            order=order,
            rtol=1e-6,
            atol=1e-7,
            process=sample.output_process_fn_grad or (lambda outputs: outputs),
        )
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {' '.join(lines[:3])[:300]}"
    finally:
        signal.alarm(0)
    return None
