"""Capture: what one run of a function did, as a graph of operators and what that is connected to.

A captured run is a run like any other. Of tensors that operators worked on it is found out where
they came from, and of those that they made, where they were left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import fx

from tinygrad_ee559.compiling.arguments import Arguments, required
from tinygrad_ee559.compiling.histories import (
    can_go_backward,
    has_new_history,
    has_tape,
    noting,
)
from tinygrad_ee559.compiling.places import (
    SCALARS,
    Gradient,
    Look,
    Place,
    in_words,
)
from tinygrad_ee559.compiling.recorder import NoReading, Recorder
from tinygrad_ee559.compiling.state import Change, State
from tinygrad_ee559.errors import CaptureError
from tinygrad_ee559.private import tree_flatten, tree_unflatten
from tinygrad_ee559.tape import Leaf, next_order
from tinygrad_ee559.tensor import Tensor, gathering, leaf_of, lift

_next_number = count().__next__


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
        shared: pairs of sources that had the same tensor.
        returned: what the function returned.
        effects: where the last outputs were left: an `Effect`, or the number of the argument whose
            gradient they are.
        moves: where inputs were left as they are: a place, whether wrapped, and the input's number,
            or None where a tensor was taken away.
        cleared: the arguments whose gradient was taken away.
        freezes: the tensors that it froze, or let require gradients again, and which of these.
        exchanges: places that got another one of the tensors in which gradients gather, and this.
        replaced: the places in which something else was left.
        carries: whether the next run begins with something else, as one of them is a source, or as
            tensors were frozen or exchanged.
        arguments: what it was given.
        missing: the ids of the leaves that had no gradient before the run.
        tapes: the places of tensors with a history through which gradients went, and their nodes.
        changes: what else has changed, in words.
        state: what the run found.
        looks: how the tensors looked that it found.
        text: the graph and all that it is connected to; equal for runs that did the same.
    """

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.arguments = given = Arguments(tree_flatten((args, kwargs))[0])
        self.state = State(function, given.leaves)
        self.missing = {id(leaf) for leaf in self.state.leaves if leaf.grad is None}
        self.looks = [Look(value) for value in self.state.found]
        found = [place.tensor() for place in self.state.tensors]
        places = self.state.by_tensor()
        recorder = Recorder()
        for raw in given.raws:
            if isinstance(raw, torch.Tensor):
                recorder.node_of(raw)
        start = next_order()
        with self._watched(start), recorder, NoReading() as reading:
            self.returned = function(*args, **kwargs)
        refusal = recorder.refusal or reading.refusal
        if refusal is not None:  # and the function took no notice
            raise refusal
        recorder.check_random_state()
        for tensor, look in zip(found, self.looks):
            if tensor is not None and tensor.requires_grad != look.requires_grad:
                raise required(tensor)
        given.check_same(tree_flatten((args, kwargs))[0], start)
        after = State(function, given.leaves, start)
        self.changes = self.state.changes(after)
        self.freezes = self.state.freezes(after)
        exchanged = self.state.exchanges(after)
        self.exchanges = [(p, t) for p, t in exchanged if id(t) in self.state.frozen]
        new = [(place, t) for place, t in exchanged if id(t) not in self.state.frozen]
        given.check_not_kept(self.exchanges)
        outputs = self._results(recorder)
        self.collected = len(outputs)
        outputs += self._left(recorder, found, after, start)
        self._note_gone(after)
        recorder.graph.output(tuple(outputs))
        self.graph = fx.GraphModule({}, recorder.graph)
        self.inputs = recorder.inputs
        self.sources: list[Any] = []
        for tensor in self.inputs:
            source: Any = given.numbers.get(id(tensor), places.get(id(tensor), tensor))
            self.sources.append(self._source(source) if isinstance(source, Place) else source)
        self.replaced = {effect.place for effect in self.effects if isinstance(effect, Effect)}
        self.replaced |= {place for place, _, _ in self.moves}
        replaces = any(s in self.replaced for s in self.sources if isinstance(s, Place))
        self.carries = replaces or bool(self.freezes or self.exchanges)
        self.shared = self._shared(found)
        # That a run has made a tensor in which gradients gather is true of that run alone.
        alone = [f"{place.path} of {_next_number()} {_look(t.as_torch())}" for place, t in new]
        self.text = "\n".join([*alone, self._described(recorder)])

    @contextmanager
    def _watched(self, start: int) -> Iterator[None]:
        """Inside, the function runs; afterwards it is known how far gradients went."""
        arrived: set[int] = set()
        found = zip(self.state.tensors, self.state.found)
        tapes = [(place, tensor.node) for place, tensor in found if has_tape(tensor)]
        given = [leaf.node for leaf in self.arguments.leaves if has_tape(leaf)]
        nodes = {*(node for _, node in tapes), *given}
        with noting(nodes, arrived), gathering() as gathered:
            yield
        self.tapes = [(place, node) for place, node in tapes if id(node) in arrived]
        if any(id(node) in arrived for node in given):
            raise CaptureError(
                "gradients go through the history of an argument, and those of a compiled function "
                "end at its arguments; call backward() outside, or have it compute what led there"
            )
        self._check_leaves(leaf for leaf in gathered if leaf.order > start)

    def _source(self, place: Place) -> Place | Gradient:
        """A place as programs find it again: the gradient of an argument is another one's then."""
        owner = self.arguments.owners.get(id(place.holder))
        return place if owner is None else Gradient(owner)

    def _left(
        self,
        recorder: Recorder,
        found: Sequence[torch.Tensor | None],
        after: State,
        start: int,
    ) -> list[fx.Node]:
        """The nodes of tensors that were left behind in places; notes in which.

        Args:
            recorder: what made them.
            found: the tensors of the places that were there before.
            after: the places that are there now.
            start: the run began after this node.
        """
        nodes = []
        self.effects: list[Effect | int] = []
        self.moves: list[tuple[Place, bool, int | None]] = []
        self.cleared: list[int] = []
        before = dict(zip(self.state.tensors, zip(found, self.state.found)))
        nothing = object(), None
        owners = self.arguments.owners
        # What nothing leads to any more may be somebody else's.
        still = set(after.tensors)
        held = [p for p in self.state.tensors if isinstance(p.holder, (Leaf, Tensor))]
        for place in [*after.tensors, *(place for place in held if place not in still)]:
            value, holding = place.tensor(), place.get()
            known, known_holding = before.get(place, nothing)
            wrapped = isinstance(holding, Tensor)
            if wrapped and has_new_history(holding, start):
                raise CaptureError(
                    f"{place} was given a tensor that still has a history, which programs do not "
                    "keep; call backward() inside the function, or keep tensor.detach()"
                )
            if value is not None and recorder.made(value):
                effect = Effect(place, wrapped, wrapped and holding is known_holding)
                self.effects.append(owners.get(id(place.holder), effect))
                nodes.append(recorder.node_of(value))
            elif known is value:
                continue
            elif id(place.holder) in owners:
                self._note_gradient(owners[id(place.holder)], value)
            else:
                if value is not None:
                    recorder.node_of(value)
                number = None if value is None else recorder.number_of(value)
                self.moves.append((place, wrapped, number))
        return nodes

    def _note_gradient(self, argument: int, value: torch.Tensor | None) -> None:
        """Note that the gradient of an argument was taken away."""
        if value is not None:
            raise CaptureError(
                f"argument {argument} of a compiled function was given a gradient that was there "
                "before, which programs do not do; give it a copy: tensor.clone()"
            )
        self.cleared.append(argument)

    def _note_gone(self, after: State) -> None:
        """Note where tensors were taken away, or something else was put in their place."""
        still = set(after.tensors)
        for place in self.state.tensors:
            if place in still or isinstance(place.holder, (Leaf, Tensor)):
                continue
            now = place.get()
            if now is None:
                self.moves.append((place, False, None))
            elif isinstance(now, Tensor) and leaf_of(now) is not None:
                self._note_change(
                    place,
                    "one in which gradients gather; if that is a new one, have it require them "
                    "before the first call, or set its grad to None in the end",
                )
            elif place.tensor() is None:
                self._note_change(place, in_words(now))

    def _note_change(self, place: Place, now: str) -> None:
        self.changes.append(Change(place, f"{place} (a tensor, then {now})"))

    def _shared(self, found: Sequence[torch.Tensor | None]) -> list[tuple[Any, Any]]:
        """Pairs of sources that had the same tensor.

        Args:
            found: the tensors of the places that were there before.
        """
        pairs = []
        firsts: dict[int, Any] = {**self.arguments.numbers}
        for i, (place, tensor) in enumerate(zip(self.state.tensors, found)):
            if tensor is None or i >= self.state.own and isinstance(place.holder, Tensor):
                continue  # an argument itself
            source = self._source(place)
            first = firsts.setdefault(id(tensor), source)
            if first != source:
                pairs.append((first, source))
        return pairs

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
        lines += [f"gradient of argument {i} is taken away" for i in self.cleared]
        lines += [f"tensor {id(tensor)} is frozen: {now}" for tensor, now in self.freezes]
        lines += [f"{place.identity()} gets tensor {id(t)}" for place, t in self.exchanges]
        lines.append(f"returns {self.results} in {self.structure}")
        lines.append(f"by default {torch.get_default_dtype()}")  # which operators do not name
        return "\n".join(lines)

    def _check_leaves(self, gathered: Iterable[Leaf]) -> None:
        """Raise an error if gradients were left where programs could not leave them."""
        tensors = [leaf for leaf in self.arguments.leaves if isinstance(leaf, Tensor)]
        known = {*map(id, self.state.leaves), *(id(leaf_of(tensor)) for tensor in tensors)}
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
                if raw.requires_grad or isinstance(result, Tensor) and can_go_backward(result):
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
