"""Diagrams: `draw` shows the graph that was recorded for one or more tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tinygrad_ee559.draw.graph import Picture
from tinygrad_ee559.draw.render import Diagram
from tinygrad_ee559.errors import DrawingError
from tinygrad_ee559.tensor import Tensor, edge_of

__all__ = ["Diagram", "draw"]


def draw(
    outputs: Tensor | Sequence[Tensor],
    path: str | os.PathLike[str] | None = None,
    /,
    **names: Tensor,
) -> Diagram:
    """Draw how `outputs` were computed; the diagram displays itself in a notebook.

    An operation and its result are one box, with its shape, or for a scalar its value and
    gradient. Saved values are given back by a backward pass, so draw before it to see them all.

    Args:
        outputs: tensors that require gradients.
        path: a file to write, in the format that its suffix says: .svg, .png, .pdf or .dot.
        names: what to call tensors in the diagram.

    Raises:
        NotDifferentiableError: an output requires no gradient, so that nothing was recorded.
        DrawingError: the suffix is none of these, a named tensor is not part of the graph, or the
            graph is too large to be laid out.

    >>> a = Tensor(-4.0, requires_grad=True)
    >>> b = Tensor(2.0, requires_grad=True)
    >>> draw(a * b + b, "sum.svg", a=a, b=b)
    <Diagram of 4 boxes>
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    values = {edge_of(output, "outputs"): output.data for output in outputs}
    labels = {edge_of(tensor, "named tensors"): name for name, tensor in names.items()}
    picture = Picture(values, labels)
    diagram = Diagram(picture.graph, len(picture.boxes))
    if path is not None:
        diagram.save(path)
    return diagram


def _tensor_svg(tensor: Tensor) -> str | None:
    """How a notebook shows a tensor: as its diagram, or as text if it has no history.

    A graph too large to be drawn is text too: nobody asked for a picture.
    """
    if tensor.is_leaf:
        return None
    try:
        return draw(tensor)._repr_svg_()
    except DrawingError:
        return None


Tensor._repr_svg_ = _tensor_svg  # type: ignore[attr-defined]
