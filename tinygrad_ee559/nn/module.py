"""`Module`: an object whose fields are parameters, buffers and modules, and that can be called.

There is no registration. A module *is* its fields: whatever stands in its attributes, or in lists,
tuples and dicts there, belongs to it, and is found when it is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from reprlib import recursive_repr
from textwrap import indent
from typing import Any, NamedTuple, TypeVar

import torch

from tinygrad_ee559.errors import ModuleCycleError, StateDictError
from tinygrad_ee559.tape import Leaf, next_order
from tinygrad_ee559.tensor import Tensor

Self = TypeVar("Self", bound="Module")
Kind = TypeVar("Kind")


class Parameter(Tensor):
    """A tensor that a module learns.

    Args:
        data: what `Tensor` takes. A torch tensor is shared, not copied; a number stays a number.
        requires_grad: whether gradients are wanted; False freezes the parameter.

    Raises:
        GradientDtypeError: the values are no floating-point numbers.

    >>> Parameter([1.0, 2.0])
    Parameter([1., 2.], requires_grad=True)
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad=requires_grad)

    def __repr__(self) -> str:
        return super().__repr__().replace("Tensor", "Parameter", 1)


class Buffer(Tensor):
    """A tensor that belongs to a module and is not learned, such as a running mean.

    It is saved, moved and copied with the module. Change it in place, as by `buffer.mul_(0.9)`:
    what is assigned in its place is another tensor, and no buffer.

    Args:
        data: what `Tensor` takes. A torch tensor is shared, not copied; a number stays a number.
        persistent: whether it is part of the module's state dict.

    >>> from tinygrad_ee559 import nn
    >>> module = nn.Module()
    >>> module.mean = Buffer(torch.zeros(2))
    >>> module.state_dict()
    {'mean': Tensor([0., 0.])}
    """

    __slots__ = ("persistent",)

    def __init__(self, data: Any, *, persistent: bool = True) -> None:
        super().__init__(data)
        self.persistent = persistent

    def __repr__(self) -> str:
        return super().__repr__().replace("Tensor", "Buffer", 1)


class IncompatibleKeys(NamedTuple):
    """What did not match when a state dict was loaded with `strict=False`."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """The base class of layers, losses and networks.

    Subclasses set parameters, buffers and modules as attributes and define `forward`; calling the
    module runs it. There is nothing else to do: `super().__init__()` may be left out.

    >>> class Scale(Module):
    ...     def __init__(self, size):
    ...         self.factor = Parameter(torch.ones(size))
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> scale = Scale(2)
    >>> scale(torch.tensor([3.0, 4.0]))
    Tensor([3., 4.], grad_fn=torch.mul)
    >>> dict(scale.named_parameters())
    {'factor': Parameter([1., 1.], requires_grad=True)}
    """

    #: Whether the module is being trained, for layers that then behave differently.
    training: bool = True

    def __new__(cls: type[Self], *_args: Any, **_kwargs: Any) -> Self:
        module = super().__new__(cls)
        if isinstance(cls.training, bool):  # and no property
            # A field from the beginning: one that was evaluated and goes on is what it was before.
            vars(module)["training"] = cls.training
        return module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = next_order()
        output = self.forward(*args, **kwargs) if kwargs else self.forward(*args)
        if isinstance(output, Tensor):
            node = output.node
            if node is not None and node.__class__ is not Leaf:
                node.scope = (self, start, node.scope)
        return output

    def _no_forward(self, *_args: Any, **_kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    #: What the module computes; subclasses define it, with any parameters.
    forward: Callable[..., Any] = _no_forward

    # ------------------------------------------------------- what belongs to it

    def _fields(self) -> Mapping[str, Any]:
        """Where what belongs to it is looked for, by the name that begins the paths there."""
        return vars(self)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly in this one, each once, with their names."""
        seen: set[Module] = set()
        for name, module in _members(self, Module):
            if module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules directly in this one, each once."""
        return (module for _, module in self.named_children())

    def named_modules(self, *, remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """This module, named "", and all that it holds at any depth, with their paths.

        Args:
            remove_duplicate: give a module that stands in several places only once.

        Raises:
            ModuleCycleError: a module holds itself.
        """
        return _walk(self, "", {}, set() if remove_duplicate else None)

    def modules(self) -> Iterator[Module]:
        """This module and all that it holds at any depth, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self, *, remove_duplicate: bool = True) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their paths, such as `layers.0.weight`, in PyTorch's order.

        Args:
            remove_duplicate: give a parameter that stands in several places only once.

        Raises:
            ModuleCycleError: a module holds itself.
        """
        seen: set[Parameter] = set()
        for path, module in self.named_modules(remove_duplicate=remove_duplicate):
            for name, parameter in _members(module, Parameter):
                if not (remove_duplicate and parameter in seen):
                    seen.add(parameter)
                    yield _joined(path, name), parameter

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self, *, remove_duplicate: bool = True) -> Iterator[tuple[str, Buffer]]:
        """All buffers with their paths, in PyTorch's order.

        Args:
            remove_duplicate: give a buffer that stands in several places only once.

        Raises:
            ModuleCycleError: a module holds itself.
        """
        seen: set[Buffer] = set()
        for path, module in self.named_modules(remove_duplicate=remove_duplicate):
            for name, buffer in module._own_buffers():
                if not (remove_duplicate and buffer in seen):
                    seen.add(buffer)
                    yield _joined(path, name), buffer

    def buffers(self) -> Iterator[Buffer]:
        """All buffers, each once."""
        return (buffer for _, buffer in self.named_buffers())

    def _own_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Those of this module itself."""
        return _members(self, Buffer)

    # -------------------------------------------------------------- saved state

    def _state(self) -> dict[str, Tensor]:
        """What is saved: module by module its parameters, and its persistent buffers."""
        state: dict[str, Tensor] = {}
        for path, module in self.named_modules(remove_duplicate=False):
            for name, parameter in _members(module, Parameter):
                state[_joined(path, name)] = parameter
            for name, buffer in module._own_buffers():
                if buffer.persistent:
                    state[_joined(path, name)] = buffer
        return state

    def state_dict(self) -> dict[str, Tensor]:
        """All parameters and persistent buffers by path, sharing memory with the module.

        They are without gradients.
        """
        return {name: tensor.detach() for name, tensor in self._state().items()}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy values into the parameters and persistent buffers, in place.

        Args:
            state_dict: a `Tensor` or torch tensor for each path, as `state_dict` gives them, here
                or in PyTorch.
            strict: the paths must be exactly those of this module.

        Returns:
            The paths that one side has and the other has not.

        Raises:
            StateDictError: paths or shapes differ; names all of them, and nothing was changed.
        """
        state = self._state()
        keys = IncompatibleKeys(
            [key for key in state if key not in state_dict],
            [key for key in state_dict if key not in state],
        )
        problems = []
        if strict and keys.missing_keys:
            problems.append(f"missing: {', '.join(keys.missing_keys)}")
        if strict and keys.unexpected_keys:
            problems.append(f"unexpected: {', '.join(keys.unexpected_keys)}")
        values = {key: state_dict[key] for key in state if key in state_dict}
        for key, value in values.items():
            shape = state[key].shape
            if not isinstance(value, (Tensor, torch.Tensor)):
                problems.append(f"{key}: expected a tensor, got {type(value).__name__}")
            elif value.shape != shape:
                problems.append(f"{key}: expected shape {list(shape)}, got {list(value.shape)}")
        if problems:
            raise StateDictError(
                f"this state dict does not fit {type(self).__name__}; {'; '.join(problems)}"
            )
        for key, value in values.items():
            data = state[key].data
            if isinstance(data, torch.Tensor):
                data.copy_(Tensor(value).as_torch())
            else:  # a plain number
                state[key].data = type(data)(value)
        return keys

    # ------------------------------------------------------------------- changes

    def train(self: Self, mode: bool = True) -> Self:
        """Set `training` here and in all modules inside."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: Self) -> Self:
        """Set `training` to False here and in all modules inside."""
        return self.train(False)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients: every `grad` becomes None, or zeros if not `set_to_none`."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                zeros = None if set_to_none else Tensor(torch.zeros_like(parameter.as_torch()))
                parameter.grad = zeros

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Have all parameters require gradients, or none: the latter freezes the module."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def to(
        self: Self,
        device: torch.device | str | int | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Move all parameters, gradients and buffers to a device, or convert them, or both.

        Numbers that are no floating-point ones keep their dtype. The parameters stay the same
        objects, so that an optimizer which has them goes on working.

        Args:
            device: the device; a dtype may stand here too, as in `module.to(torch.float64)`.
            dtype: the floating-point dtype.

        Raises:
            TypeError: the dtype is not a floating-point one.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"a module can have floating-point dtypes only, not {dtype}")
        for parameter in self.parameters():
            gradient = parameter.grad
            wanted = dtype if parameter.is_floating_point() else None
            parameter.data = parameter.as_torch().to(device=device, dtype=wanted)
            if gradient is not None:
                parameter.grad = Tensor(gradient.as_torch().to(device=device, dtype=wanted))
        for module in self.modules():
            module._move_buffers(device, dtype)
        return self

    def _move_buffers(self, device: Any, dtype: torch.dtype | None) -> None:
        """Do `to` for the buffers of this module itself."""
        for _, buffer in self._own_buffers():
            wanted = dtype if buffer.is_floating_point() else None
            buffer.data = buffer.as_torch().to(device=device, dtype=wanted)

    def reset_parameters(self) -> None:
        """Have all layers inside begin anew: parameters are drawn, running statistics forgotten.

        With the same `torch.manual_seed`, the numbers are those of a new module, if this one was
        made layer by layer and none of them stands in two places. Modules with parameters of their
        own say how these begin in a method of this name; it is for their constructors too.

        Raises:
            NotImplementedError: a module with parameters of its own does not say so.

        >>> from tinygrad_ee559 import nn
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
        >>> first = model[0].weight.item()
        >>> _ = torch.manual_seed(0)
        >>> model.reset_parameters()
        >>> model[0].weight.item() == first
        True
        """
        own = [name for name, _ in _members(self, Parameter)]
        if own and type(self).reset_parameters is Module.reset_parameters:
            raise NotImplementedError(
                f"{self._get_name()} has parameters of its own ({', '.join(own)}), and does not "
                "define how they begin; give it a method reset_parameters()"
            )
        for module in self.children():
            module.reset_parameters()

    def apply(self: Self, function: Callable[[Module], Any]) -> Self:
        """Call a function on every module: on those inside a module first, on this one last.

        >>> from tinygrad_ee559 import nn
        >>> def zero(module):
        ...     if isinstance(module, nn.Linear):
        ...         nn.init.zeros_(module.bias)
        >>> nn.Sequential(nn.Linear(2, 3), nn.ReLU()).apply(zero)[0].bias
        Parameter([0., 0., 0.], requires_grad=True)
        """
        for _, module in _walk(self, "", {}, None, outer_first=False):
            function(module)
        return self

    # -------------------------------------------------------------------- printed

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What stands between the parentheses of the module's `repr`; subclasses define it."""
        return ""

    @recursive_repr()
    def __repr__(self) -> str:
        name, extra = self._get_name(), self.extra_repr()
        lines = [f"({key}): {child!r}" for key, child in _members(self, Module)]
        if not lines:
            return f"{name}({extra})"
        if extra:
            lines.insert(0, extra)
        return "\n".join((f"{name}(", *(indent(line, "  ") for line in lines), ")"))


def _walk(
    module: Module,
    path: str,
    above: dict[Module, str],
    seen: set[Module] | None,
    outer_first: bool = True,
) -> Iterator[tuple[str, Module]]:
    """A module and those inside it with their paths; `above` has the modules around this one."""
    if module in above:
        raise ModuleCycleError(
            f"a module cannot contain itself, and {path} is the same {type(module).__name__} as "
            f"{above[module] or 'the whole'}"
        )
    if seen is not None:
        if module in seen:
            return
        seen.add(module)
    if outer_first:
        yield path, module
    above = {**above, module: path}
    for name, child in _members(module, Module):
        yield from _walk(child, _joined(path, name), above, seen, outer_first)
    if not outer_first:
        yield path, module


def _members(module: Module, kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
    """The fields of one kind, those in lists, tuples and dicts included."""
    for name, value in module._fields().items():
        for path, item in _opened(name, value):
            if isinstance(item, kind):
                yield path, item


def _opened(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value by its name, or the values in it if it is a container."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _opened(f"{name}.{key}", item)
    else:
        yield name, value


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
