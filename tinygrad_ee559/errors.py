"""Every error that the library raises on purpose, each a class that can be caught by name.

Each one also derives from the built-in exception that PyTorch raises in the same place, so code
written for PyTorch catches them unchanged.
"""

from __future__ import annotations


class NoRuleError(NotImplementedError):
    """A torch function was called on a `Tensor` and no gradient rule is registered under it."""


class RuleError(TypeError):
    """A gradient rule is written in a way that the engine cannot use."""


class NotDifferentiableError(RuntimeError):
    """Gradients were asked of something that does not require any."""


class GradientDtypeError(RuntimeError):
    """A value that is no floating-point number was asked to require gradients."""


class GradientShapeError(RuntimeError):
    """A gradient does not have the shape of the value that it belongs to."""


class FreedGraphError(RuntimeError):
    """A second backward pass ran into values that the first one had given back."""


class ChangedInPlaceError(RuntimeError):
    """A value saved for the backward pass was changed in place before the pass could use it."""


class UnusedInputError(RuntimeError):
    """A gradient was asked with respect to a tensor that the outputs do not depend on."""


class InPlaceError(RuntimeError):
    """An in-place operation was applied to a tensor whose history would be lost."""


class MixedGraphError(RuntimeError):
    """A torch tensor that torch.autograd watches met a `Tensor`; two graphs would be cut apart."""


class OperandError(Exception):
    """A torch function rejected its operands; names the function and every operand.

    What is raised is always a subclass that also derives from the exception that torch raised,
    and torch's own message is kept as the cause.
    """


class GradcheckError(RuntimeError):
    """Analytical and numerical gradients differ."""


class DrawingError(ValueError):
    """A diagram cannot be drawn, or not in the way that was asked for."""


class ModuleCycleError(ValueError):
    """A module contains itself."""


class StateDictError(RuntimeError):
    """A state dict does not fit the module or optimizer that it is loaded into."""


class DataFileError(OSError):
    """A data file is missing, truncated or not what its checksum says."""


class CheckpointError(OSError):
    """A saved model is missing, truncated or damaged."""


_operand_errors: dict[type[Exception], type[OperandError]] = {}


def operand_error(cause: Exception, message: str) -> OperandError:
    """An `OperandError` that is also an instance of the class of `cause`."""
    kind = type(cause)
    if kind not in _operand_errors:
        _operand_errors[kind] = type(f"Operand{kind.__name__}", (OperandError, kind), {})
    return _operand_errors[kind](message)


class CaptureError(RuntimeError):
    """What a function does cannot be made into one program."""


class CompilerError(RuntimeError):
    """There is no C++ compiler, or it failed."""
