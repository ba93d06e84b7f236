"""A class diagram, generated from the code."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import graphviz

from tinygrad_ee559.draw import Diagram


def diagram(classes: Sequence[type]) -> Diagram:
    """Classes with what they are made with and what they can do; arrows lead to their bases.

    A box has the name of the class and its file, the arguments of its constructor, and the methods
    that this file defines. A dashed line leads to a class that an argument's annotation names.
    """
    graph = graphviz.Digraph(
        graph_attr={"rankdir": "BT", "nodesep": "0.3", "ranksep": "0.5"},
        node_attr={"shape": "plain", "fontname": "DejaVu Sans", "fontsize": "10"},
        edge_attr={"color": "#444444"},
    )
    for each in classes:
        graph.node(each.__name__, _box(each))
        for base in each.__bases__:
            if base in classes:
                graph.edge(each.__name__, base.__name__, arrowhead="onormal")
        for other in classes:
            used = any(_names(other, p.annotation) for p in _parameters(each))
            if used and not issubclass(each, other):
                graph.edge(each.__name__, other.__name__, style="dashed", arrowhead="vee")
    return Diagram(graph, len(classes))


def _box(described: type) -> str:
    """A table in Graphviz's HTML: name, fields, methods."""
    functions = {
        name: member
        for name, member in vars(described).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }
    methods = [f"{name}()" for name, f in functions.items() if f.__module__ == described.__module__]
    if len(methods) < len(functions):
        methods.append(f"and {len(functions) - len(methods)} functions of torch as methods")
    fields = [str(p.name) for p in _parameters(described)]
    name = f"<b>{described.__name__}</b>"
    file = described.__module__.removeprefix("tinygrad_ee559.").replace(".", "/") + ".py"
    parts = [(f'{name}<br/><font point-size="8" color="#666666">{file}</font>', "#dbe8f6")]
    parts += [("<br/>".join(_wrapped(fields)), "white")] if fields else []
    parts += [("<br/>".join(_wrapped(methods)), "#f7f7f7")] if methods else []
    cells = "".join(f'<tr><td bgcolor="{color}">{text}</td></tr>' for text, color in parts)
    return f'<<table border="0" cellborder="1" cellspacing="0" cellpadding="5">{cells}</table>>'


def _wrapped(names: Sequence[str], width: int = 3) -> list[str]:
    return [", ".join(names[i : i + width]) for i in range(0, len(names), width)]


def _parameters(described: type) -> list[inspect.Parameter]:
    """Those of a constructor that the class defines itself."""
    if "__init__" not in vars(described):
        return []
    return list(inspect.signature(described.__init__).parameters.values())[1:]  # type: ignore[misc]


def _names(named: type, annotation: Any) -> bool:
    return named.__name__ in str(annotation).replace("[", " ").replace("]", " ").split()
