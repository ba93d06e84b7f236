"""Calls of modules, as frames around the nodes that they made.

`Module.__call__` leaves a scope with the node of its result. Since nodes are numbered downwards
as they are made, a call made the nodes numbered between its start and its result, and calls inside
a call are intervals inside its interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tinygrad_ee559.tape import Leaf


class Frame:
    """One call of a module; for the nodes that it made, end <= order < start."""

    def __init__(self, module: Any, start: int, end: int) -> None:
        self.module = module
        self.start = start
        self.end = end
        self.outer: Frame | None = None
        self.title: str = module._get_name()

    def around(self) -> Iterator[Frame]:
        """This frame and those that it lies in, from the inside out."""
        frame: Frame | None = self
        while frame is not None:
            yield frame
            frame = frame.outer


class Frames:
    """The frames of a graph, what lies in which, and the names that the modules give.

    Args:
        nodes: all nodes of the graph, operands before results.
    """

    def __init__(self, nodes: Sequence[Any]) -> None:
        #: Every frame, those around it before it.
        self.frames = sorted(_calls(nodes).values(), key=lambda frame: -frame.start)
        #: The innermost frame around a node; nodes outside of all are missing.
        self.place = _places(nodes, self.frames)
        #: The paths of the parameters in the modules of the outermost frames.
        self.paths: dict[Any, str] = {}
        self._take_names()
        self._place_parameters(nodes)

    def _take_names(self) -> None:
        titles: dict[Frame, dict[int, str]] = {}
        for frame in self.frames:
            *_, outermost = frame.around()
            if frame is outermost:
                module = frame.module
                titles[frame] = {id(inner): path for path, inner in module.named_modules()}
                for path, parameter in module.named_parameters():
                    self.paths.setdefault(parameter.node, path)
            path = titles[outermost].get(id(frame.module))
            if path:
                frame.title = f"{path}: {frame.title}"

    def _place_parameters(self, nodes: Sequence[Any]) -> None:
        """Put each parameter in the innermost frame around everything that uses it."""
        users: dict[Any, list[Frame | None]] = {}
        for node in nodes:
            for edge in node:
                if edge.__class__ is Leaf and edge in self.paths:
                    users.setdefault(edge, []).append(self.place.get(node))
        for leaf, frames in users.items():
            shared = _innermost_around(frames)
            if shared is not None:
                self.place[leaf] = shared


def _calls(nodes: Sequence[Any]) -> dict[int, Frame]:
    """A frame for each call of a module that made a node, by its start."""
    frames: dict[int, Frame] = {}
    for node in nodes:
        scope = getattr(node, "scope", None)  # neither leaves nor lists have one
        while scope is not None:
            module, start, scope = scope
            if node.order < start:  # else the module only handed the node through
                frame = frames.setdefault(start, Frame(module, start, node.order))
                frame.end = min(frame.end, node.order)
    return frames


def _places(nodes: Sequence[Any], frames: Sequence[Frame]) -> dict[Any, Frame]:
    """The innermost frame around each node; sets what each frame lies in."""
    place: dict[Any, Frame] = {}
    entered: list[Frame] = []
    coming = list(reversed(frames))
    for node in nodes:
        if node.__class__ is Leaf:
            continue
        while coming and node.order < coming[-1].start:
            frame = coming.pop()
            _leave(entered, frame.start)
            if entered:
                frame.outer = entered[-1]
            entered.append(frame)
        _leave(entered, node.order)
        if entered:
            place[node] = entered[-1]
    return place


def _leave(entered: list[Frame], order: int) -> None:
    """Close the frames that ended before the given place in the order of the nodes."""
    while entered and order < entered[-1].end:
        entered.pop()


def _innermost_around(frames: Sequence[Frame | None]) -> Frame | None:
    """The innermost frame that all the given ones lie in, or are."""
    first, *others = ([] if frame is None else list(frame.around()) for frame in frames)
    return next((frame for frame in first if all(frame in other for other in others)), None)
