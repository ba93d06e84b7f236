"""Capture: what one run of a function did, as a graph of operators and what that is connected to.

A captured run is a run like any other. Of tensors that operators worked on it is found out where
they came from, and of those that they made, where they were left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx

from tinygrad_ee559.compiling.places import SCALARS, Look, Place, has_frozen_gradient
from tinygrad_ee559.compiling.recorder import NoReading, Recorder
from tinygrad_ee559.compiling.state import State
from tinygrad_ee559.errors import CaptureError, MixedGraphError
from tinygrad_ee559.private import tree_flatten, tree_unflatten
from tinygrad_ee559.tape import Leaf, Node, next_order, topological
from tinygrad_ee559.tensor import Tensor, gathering, leaf_of, lift

_next_number = count().__next__


class Gradient(NamedTuple):
    """The gradient that an argument has gathered."""

    argument: int


class Effect(NamedTuple):
    """Where the run left a tensor, whether it is wrapped as a `Tensor` there, and whether in the
    same one as before."""

    place: Place
    wrapped: bool
    inside: bool


class Result(NamedTuple):
    """A tensor that the function returns: the number of an output, whether it is wrapped as a
    `Tensor`, and the number of the input that it is, if it is one."""

    output: int
    wrapped: bool
    input: int | None


class Capture:
    """What one run did.

    Attributes:
        graph: the operators. Its outputs are the tensors among the function's results, and then
            those that were left behind in places.
        inputs: the tensors that the graph was run on.
        sources: where each input comes from: the number of an argument, its `Gradient`, a `Place`,
            or the tensor itself, where it is reachable by no path.
        shared: pairs of places that had the same tensor, or of the number of an argument and a
            place.
        returned: what the function returned.
        effects: where the last outputs were left: an `Effect`, or the number of the argument whose
            gradient they are.
        moves: where inputs were left as they are: a place, whether wrapped, and the input's number,
            or None where a tensor was taken away.
        freezes: the tensors that it froze, or let require gradients again, and which of these.
        exchanges: places that got another one of the tensors in which gradients gather, and this.
        replaced: the places in which something else was left.
        carries: whether the next run begins with something else, as one of them is a source, or as
            tensors were frozen or exchanged.
        missing: the ids of the leaves that had no gradient before the run.
        tapes: the places of tensors with a history through which gradients went, and their nodes.
        changes: what else has changed, in words.
        state: what the run found.
        looks: how the tensors looked that it found.
        text: the graph and all that it is connected to; equal for runs that did the same.
    """

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        leaves = tree_flatten((args, kwargs))[0]
        for leaf in leaves:
            _check_argument(leaf)
        self.state = State(function, leaves)
        self.missing = {id(leaf) for leaf in self.state.leaves if leaf.grad is None}
        self.looks = [Look(value) for value in self.state.found]
        found = [place.tensor() for place in self.state.tensors]
        places = self.state.by_tensor()
        recorder = Recorder()
        raws = [leaf._data if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        for raw in raws:
            if isinstance(raw, torch.Tensor):
                recorder.node_of(raw)
        gathered = [_gradient_state(leaf) for leaf in leaves]
        start = next_order()
        with self._watched(leaves, start), recorder, NoReading() as reading:
            self.returned = function(*args, **kwargs)
        refusal = recorder.refusal or reading.refusal
        if refusal is not None:  # and the function took no notice
            raise refusal
        recorder.check_random_state()
        _check_same_arguments(leaves, raws, gathered, tree_flatten((args, kwargs))[0])
        after = State(function, leaves, start)
        self.changes = self.state.changes(after)
        self.freezes = self.state.freezes(after)
        exchanged = self.state.exchanges(after)
        self.exchanges = [(p, t) for p, t in exchanged if id(t) in self.state.frozen]
        new = [(place, t) for place, t in exchanged if id(t) not in self.state.frozen]
        _check_keeps_no_argument(self.exchanges, leaves)
        outputs = self._results(recorder)
        self.collected = len(outputs)
        owners = {id(leaf.node): i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        outputs += self._left(recorder, found, after, owners)
        self._note_gone(after)
        recorder.graph.output(tuple(outputs))
        self.graph = fx.GraphModule({}, recorder.graph)
        self.inputs = recorder.inputs
        arguments = {id(raw): i for i, raw in enumerate(raws) if isinstance(raw, torch.Tensor)}
        self.sources: list[Any] = []
        for tensor in self.inputs:
            source: Any = arguments.get(id(tensor), places.get(id(tensor), tensor))
            if isinstance(source, Place) and id(source.holder) in owners:
                source = Gradient(owners[id(source.holder)])
            self.sources.append(source)
        self.replaced = {effect.place for effect in self.effects if isinstance(effect, Effect)}
        self.replaced |= {place for place, _, _ in self.moves}
        replaces = any(s in self.replaced for s in self.sources if isinstance(s, Place))
        self.carries = replaces or bool(self.freezes or self.exchanges)
        self.shared = []
        for place, known in zip(self.state.tensors[: self.state.own], found):
            first = arguments.get(id(known), places.get(id(known), place))
            if first is not place:
                self.shared.append((first, place))
        # That a run has made a tensor in which gradients gather is true of that run alone.
        alone = [f"{place.path} of {_next_number()} {_look(t.as_torch())}" for place, t in new]
        self.text = "\n".join([*alone, self._described(recorder)])

    @contextmanager
    def _watched(self, leaves: Sequence[Any], start: int) -> Iterator[None]:
        """Inside, the function runs; afterwards it is known how far gradients went."""
        arrived: set[int] = set()
        found = zip(self.state.tensors, self.state.found)
        tapes = [(place, tensor.node) for place, tensor in found if _has_tape(tensor)]
        given = [leaf.node for leaf in leaves if _has_tape(leaf)]
        noting = _noting({*(node for _, node in tapes), *given}, arrived)
        with noting, gathering() as gathered:
            yield
        self.tapes = [(place, node) for place, node in tapes if id(node) in arrived]
        if any(id(node) in arrived for node in given):
            raise CaptureError(
                "gradients go through the history of an argument, and those of a compiled function "
                "end at its arguments; call backward() outside, or have it compute what led there"
            )
        self._check_leaves(leaf for leaf in gathered if leaf.order > start)

    def _left(
        self,
        recorder: Recorder,
        found: Sequence[torch.Tensor | None],
        after: State,
        owners: Mapping[int, int],
    ) -> list[fx.Node]:
        """The nodes of tensors that were left behind in places; notes in which.

        Args:
            recorder: what made them.
            found: the tensors of the places that were there before.
            after: the places that are there now.
            owners: the number of the argument that a gradient belongs to, by its leaf's id.
        """
        nodes = []
        self.effects: list[Effect | int] = []
        self.moves: list[tuple[Place, bool, int | None]] = []
        before = dict(zip(self.state.tensors, zip(found, self.state.found)))
        nothing = object(), None
        for place in after.tensors:
            value, holding = place.tensor(), place.get()
            known, known_holding = before.get(place, nothing)
            wrapped = isinstance(holding, Tensor)
            if value is not None and recorder.made(value):
                if wrapped and _can_go_backward(holding):
                    raise CaptureError(
                        f"{place} was given a tensor that still has a history, which programs do "
                        "not keep; call backward() inside the function, or keep tensor.detach()"
                    )
                effect = Effect(place, wrapped, wrapped and holding is known_holding)
                self.effects.append(owners.get(id(place.holder), effect))
                nodes.append(recorder.node_of(value))
            elif known is not value and id(place.holder) not in owners:
                if value is not None:
                    recorder.node_of(value)
                number = None if value is None else recorder.number_of(value)
                self.moves.append((place, wrapped, number))
        return nodes

    def _note_gone(self, after: State) -> None:
        """Note where tensors were taken away, or something else was put in their place."""
        still = set(after.tensors)
        for place in self.state.tensors:
            if place in still:
                continue
            now = place.get()
            if now is None and not place.is_empty():
                self.moves.append((place, False, None))
            elif isinstance(now, Tensor) and leaf_of(now) is not None:
                self.changes.append(
                    f"{place} (a tensor, then one in which gradients gather; have it require them "
                    "before the first call, or set its grad to None in the end)"
                )
            elif place.tensor() is None:
                what = "nothing" if place.is_empty() else f"{now!r:.80}"
                self.changes.append(f"{place} (a tensor, then {what})")

    def _described(self, recorder: Recorder) -> str:
        """The graph and all that it is connected to."""
        lines = [_described(s, t, recorder) for s, t in zip(self.sources, self.inputs)]
        lines.append(str(recorder.graph))
        for effect in self.effects:
            if isinstance(effect, Effect):
                lines.append(f"{effect.place.identity()} gets {effect.wrapped, effect.inside}")
            else:
                lines.append(f"gradient of argument {effect}")
        lines += [f"{place.identity()} gets input {i}, {w}" for place, w, i in self.moves]
        lines += [f"tensor {id(tensor)} is frozen: {now}" for tensor, now in self.freezes]
        lines += [f"{place.identity()} gets tensor {id(t)}" for place, t in self.exchanges]
        lines.append(f"returns {self.results} in {self.structure}")
        lines.append(f"by default {torch.get_default_dtype()}")  # which operators do not name
        return "\n".join(lines)

    def _check_leaves(self, gathered: Iterable[Leaf]) -> None:
        """Raise an error if gradients were left where programs could not leave them."""
        known = set(map(id, self.state.leaves))
        for leaf in gathered:
            if id(leaf) not in known:
                raise CaptureError(
                    "a gradient was left in a tensor that the compiled function does not reach "
                    f"through variables, attributes, lists and dicts: {leaf.data!r:.80}; have it "
                    "reach it that way, through self or a variable"
                )

    def _results(self, recorder: Recorder) -> list[fx.Node]:
        """The nodes of the tensors among the results; notes how the results are laid out."""
        results, self.structure = tree_flatten(self.returned)
        nodes: list[fx.Node] = []
        self.results: list[Any] = []
        for result in results:
            raw = result._data if isinstance(result, Tensor) else result
            if isinstance(raw, torch.Tensor):
                if raw.requires_grad or isinstance(result, Tensor) and _can_go_backward(result):
                    raise CaptureError(
                        "a compiled function returned a tensor that still has a history, which "
                        "programs do not keep; call backward() inside the function, or return "
                        "tensor.detach()"
                    )
                node = recorder.node_of(raw)
                if node not in nodes:
                    nodes.append(node)
                self.results.append(
                    Result(nodes.index(node), isinstance(result, Tensor), recorder.number_of(raw))
                )
            elif isinstance(raw, SCALARS):
                self.results.append(lift(raw, None) if isinstance(result, Tensor) else raw)
            else:
                raise CaptureError(
                    "a compiled function returns tensors and numbers, in lists, tuples and dicts; "
                    f"this one returned a {type(raw).__name__}"
                )
        return nodes

    def assembled(
        self, outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor] = ()
    ) -> Any:
        """The function's results, made of the graph's outputs, and of inputs where it is these."""
        results = []
        for result in self.results:
            if isinstance(result, Result):
                output, wrapped, i = result
                raw = inputs[i] if inputs and i is not None else outputs[output]
                result = lift(raw, None) if wrapped else raw
            elif isinstance(result, Tensor):  # a number, which the caller may change
                result = lift(result._data, None)
            results.append(result)
        return tree_unflatten(results, self.structure)


def _has_tape(value: Any) -> bool:
    """Whether it is a tensor that was computed."""
    return isinstance(value, Tensor) and value.node is not None and not isinstance(value.node, Leaf)


@contextmanager
def _noting(nodes: Iterable[Any], arrived: set[int]) -> Iterator[None]:
    """Inside, it is noted to which nodes gradients come, by their ids."""
    hooks = [(node, lambda _g, node=node: arrived.add(id(node))) for node in nodes]
    for node, hook in hooks:
        if node.hooks is None:
            node.hooks = []
        node.hooks.append(hook)
    try:
        yield
    finally:
        for node, hook in hooks:
            node.hooks.remove(hook)
            node.hooks = node.hooks or None


def _check_argument(value: Any) -> None:
    """Raise an error that says what else to do, where programs could not know what is given."""
    if isinstance(value, torch.Tensor) and value.requires_grad:
        raise MixedGraphError(
            f"a compiled function was given a torch.Tensor, of shape {list(value.shape)}, that "
            "requires gradients of torch's own; wrap it with Tensor(t, requires_grad=True), or "
            "pass t.detach()"
        )
    if isinstance(value, Tensor) and has_frozen_gradient(value):
        raise CaptureError(
            f"a compiled function was given a tensor, of shape {list(value.shape)}, that is frozen "
            "and has a gradient, at which programs do not look; pass tensor.detach(), or have the "
            "function itself hold the tensor"
        )
    if isinstance(value, (Tensor, torch.Tensor, *SCALARS)):
        return
    if isinstance(value, np.ndarray) or State(value).tensors:
        raise CaptureError(
            "a compiled function is given tensors and numbers, in lists, tuples and dicts, and not "
            f"a {type(value).__name__}; make an array a tensor, and have the function itself hold "
            "what has tensors, as a closure or a method"
        )


def _gradient_state(value: Any) -> tuple[bool, bool]:
    """Whether gradients gather in an argument, and whether one is left there from before."""
    if not isinstance(value, Tensor):
        return False, False
    return isinstance(value.node, Leaf), has_frozen_gradient(value)


def _check_same_arguments(
    leaves: Sequence[Any], raws: Sequence[Any], gathered: Sequence[Any], after: Sequence[Any]
) -> None:
    """Raise an error if a run has changed what it was given other than in place."""
    if len(after) != len(leaves) or any(one is not other for one, other in zip(leaves, after)):
        raise CaptureError(
            "a compiled function changed a list or dict that it was given, which programs do not "
            "do; return what is new, or hold the list or dict as a closure or in self"
        )
    for i, (leaf, raw, before) in enumerate(zip(leaves, raws, gathered)):
        if _gradient_state(leaf) != before:
            raise CaptureError(
                f"argument {i} of a compiled function was let require gradients, or frozen, inside "
                "it, which programs do not do; have it work on x.detach().requires_grad_(), or do "
                "that before the call"
            )
        if isinstance(leaf, Tensor) and leaf._data is not raw:
            raise CaptureError(
                f"argument {i} of a compiled function was given another tensor by `.data =`, which "
                "programs do not do; change it in place, as by x.data.copy_(y), or return it"
            )


def _check_keeps_no_argument(
    exchanges: Sequence[tuple[Place, Tensor]], leaves: Sequence[Any]
) -> None:
    """Raise an error if a run has put an argument in which gradients gather into a place."""
    for place, tensor in exchanges:
        if any(tensor is leaf for leaf in leaves):
            raise CaptureError(
                f"{place} was given an argument of a compiled function, in which gradients gather; "
                "programs would put there what this call was given: keep tensor.detach()"
            )


def _look(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)} {tensor.stride()}"


def _described(source: Any, tensor: torch.Tensor, recorder: Recorder) -> str:
    """An input in words that differ where programs would."""
    look = _look(tensor)
    if id(tensor) in recorder.constants:
        return f"constant {look} {tensor.tolist()}"
    if isinstance(source, int):
        return f"argument {source} {look}"
    if isinstance(source, Gradient):
        return f"gradient of argument {source.argument} {look}"
    if isinstance(source, Place):
        return f"{source.identity()} {look}"
    return f"tensor {id(source)} {look}"


def _can_go_backward(result: Tensor) -> bool:
    """Whether gradients can be asked of a result: something saved for that is still there."""
    if result.node is None or isinstance(result.node, Leaf):
        return False
    keeping = [n for n in topological([result.node]) if isinstance(n, Node) and n.plan.keeps]
    if keeping:
        return any(node.saved is not None for node in keeping)
    return not hasattr(result.node, "flow")  # which a backward pass leaves in a result
