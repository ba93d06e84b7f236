"""The tape as a graph of Graphviz: what is drawn, and how it looks.

An operation and its result are one box. The list of tensors that went into a function is no box,
nor are the results of a function that has several: they are arrows. Nothing here knows `Tensor`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import graphviz
import torch

from tinygrad_ee559.draw.frames import Frame, Frames
from tinygrad_ee559.errors import DrawingError
from tinygrad_ee559.tape import ForkNode, Leaf, ListNode, Node, NumberNode, Part, topological

# Verdana is as wide as DejaVu Sans, for those who view an SVG and do not have it.
FONT = "DejaVu Sans,Verdana,sans-serif"
QUIET = "#5f6672"
#: Ends a line of a label, with a little space below it.
BREAK = '<br/><font point-size="4"> <br/></font>'

GRAPH = {
    "fontname": FONT, "fontsize": "10", "fontcolor": QUIET, "nodesep": "0.2", "ranksep": "0.3",
    "newrank": "true",  # else an arrow between frames may point upwards
}  # fmt: skip
BOX = {"fontname": FONT, "fontsize": "11", "shape": "box", "height": "0.3", "margin": "0.1,0.05"}
ARROW = {"fontname": FONT, "fontsize": "9", "fontcolor": QUIET, "color": QUIET, "arrowsize": "0.6"}
FRAME = {"style": "rounded,filled", "fillcolor": "#1f29370a", "color": "#c3c8d0", "labeljust": "l"}

LEAF = {"style": "rounded,filled", "fillcolor": "#dce8f7", "color": "#5f86b8"}
PARAMETER = {"style": "rounded,filled", "fillcolor": "#e0efdc", "color": "#71a065"}
OPERATION = {"style": "filled", "fillcolor": "#ffffff", "color": "#8b929c"}
OUTPUT = {"style": "filled", "fillcolor": "#fbe9cf", "color": "#c08a35", "penwidth": "1.6"}
CONSTANT = {"shape": "plain", "fontsize": "9", "fontcolor": QUIET}

#: Where operands have to stand from left to right in their order.
ORDERED = {"ordering": "in"}
#: Makes an arrow so long that what it comes from is above the parameters of where it goes to.
PAST_PARAMETERS = {"minlen": "2"}

#: Functions that are better known by their operator.
SYMBOLS = {
    torch.add: "+", torch.sub: "-", torch.mul: "*", torch.div: "/", torch.pow: "**",
    torch.matmul: "@", torch.neg: "-", torch.Tensor.__getitem__: "[ ]",
}  # fmt: skip
COMMUTATIVE = frozenset({torch.add, torch.mul})


class Picture:
    """The diagram of the graph that leads to some nodes.

    Args:
        outputs: the raw value of each output, by its node.
        names: what to call nodes.

    Raises:
        DrawingError: a name belongs to no node of the graph.
    """

    def __init__(self, outputs: Mapping[Any, Any], names: Mapping[Any, str]) -> None:
        nodes = topological(outputs)[::-1]  # operands before results
        edges = (edge for node in (outputs, *nodes) for edge in node)
        nodes = [*dict.fromkeys(edge for edge in edges if edge.__class__ is Leaf), *nodes]
        known = set(nodes)
        for node, name in names.items():
            if node not in known:
                raise DrawingError(f"no output depends on the tensor that was named {name!r}")
        self.outputs = outputs
        self.frames = Frames(nodes)
        self.names = {**self.frames.paths, **names}
        self.values = _values(nodes, outputs)
        self.graph = graphviz.Digraph(graph_attr=GRAPH, node_attr=BOX, edge_attr=ARROW)
        self.canvas: dict[Frame | None, graphviz.Digraph] = {None: self.graph}
        for i, frame in enumerate(self.frames.frames):
            attributes = {**FRAME, "label": graphviz.escape(frame.title)}
            self.canvas[frame] = graphviz.Digraph(f"cluster_{i}", graph_attr=attributes)
        #: What Graphviz calls the box of a node, or of a constant.
        self.boxes: dict[Any, str] = {}
        self.arrows: list[tuple[str, str, dict[str, str]]] = []
        for node in nodes:
            if node.__class__ not in (ListNode, Part) or node in outputs or node in names:
                self._add(node)
        self._assemble()

    def _add(self, node: Any) -> None:
        """Draw a node and the arrows to it; its operands must have been drawn."""
        self.boxes[node] = box = f"n{len(self.boxes)}"
        parameters = self.frames.paths
        if node in self.outputs:
            look = OUTPUT
        elif node in parameters:
            look = PARAMETER
        else:
            look = LEAF if node.__class__ is Leaf else OPERATION
        operands = list(_operands(node))
        if len(operands) > 1 and node.rule.function not in COMMUTATIVE:
            look = {**look, **ORDERED}
        label = _label(node, self.names.get(node), self.values.get(node))
        canvas = self.canvas[self.frames.place.get(node)]
        canvas.node(box, label, tooltip=graphviz.escape(_tooltip(node)), **look)
        learned = any(operand in parameters for operand in operands)
        for operand in operands:
            tail, attributes = self._tail(operand, node)
            if learned and operand not in parameters:
                attributes.update(PAST_PARAMETERS)
            self.arrows.append((tail, box, attributes))

    def _tail(self, operand: Any, user: Any) -> tuple[str, dict[str, str]]:
        """The box that the arrow of an operand starts from, and what is written beside it."""
        if operand.__class__ is float:
            return self._constant(object(), f"{operand:.4g}", self.frames.place.get(user)), {}
        if isinstance(operand, torch.Tensor):
            return self._constant(id(operand), str(list(operand.shape)), None), {}
        if operand.__class__ is Part and operand not in self.boxes:
            return self.boxes[operand[0]], {"label": str(operand.position)}
        return self.boxes[operand], {}

    def _constant(self, key: Any, label: str, frame: Frame | None) -> str:
        if key not in self.boxes:
            self.boxes[key] = f"n{len(self.boxes)}"
            self.canvas[frame].node(self.boxes[key], label, **CONSTANT)
        return self.boxes[key]

    def _assemble(self) -> None:
        """Put the frames into each other, and the arrows above all."""
        for frame in reversed(self.frames.frames):
            self.canvas[frame.outer].subgraph(self.canvas[frame])
        for tail, head, attributes in self.arrows:
            self.graph.edge(tail, head, **attributes)


def _operands(node: Any) -> Iterator[Any]:
    """What an operation was applied to, in order: nodes, and constants as far as they are saved."""
    if node.__class__ is NumberNode:
        for edge, number in ((node.a, node.x), (node.b, node.y)):
            if edge is not None:
                yield edge
            elif number is not None:
                yield float(number)
    elif isinstance(node, Node):
        operands = {i: _constant(node, i) for i in node.plan.kept}
        operands.update(zip(node.plan.positions, node))
        for _, operand in sorted(operands.items()):
            if operand.__class__ is ListNode:
                yield from (item for item in operand if item is not None)
            elif operand is not None:
                yield operand
    else:
        yield from node


def _constant(node: Node, position: int) -> Any:
    """A saved constant, if it is an operand and not an option such as a dimension."""
    if node.saved is None:
        return None
    value = node.saved[position + 1]
    if value.__class__ in (int, float) and not node.rule.pointwise:
        return None
    return value if isinstance(value, torch.Tensor) and value.ndim else _number(value)


def _values(nodes: Sequence[Any], outputs: Mapping[Any, Any]) -> dict[Any, float | None]:
    """The scalars among the results, as far as they are saved: with a node or with its users."""
    values: dict[Any, float | None] = {}
    for node in nodes:
        if node.__class__ is Leaf:
            values[node] = _number(node.data)
        elif node.__class__ is NumberNode:
            values[node] = _number(node.z)
        elif isinstance(node, Node) and node.saved is not None:
            values[node] = _number(node.saved[0])
            for i, edge in zip(node.plan.positions, node):
                if values.get(edge) is None:
                    values[edge] = _number(node.saved[i + 1])
    values.update((node, _number(value)) for node, value in outputs.items())
    return values


def _number(value: Any) -> float | None:
    """A scalar as a Python number; None for anything else."""
    if isinstance(value, torch.Tensor):
        value = value.item() if value.ndim == 0 else None
    return float(value) if value.__class__ in (int, float) else None


def _label(node: Any, name: str | None, value: float | None) -> str:
    """What is written in a box: the name and the operation, and what is known of the result."""
    words = [] if name is None else [name]
    if node.__class__ is not Leaf:
        words.append(_operation(node))
    title = " ".join([f"<b>{escape(word)}</b>" for word in words[:1]] + [*map(escape, words[1:])])
    details = f'<font point-size="9" color="{QUIET}">{_details(node, value)}</font>'
    return f"<{title}{BREAK}{details}>" if title else f"<{details}>"


def _operation(node: Any) -> str:
    if node.__class__ is Part:
        return f"[{node.position}]"
    return SYMBOLS.get(node.rule.function) or str(node.rule.name.rpartition(".")[2])


def _details(node: Any, value: float | None) -> str:
    """The shape of a result; for a scalar, value and gradient instead, as far as they are known."""
    if node.__class__ is ForkNode:
        return " ".join(str(list(shape)) for shape, _ in node.parts)
    if node.shape:
        return str(list(node.shape))
    gradient = getattr(node, "grad", None)
    if gradient is None:
        gradient = getattr(node, "flow", None)
    known = {"data": value, "grad": _number(getattr(gradient, "data", gradient))}
    lines = [f"{key} {number:.4g}" for key, number in known.items() if number is not None]
    return " · ".join(lines) or "[]"


def _tooltip(node: Any) -> str:
    """What a viewer shows where the pointer rests: the function's full name and the dtype."""
    words = [] if node.__class__ is Leaf else [node.rule.name]
    if node.dtype is not None:
        words.append(str(node.dtype))
    return " ".join(words) or "number"
