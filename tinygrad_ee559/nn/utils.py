"""`clip_grad_norm_` and `clip_grad_value_`: gradients that are kept from growing too large."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from tinygrad_ee559.tensor import Tensor, put_back


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float | str = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale the gradients of parameters, all by the same factor, so that their norm is no larger
    than `max_norm`; to the bit as PyTorch does on the CPU.

    Call it between `backward()` and the optimizer's `step()`; in compiled steps too, if
    `error_if_nonfinite` is False.

    Args:
        parameters: a tensor, or several; those without a gradient are left out.
        max_norm: the largest norm.
        norm_type: the p of the p-norm, of all gradients as one vector; `inf` for the largest entry.
        error_if_nonfinite: refuse a norm that is infinite or no number.

    Returns:
        The norm before.

    Raises:
        RuntimeError: the norm is not finite, and `error_if_nonfinite` is True.

    >>> x = Tensor([3.0, 4.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> clip_grad_norm_(x, max_norm=1.0)
    Tensor(10.)
    >>> x.grad
    Tensor([0.6000, 0.8000])

    Source: R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
    networks", ICML 2013.
    """
    norm_type = float(norm_type)
    gradients, values = _gradients(parameters)
    with torch.no_grad():
        norms = [torch.linalg.vector_norm(value, norm_type) for value in values]
        norm = torch.linalg.vector_norm(torch.stack(norms), norm_type) if norms else torch.zeros(())
        if error_if_nonfinite and not norm.isfinite():
            raise RuntimeError(
                f"the norm of order {norm_type} of the gradients is {norm.item()}, which cannot be "
                "clipped; look where they come from with tinygrad_ee559.draw, or pass "
                "error_if_nonfinite=False"
            )
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for value in values:
            value.mul_(factor)
        put_back(gradients, values)
    return Tensor(norm)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Clip every entry of the gradients of parameters to the range from -clip_value to clip_value.

    Args:
        parameters: a tensor, or several; those without a gradient are left out.
        clip_value: the largest absolute value.

    >>> x = Tensor([3.0, -0.2], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> clip_grad_value_(x, 0.5)
    >>> x.grad
    Tensor([ 0.5000, -0.4000])
    """
    gradients, values = _gradients(parameters)
    with torch.no_grad():
        for value in values:
            value.clamp_(-clip_value, clip_value)
        put_back(gradients, values)


def _gradients(parameters: Tensor | Iterable[Tensor]) -> tuple[list[Tensor], list[torch.Tensor]]:
    """The gradients that there are, and what they are as torch tensors."""
    several = [parameters] if isinstance(parameters, Tensor) else parameters
    gradients = [p.grad for p in several if p.grad is not None]
    return gradients, [gradient.as_torch() for gradient in gradients]
