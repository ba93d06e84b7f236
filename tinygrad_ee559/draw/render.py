"""Diagrams as pictures: Graphviz lays them out, and a file appears complete or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from html import escape
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import graphviz

from tinygrad_ee559.errors import DrawingError
from tinygrad_ee559.files import replace

FORMATS = ("svg", "png", "pdf", "dot")
#: With more boxes, the layout takes minutes and nobody can read the result.
MOST_BOXES = 1000

# What the program `dot` does, done by the Graphviz that pygraphviz carries: in a process of its
# own, as Graphviz can be interrupted nowhere and writes its warnings past Python.
_DOT = """\
import sys, pygraphviz
graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode())
sys.stdout.buffer.write(graph.draw(format=sys.argv[1], prog="dot"))
"""
# Where the system has no fonts, letters would come out as empty boxes; matplotlib carries DejaVu.
_FONT_CONFIG = """\
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <dir>{}</dir>
</fontconfig>
"""


class Diagram:
    """A graph to look at: it displays itself in a notebook, and `save` writes it to a file.

    Args:
        graph: what Graphviz is to draw.
        boxes: how many boxes that are.
    """

    def __init__(self, graph: graphviz.Digraph, boxes: int) -> None:
        self._graph = graph
        self._boxes = boxes

    @property
    def source(self) -> str:
        """The diagram in Graphviz's language, DOT."""
        return str(self._graph.source)

    def __repr__(self) -> str:
        return f"<Diagram of {self._boxes} boxes>"

    def _repr_svg_(self) -> str:
        return self.render("svg").decode()

    def render(self, format: str) -> bytes:
        """The content of a file in one of the formats svg, png, pdf and dot.

        Raises:
            DrawingError: there is no such format, or the graph is too large for all but dot.
        """
        if format not in FORMATS:
            raise DrawingError(
                f"a diagram can be written as .svg, .png, .pdf or .dot, and not as {format!r}"
            )
        if format == "dot":
            return self.source.encode()
        if self._boxes > MOST_BOXES:
            raise DrawingError(
                f"the graph has {self._boxes:,} boxes, and more than {MOST_BOXES:,} cannot be laid "
                "out in reasonable time; draw a part of it, or write a .dot file"
            )
        return _laid_out(self.source, format)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the diagram to a file, in the format that its suffix says.

        Raises:
            DrawingError: as for `render`; what was at `path` before is unchanged.
        """
        replace(path, self.render(Path(path).suffix.removeprefix(".").lower()))


def _laid_out(source: str, format: str) -> bytes:
    """The picture of a graph, by the program `dot` or, where there is none, by pygraphviz."""
    dot = shutil.which("dot")
    command = [dot, f"-T{format}"] if dot else [sys.executable, "-c", _DOT, format]
    with TemporaryDirectory() as folder:
        fonts = Path(folder, "fonts.conf")
        fonts.write_text(_FONT_CONFIG.format(escape(str(_font_folder()))), encoding="utf-8")
        environment = {"FONTCONFIG_FILE": str(fonts), **os.environ}
        done = subprocess.run(
            command, input=source.encode(), capture_output=True, env=environment, check=False
        )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise DrawingError(f"Graphviz could not lay the graph out: {reason}")
    return done.stdout


def _font_folder() -> Path:
    matplotlib = find_spec("matplotlib")  # importing it would take longer than drawing
    assert matplotlib is not None and matplotlib.origin is not None
    return Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf"
