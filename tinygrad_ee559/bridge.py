"""PyTorch's own modules on the tape: `from_torch` and the way back, `to_torch`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tinygrad_ee559.dispatch import StandIn
from tinygrad_ee559.errors import NoRuleError
from tinygrad_ee559.nn.module import Buffer, Module, Parameter
from tinygrad_ee559.private import tree_map
from tinygrad_ee559.tape import next_order
from tinygrad_ee559.tensor import Tensor, lift

#: PyTorch's modules are given their parameters for the time of a call, which is for all threads.
_ONE_AT_A_TIME = threading.RLock()


class _TheirBuffer(Buffer):
    """A buffer of a PyTorch module: its value is always the one that the module has."""

    __slots__ = ("_place", "_name")

    def __init__(self, module: torch.nn.Module, name: str) -> None:
        self._place = module._buffers
        self._name = name
        self.node = None
        self.persistent = name not in module._non_persistent_buffers_set

    @property
    def _data(self) -> Any:
        return self._place[self._name]

    @_data.setter
    def _data(self, value: Any) -> None:
        self._place[self._name] = torch.as_tensor(value)

    def _like(self, data: Any) -> Tensor:
        return Buffer(data, persistent=self.persistent)


class TorchModule(Module):
    """A module of PyTorch's whose own `forward` runs on the tape; made by `from_torch`."""

    def __init__(self, module: torch.nn.Module, known: dict[Any, Any]) -> None:
        known[module] = self
        self.module = module
        self._own: dict[str, Any] = {}
        for name, child in module._modules.items():
            if child is not None:
                self._own[name] = known.get(child) or TorchModule(child, known)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in known:
                    known[parameter] = Parameter(parameter, parameter.requires_grad)
                self._own[name] = known[parameter]

    @property
    def training(self) -> bool:
        return self.module.training

    @training.setter
    def training(self, mode: bool) -> None:
        self.module.training = mode

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        stand_ins = {id(p): StandIn(p) for p in self.parameters()}
        named = self.named_parameters(remove_duplicate=False)
        parameters: dict[str, torch.Tensor] = {path: stand_ins[id(p)] for path, p in named}
        args, kwargs = tree_map(_shown_to_torch, (args, kwargs))
        weights = self._flat_weights()
        with _ONE_AT_A_TIME, self._watched(), _Surroundings():
            try:
                output = torch.func.functional_call(self.module, parameters, args, kwargs)
            finally:
                self._take_back_stand_ins()
                for module, lists in weights:
                    vars(module).update(lists)
        return tree_map(_shown_to_user, output)

    def _take_back_stand_ins(self) -> None:
        """What the module has kept in its attributes becomes tensors; in its buffers, values."""
        for module in self.module.modules():
            for name, value in module._buffers.items():
                if isinstance(value, StandIn):
                    module._buffers[name] = value.tensor.as_torch()
            for name, value in vars(module).items():
                if isinstance(value, StandIn):
                    vars(module)[name] = value.tensor

    def _flat_weights(self) -> list[tuple[torch.nn.Module, dict[str, Any]]]:
        """Lists in which recurrent modules keep their parameters once more, or what stands in."""
        return [
            (module, {name: vars(module)[name] for name in ("_flat_weights", "_flat_weight_refs")})
            for module in self.module.modules()
            if isinstance(module, torch.nn.RNNBase)
        ]

    def reset_parameters(self) -> None:
        """What PyTorch's layers do under this name, here and in the modules inside."""
        to_torch(self)  # where it sees the parameters
        reset = getattr(self.module, "reset_parameters", None)
        if reset is not None:
            reset()
            return
        own = [name for name, value in self._own.items() if isinstance(value, Parameter)]
        if own:
            raise NotImplementedError(
                f"{self._get_name()} has parameters of its own ({', '.join(own)}), and no "
                "reset_parameters()"
            )
        super().reset_parameters()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Inside, the calls of the modules in this one are noted on the tape, to be drawn."""
        starts: list[int] = []
        handles = []

        def begin(_module: Any, _args: Any) -> None:
            starts.append(next_order())

        def end(caller: TorchModule, output: Any) -> None:
            start = starts.pop()
            node = output.tensor.node if isinstance(output, StandIn) else None
            if node is not None and hasattr(node, "scope"):
                node.scope = (caller, start, node.scope)

        for caller in self.modules():
            if caller is not self and isinstance(caller, TorchModule):
                handles.append(caller.module.register_forward_pre_hook(begin))
                handles.append(
                    caller.module.register_forward_hook(
                        lambda _module, _args, output, caller=caller: end(caller, output),
                        always_call=True,
                    )
                )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _fields(self) -> Mapping[str, Any]:
        return self._own

    def _own_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Those that the module has now, as it may put others in their place."""
        for name, value in list(self.module._buffers.items()):
            if value is not None:
                yield name, _TheirBuffer(self.module, name)

    def __getattr__(self, name: str) -> Any:
        own = vars(self).get("_own", {})
        if name in own:
            return own[name]
        if "module" in vars(self):
            for path, buffer in self._own_buffers():
                if path == name:
                    return buffer
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __getitem__(self, index: int) -> Any:
        return list(self._own.values())[index]

    def _get_name(self) -> str:
        return type(self.module).__name__

    def extra_repr(self) -> str:
        return self.module.extra_repr()


def from_torch(module: torch.nn.Module) -> TorchModule:
    """A PyTorch module on the tape: its own `forward`, on tensors of this library.

    The parameters share memory with those of `module`, so that training the one trains the other.
    Buffers, such as the running statistics of a batch normalization, stay those of `module`, and
    are saved with the parameters.

    Args:
        module: any module that works on torch tensors.

    Returns:
        A `tinygrad_ee559.nn.Module` with the same paths of parameters.

    Raises:
        TypeError: `module` is no module of PyTorch's.
        NoRuleError: when called, if something that it computes has no gradient rule.

    >>> import torch
    >>> model = from_torch(torch.nn.Linear(3, 1))
    >>> model(Tensor(torch.ones(2, 3))).sum().backward()
    >>> model.weight.grad
    Tensor([[2., 2., 2.]])
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"from_torch takes a torch.nn.Module, not a {type(module).__name__}")
    return TorchModule(module, {})


def to_torch(module: Module) -> torch.nn.Module:
    """The PyTorch module that `from_torch` was given, with the weights as they are now.

    Raises:
        TypeError: the module does not come from `from_torch`.
    """
    if not isinstance(module, TorchModule):
        raise TypeError(
            f"to_torch gives back what from_torch was given, and {module._get_name()} was made "
            "here; load its state_dict() into a PyTorch module instead"
        )
    theirs = dict(module.module.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for path, parameter in module.named_parameters(remove_duplicate=False):
            theirs[path].data = parameter.as_torch()  # the same memory, unless it was moved
    return module.module


class _Surroundings(TorchFunctionMode):
    """What torch functions find inside a module.

    Tensors that the module makes can take values with a history: `out[i] = x`. A function with a
    backward of its own, written for torch.autograd, would be taken for a constant: torch runs it
    with recording switched off. It is refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recording = torch.is_grad_enabled()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if self.recording and not torch.is_grad_enabled():
            _refuse_autograd_functions(args)
        result = function(*args, **(kwargs or {}))
        if type(result) is torch.Tensor and function in _FACTORIES:
            return StandIn(lift(result, None))
        return result


def _refuse_autograd_functions(args: Any) -> None:
    """Raise an error if this is the forward of a torch.autograd.Function that wants a gradient."""
    if not any(isinstance(arg, StandIn) and arg.tensor.requires_grad for arg in args):
        return
    apply = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is apply:
            name = frame.f_locals["cls"].__name__
            raise NoRuleError(
                f"{name} is a torch.autograd.Function, whose backward is out of reach here; write "
                f"it as a rule: tinygrad_ee559.rule(function, lambda g, y, x: ...)"
            )
        frame = frame.f_back  # type: ignore[assignment]


_FACTORIES = frozenset({
    torch.zeros, torch.ones, torch.empty, torch.full, torch.zeros_like, torch.ones_like,
    torch.empty_like, torch.full_like, torch.Tensor.new_zeros, torch.Tensor.new_ones,
    torch.Tensor.new_empty, torch.Tensor.new_full,
})  # fmt: skip


def _shown_to_torch(value: Any) -> Any:
    return StandIn(value) if isinstance(value, Tensor) else value


def _shown_to_user(value: Any) -> Any:
    if isinstance(value, StandIn):
        return value.tensor
    return lift(value, None) if isinstance(value, torch.Tensor) else value
