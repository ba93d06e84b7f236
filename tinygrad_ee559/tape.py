"""The tape: nodes, and the pass that carries gradients back through them.

Calling a torch function on tensors that require gradients leaves a node: which rule applies, where
the gradients flow to (the edges), and the values that the rule wants to see again. Nothing here
knows `Tensor`; a graph consists of nodes alone, which hold raw torch tensors and plain numbers.

    Leaf         a tensor that the user made; its gradient gathers here
    NumberNode   one or two plain numbers went in, a plain number came out
    Node         a call of any other torch function
    NumbersNode  ... of more than two arguments, on plain numbers alone
    ForkNode     ... with several results, such as torch.split; each result is a Part
    ListNode     the list of tensors that went into a function such as torch.cat

A node is the list of its edges. Nodes are numbered downwards as they are made, so that results
come before operands in the order of their `order`. Nothing recurses.
"""

from __future__ import annotations

import dis
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from itertools import count
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor as TorchTensor

from tinygrad_ee559.errors import (
    ChangedInPlaceError,
    FreedGraphError,
    GradientShapeError,
    RuleError,
)
from tinygrad_ee559.private import is_batched
from tinygrad_ee559.rules.numbers import number_formulas
from tinygrad_ee559.rules.registry import Formula, Plan, Rule

#: Wraps a raw value and the edge it came from, so that torch functions called on it are recorded.
Lift = Callable[[Any, Any], Any]

#: One call of a module, kept with the node of its result, so that what it computed can be boxed in:
#: the module, the order that the nodes it made stay below, and the call inside it, if any, that
#: returned the same result.
Scope = tuple[Any, int, Any]

#: Among a node's hooks, stands for keeping the gradient as the node's `grad`.
RETAIN = "retain"
SCALAR = torch.Size()
#: The plain numbers that tensors wrap.
NUMBERS = frozenset({float, int, bool})
COMPLEX = frozenset({torch.complex32, torch.complex64, torch.complex128})
#: To which autocast converts operands.
HALF = frozenset({torch.bfloat16, torch.float16})
SPECIAL = COMPLEX | HALF

next_order = count(0, -1).__next__
_by_order = attrgetter("order")


class _Edges(list[Any]):
    """A list that is itself, whatever it holds: compared and hashed by identity.

    Edges are kept in the node and not beside it because a graph may have millions of nodes, and
    Python's garbage collector looks at every container.
    """

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__


class Leaf(_Edges):
    """Where the gradient of a tensor that the user made gathers."""

    __slots__ = ("data", "shape", "dtype", "grad", "hooks", "order", "frozen")

    def __init__(self, data: Any) -> None:
        self.order = next_order()
        self.grad: Any = None
        self.hooks: list[Any] | None = None
        #: Whether its tensor has stopped requiring gradients.
        self.frozen = False
        self.hold(data)

    def __setstate__(self, state: tuple[None, dict[str, Any]]) -> None:
        """Copied or unpickled, it is as new as any: the order counts within a process."""
        for name, value in state[1].items():
            setattr(self, name, value)
        self.order = next_order()

    def hold(self, data: Any) -> None:
        """Take note of the tensor's value; a plain number has neither shape nor dtype."""
        self.data = data
        self.shape: torch.Size | None
        self.dtype: torch.dtype | None
        if data.__class__ is float:
            self.shape = self.dtype = None
        else:
            self.shape = data.shape
            self.dtype = data.dtype


class NumberNode:
    """An operation on one or two plain numbers: z = rule(x) or z = rule(x, y).

    `a` and `b` are the edges of x and y, `flow` is the gradient that came through last.
    """

    __slots__ = ("rule", "a", "b", "x", "y", "z", "order", "hooks", "flow", "grad", "scope")
    rule: Rule
    a: Any
    b: Any
    x: float | None
    y: float | None
    z: float
    order: int
    hooks: list[Any] | None
    flow: Any
    grad: Any
    scope: Scope | None
    shape = None
    dtype = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.a,) if self.b is None else (self.a, self.b))

    def recall(self, lift: Lift, record: bool) -> tuple[Any, ...]:
        """The result and the operands, as torch functions can be called on them."""
        a, b, result = (self.a, self.b, self) if record else (None, None, None)
        z, x = lift(self.z, result), lift(self.x, a)
        if self.y is None:
            return z, x
        return z, x, lift(self.y, b) if self.y.__class__ in NUMBERS else self.y  # or an option


def number_node(rule: Rule, x: Any, y: Any, z: Any, a: Any, b: Any) -> NumberNode:
    """A new `NumberNode`; quicker than an `__init__`, for expressions of millions of numbers."""
    node = NumberNode()
    node.rule = rule
    node.x = x
    node.y = y
    node.z = z
    node.a = a
    node.b = b
    node.hooks = node.scope = None
    node.order = next_order()
    return node


class Node(_Edges):
    """One call of a torch function: the list of nodes that its gradients flow to.

    `saved` is the result and the arguments as the formulas want to see them, and `guards` the
    tensors among these with their versions. `shape` is that of the result, None for a plain number.
    """

    __slots__ = (
        "plan", "saved", "guards", "shape", "dtype", "order", "hooks", "flow", "grad", "scope",
    )  # fmt: skip

    plan: Plan
    saved: tuple[Any, ...] | None
    guards: Sequence[tuple[torch.Tensor, int]]
    shape: torch.Size | None
    dtype: torch.dtype | None
    hooks: list[Any] | None
    scope: Scope | None

    def record(self, plan: Plan, args: list[Any], out: Any) -> None:
        """Save what `plan` wants to see again of a call and its result."""
        self.plan = plan
        self.order = next_order()
        self.hooks = self.scope = None
        if out.__class__ is TorchTensor:
            self.shape = out.shape or SCALAR  # the same object for all, to save memory
            self.dtype = out.dtype
        else:
            self.shape = self.dtype = None
        if plan.nothing:
            self.saved = plan.nothing
            self.guards = ()
            return
        guards: list[tuple[torch.Tensor, int]] = []
        for i in plan.kept:
            arg = args[i]
            if arg.__class__ is TorchTensor:
                guards.append((arg, arg._version))
            elif arg.__class__ is list or arg.__class__ is tuple:  # an index, say
                args[i] = arg.__class__(arg)  # the caller may change his list
                guards.extend((t, t._version) for t in arg if isinstance(t, TorchTensor))
        for i in plan.dropped:
            args[i] = None
        for i in plan.reduced:
            args[i] = _stand_in(plan, i, args[i])
        if not plan.output:
            out = None
        elif out.__class__ is TorchTensor:
            guards.append((out, out._version))
        elif out.__class__ is tuple:
            guards.extend((o, o._version) for o in out if o is not None)
        self.saved = (out, *args)
        self.guards = guards or ()

    @property
    def rule(self) -> Rule:
        return self.plan.rule

    def recall(self, lift: Lift, record: bool) -> tuple[Any, ...]:
        """The result and the arguments, as torch functions can be called on them."""
        assert self.saved is not None
        out, *args = self.saved
        edges = dict(zip(self.plan.positions, self)) if record else {}
        return None if out is None else self.lifted_out(lift), *_lifted(self, args, lift, edges)

    def lifted_out(self, lift: Lift) -> Any:
        assert self.saved is not None
        return lift(self.saved[0], self)


class NumbersNode(Node):
    """A call on more than two arguments, all of them plain numbers, and so is its result."""

    __slots__ = ()

    def recall(self, lift: Lift, record: bool) -> tuple[Any, ...]:
        assert self.saved is not None
        out, *args = self.saved
        # All numbers: a condition too, as torch.where does not take Python's bool for a tensor.
        edges = {i: None for i, arg in enumerate(args) if arg.__class__ in NUMBERS}
        if record:
            edges.update(zip(self.plan.positions, self))
        y = None if out is None else lift(out, self if record else None)
        return y, *_lifted(self, args, lift, edges)


class ForkNode(Node):
    """A call with several results. Its gradient is a list, with an entry per result."""

    __slots__ = ("parts",)

    def __init__(self, plan: Plan, edges: list[Any], args: list[Any], out: Any) -> None:
        super().__init__(edges)
        self.record(plan, args, (None, *out[1:]) if plan.rest else out)
        self.parts = [(o.shape, o.dtype) for o in out]
        self.dtype = next((dtype for _, dtype in self.parts if dtype.is_complex), None)

    def lifted_out(self, lift: Lift) -> Any:
        assert self.saved is not None
        return [
            o if o is None else lift(o, Part(self, i) if carries_gradient(o.dtype) else None)
            for i, o in enumerate(self.saved[0])
        ]

    def filled(self, g: list[Any]) -> list[Any]:
        """The gradient with zeros for the results that nobody used."""
        some = next(gradient for gradient in g if gradient is not None)
        return [
            some.new_zeros(shape, dtype=dtype)
            if gradient is None and carries_gradient(dtype)
            else gradient
            for gradient, (shape, dtype) in zip(g, self.parts)
        ]


class Part(_Edges):
    """One of several results of a `ForkNode`."""

    __slots__ = ("position", "shape", "dtype", "order", "hooks", "flow", "grad", "scope")

    def __init__(self, fork: ForkNode, position: int) -> None:
        self.append(fork)
        self.position = position
        self.shape, self.dtype = fork.parts[position]
        self.order = next_order()
        self.hooks: list[Any] | None = None
        self.scope: Scope | None = None

    @property
    def rule(self) -> Rule:
        return self[0].rule  # type: ignore[no-any-return]

    def join(self, g: Any, grads: dict[Any, Any]) -> None:
        """Add the gradient of this result to the list that is the gradient of the fork.

        A formula that sees the results again sees them as other parts of the same fork.
        """
        fork = self[0]
        if fork not in grads:
            grads[fork] = [None] * len(fork.parts)
        arrived = grads[fork][self.position]
        grads[fork][self.position] = g if arrived is None else arrived + g


class ListNode(_Edges):
    """The list of tensors that went into one call. Its gradient is a list too.

    An item that needs no gradient has None for its edge.
    """

    __slots__ = ("order", "hooks")
    shape = None
    dtype = None

    def __init__(self, edges: list[Any]) -> None:
        self.extend(edges)
        self.order = next_order()
        self.hooks = None


def topological(roots: Iterable[Any], ends: Iterable[Any] = ()) -> list[Any]:
    """All nodes from which `roots` were computed, results before operands; no leaves.

    What the `ends` were computed from, and they themselves, are left out.
    """
    seen = {None, *ends}
    nodes = [n for n in dict.fromkeys(roots) if n.__class__ is not Leaf and n not in seen]
    seen.update(nodes)
    for node in nodes:
        if node.__class__ is NumberNode:  # a loop over two would cost more than the rest
            edge = node.a
            if edge not in seen and edge.__class__ is not Leaf:
                seen.add(edge)
                nodes.append(edge)
            edge = node.b
            if edge not in seen and edge.__class__ is not Leaf:
                seen.add(edge)
                nodes.append(edge)
            continue
        for edge in node:
            if edge.__class__ is not Leaf and edge not in seen:
                seen.add(edge)
                nodes.append(edge)
    nodes.sort(key=_by_order)
    return nodes


def propagate(
    gradients: Mapping[Any, Any],
    lift: Lift,
    *,
    record: bool = False,
    retain: bool = False,
    targets: Iterable[Any] | None = None,
    stop: bool = False,
) -> dict[Any, Any]:
    """Carry gradients back from the roots.

    Args:
        gradients: the gradient of each root.
        lift: wraps a value and its edge in what torch functions can be recorded on.
        record: run the formulas on lifted values, so that what they compute is on the tape too.
        retain: keep saved values, so that the graph can be used again.
        targets: the nodes whose gradients are wanted; all leaves if None.
        stop: go no further than the targets, whatever they were computed from.

    Returns:
        The gradient of each target (or leaf) that the roots depend on.
    """
    if record:
        with torch.enable_grad():
            return _propagate(gradients, lift, True, retain, targets, stop)
    return _propagate(gradients, lift, False, retain, targets, stop)


def _propagate(
    gradients: Mapping[Any, Any],
    lift: Lift,
    record: bool,
    retain: bool,
    targets: Iterable[Any] | None,
    stop: bool,
) -> dict[Any, Any]:
    grads = dict(gradients)
    inner = wanted = None
    if targets is not None:
        sought = frozenset(targets)
        inner = _leading_to(sought, topological(gradients, sought if stop else ()))
        wanted = inner | sought
        grads = {node: gradients[node] for node in wanted.intersection(gradients)}
    found: dict[Any, Any] = {}
    overridden = _overridden.rules
    # Nodes at which gradients have arrived. The first in order has no results left to hear from.
    pending = [(node.order, node) for node in grads if node.__class__ is not Leaf]
    heapify(pending)
    while pending:
        node = heappop(pending)[1]
        g = grads.pop(node)
        if node.hooks is not None:
            g = _run_hooks(node, g, lift, record)
        if inner is not None:
            if node in sought:
                found[node] = g
            if node not in inner:
                continue
        kind = node.__class__
        if kind is NumberNode:
            node.flow = g
            rule = node.rule
            if overridden:
                rule = overridden.get(rule, rule)
            formulas = rule.number_formulas or number_formulas(rule)
            a, b = node.a, node.b
            x, y, z = node.x, node.y, node.z
            if x is None or (b is not None and y is None):
                raise _freed(node)
            direct = formulas and not record and z == z  # not for NaN: Python has other ideas
            if direct:
                # What a number costs is less than a call, so its arithmetic is done right here.
                try:
                    if a is not None:
                        da = formulas[0](g, z, x) if y is None else formulas[0](g, z, x, y)  # type: ignore[misc]
                    if b is not None:
                        db = formulas[1](g, z, x, y)  # type: ignore[misc]
                except (ArithmeticError, ValueError, AttributeError):
                    direct = False
            if not direct:
                da, db = _pull_numbers(node, rule, g, lift, record)
            if a is not None and (wanted is None or a in wanted):
                _arrive(da, a, grads, pending)
            if b is not None and (wanted is None or b in wanted):
                _arrive(db, b, grads, pending)
            if not retain and rule.keeps:  # a constant stays, to be drawn
                if a is not None:
                    node.x = None
                else:
                    node.y = None
            continue
        if kind is not Node:
            if kind is Part:
                fork = node[0]
                if fork not in grads:
                    heappush(pending, (fork.order, fork))
                node.join(g, grads)
                continue
            if kind is ListNode:
                for edge, d in zip(node, g, strict=True):
                    if edge is not None and (wanted is None or edge in wanted):
                        d = _fitted(d, edge, node, lift, record)
                        _arrive(d, edge, grads, pending)
                continue
            if kind is NumbersNode:
                node.flow = g
                g = g if record else lift(g, None)
            else:
                g = node.filled(g)
        if node.shape is SCALAR:
            node.flow = g
        saved, plan = node.saved, node.plan
        if saved is None:
            raise _freed(node)
        for tensor, version in node.guards:
            if tensor._version != version:
                raise _changed(node, tensor, version)
        if record or kind is NumbersNode:
            saved = node.recall(lift, record)
        if overridden and plan.rule in overridden:
            plan = _other_plan(node, overridden[plan.rule])
        formulas = plan.formulas
        conjugate = False
        if node.dtype in SPECIAL:
            conjugate = node.dtype in COMPLEX and plan.rule.holomorphic
            if conjugate:
                g = _conjugated(g)
            if node.dtype in HALF:
                formulas = _cast(formulas, node)
        given = (g, *saved)
        for formula, edge in zip(formulas, node):
            if wanted is None or edge in wanted:
                d = formula(*given)
                if conjugate:
                    d = _conjugated(d)
                if (
                    record
                    or d.__class__ is not TorchTensor
                    or d.shape != edge.shape
                    or d.dtype is not edge.dtype
                ):
                    d = _fitted(d, edge, node, lift, record)
                _arrive(d, edge, grads, pending)
        if not retain and (node.guards or node.plan.keeps):  # the graph itself stays, to be drawn
            node.saved = None
            node.guards = ()
    for leaf in grads:  # what is left has arrived at leaves
        if leaf.hooks is not None:
            grads[leaf] = _run_hooks(leaf, grads[leaf], lift, record)
    return {**found, **grads} if found else grads


class _Overridden(threading.local):
    """What each thread has for `overridden`."""

    rules: Mapping[Rule, Rule] = MappingProxyType({})


_overridden = _Overridden()


def overridden() -> Mapping[Rule, Rule]:
    """The rules that stand in for others, in this thread."""
    return _overridden.rules


@contextmanager
def overriding_rule(rule: Rule, other: Rule) -> Iterator[None]:
    """Inside, in this thread, gradients go through `other` where calls were recorded by `rule`.

    What is recorded inside keeps what either of them needs.
    """
    before = _overridden.rules
    rule.keep_for(*rule.others, other)
    _overridden.rules = {**before, rule: other}
    try:
        yield
    finally:
        _overridden.rules = before
        rule.keep_for(*(kept for kept in rule.others if kept is not other))


def _other_plan(node: Node, other: Rule) -> Plan:
    """How `other` gets the gradients of a node that was recorded by another rule."""
    assert node.saved is not None
    plan = Plan(other, sum(1 << i for i in node.plan.positions), len(node.saved) - 1)
    used = set().union(*map(_used_parameters, plan.formulas))
    missing = [other.parameters[i] for i in sorted(plan.values - node.plan.values)]
    missing = [name for name in missing if name in used]
    if plan.output and not node.plan.output and "y" in used:
        missing.append("the result")
    if missing:
        raise RuleError(
            f"the overriding rule of {node.rule.name} needs {' and '.join(missing)}, which was not "
            "kept; run the function inside override_rule too"
        )
    return plan


def _used_parameters(formula: Any) -> set[str]:
    """Those that the formula does anything with."""
    code = getattr(formula, "__code__", None)
    if code is None:
        return set(inspect.signature(formula).parameters)
    return {str(i.argval) for i in dis.get_instructions(code) if i.opname.startswith("LOAD_")}


def _fitted(d: Any, edge: Any, node: Any, lift: Lift, record: bool) -> Any:
    """A gradient that `node` has computed, as it is added to what has arrived at `edge`."""
    if d is None:
        return None
    if record and d.__class__ is TorchTensor:
        d = lift(d, None)
    if (d.__class__ is not list and d.__class__ is not tuple) and (
        d.shape != edge.shape or d.dtype is not edge.dtype
    ):
        d = _fit(d, edge, node, record)
    return d


def _arrive(d: Any, edge: Any, grads: dict[Any, Any], pending: list[Any]) -> None:
    """Add a gradient, if any, to what has arrived at `edge`, pending from the first one on."""
    if d is None:
        return
    if edge in grads:
        grads[edge] = grads[edge] + d
    else:
        grads[edge] = d
        if edge.__class__ is not Leaf:
            heappush(pending, (edge.order, edge))


def _pull_numbers(node: NumberNode, rule: Rule, g: Any, lift: Lift, record: bool) -> list[Any]:
    """The gradients of a number's operands, where that takes more than Python's arithmetic."""
    recalled = node.recall(lift, record)
    g = g if record else lift(g, None)
    pulled = [
        None if edge is None or formula is None else formula(g, *recalled)
        for formula, edge in zip((*rule.formulas, None), (node.a, node.b))
    ]
    return pulled if record else [None if d is None else d.data for d in pulled]


def carries_gradient(dtype: torch.dtype) -> bool:
    """Whether numbers of this kind can have gradients: real and complex ones, not integers."""
    return dtype.is_floating_point or dtype.is_complex


def _conjugated(g: Any) -> Any:
    """A gradient conjugated; for several results or operands, all of theirs."""
    if g is None:
        return None
    if g.__class__ is list or g.__class__ is tuple:
        return [_conjugated(item) for item in g]
    return torch.conj(g)


def _cast(formulas: Sequence[Formula], node: Node) -> Sequence[Formula]:
    """The formulas under autocast, if a node was recorded there: operands have other dtypes."""
    for value in node.saved or ():
        if not isinstance(value, TorchTensor) or not value.is_floating_point():
            continue
        if value.dtype is not node.dtype:
            cast = torch.autocast(value.device.type, node.dtype)
            return [cast(formula) for formula in formulas]
    return formulas


def _leading_to(targets: frozenset[Any], nodes: list[Any]) -> set[Any]:
    """The nodes that gradients must go through to reach the targets."""
    leading: set[Any] = set()
    for node in reversed(nodes):
        if any(edge in targets or edge in leading for edge in node):
            leading.add(node)
    return leading


def _fit(d: Any, edge: Any, node: Any, record: bool) -> Any:
    """Undo the broadcasting and the type promotion that the operand behind `edge` went through."""
    shape = edge.shape
    if shape is None:  # the operand was a plain number
        if node.shape is None:
            return d if record else d.data
        return d.sum() if record else as_number(d.sum())
    if d.dtype.is_complex and not edge.dtype.is_complex:
        d = torch.real(d)
    if d.shape != shape:
        if not _broadcasts(shape, d.shape):
            raise GradientShapeError(
                f"the rule of {node.rule.name} gave a gradient of shape {list(d.shape)} for an "
                f"operand of shape {list(shape)}"
            )
        d = d.sum_to_size(shape)
    return d if d.dtype is edge.dtype else d.to(edge.dtype)


def as_number(value: torch.Tensor) -> Any:
    """The number in a tensor; the tensor itself inside vmap, where it stands for many numbers."""
    return value if is_batched(value) else value.item()


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Whether an operand of `shape` broadcasts to the shape `to`."""
    return len(shape) <= len(to) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(to))
    )


def _run_hooks(node: Any, g: Any, lift: Lift, record: bool) -> Any:
    """The gradient as the node's hooks want it."""
    for hook in tuple(node.hooks):
        given = g if record else lift(g, None)
        if hook is RETAIN:
            kept = getattr(node, "grad", None)
            node.grad = given if kept is None else kept + given
            continue
        changed = hook(given)
        if changed is None:
            continue
        if changed.shape != given.shape:
            raise GradientShapeError(
                f"a hook returned a gradient of shape {tuple(changed.shape)} in place of one of "
                f"shape {tuple(given.shape)}"
            )
        g = changed if record else changed.data
    return g


def _lifted(node: Node, args: list[Any], lift: Lift, edges: Mapping[int, Any]) -> list[Any]:
    """The saved arguments, each with the edge that it came from."""
    plan = node.plan
    for i in plan.kept:
        if i in edges or isinstance(args[i], TorchTensor):
            edge = edges.get(i)
            if i == plan.list_position:
                args[i] = [lift(item, e) for item, e in zip(args[i], edge or ())]
            else:
                args[i] = lift(args[i], edge)
    return args


def _stand_in(plan: Plan, position: int, arg: Any) -> Any:
    """What is kept of an argument of which no formula needs the value, but the look."""
    if arg.__class__ is TorchTensor:
        return arg.shape if position in plan.shapes else arg.new_empty(0)
    return [_stand_in(plan, position, t) for t in arg] if position == plan.list_position else arg


def _freed(node: Any) -> FreedGraphError:
    return FreedGraphError(
        f"the values that {node.rule.name} had saved were given back by an earlier backward pass; "
        f"call that one with retain_graph=True to go through the graph twice"
    )


def _changed(node: Node, tensor: torch.Tensor, version: int) -> ChangedInPlaceError:
    assert node.saved is not None
    names = dict(zip(map(id, node.saved), ("its result", *node.rule.parameters)))
    name = names.get(id(tensor), "a tensor")
    return ChangedInPlaceError(
        f"{node.rule.name} saved {name}, of shape {list(tensor.shape)}, for the backward pass, "
        f"and it was changed in place since (version {tensor._version}, saved at {version}); "
        "change a copy instead"
    )

