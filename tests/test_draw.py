"""Diagrams: what they show, read back by Graphviz's own parser, and how they become files."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pygraphviz
import pytest
import torch

import tinygrad_ee559 as tg
from tinygrad_ee559.draw import draw
from tinygrad_ee559.errors import DrawingError, NotDifferentiableError

ROOT = Path(__file__).parent.parent
SIGNATURES = {"svg": b"<?xml", "png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "dot": b"digraph"}
FORMATS = list(SIGNATURES)
SVG_TEXT = "{http://www.w3.org/2000/svg}text"


class Read:
    """A diagram as Graphviz understands it; boxes are called by their text, lines joined by |."""

    def __init__(self, diagram):
        self.source = diagram.source
        self.graph = pygraphviz.AGraph(string=self.source)
        self.text = {node: text_of(node.attr["label"]) for node in self.graph.nodes()}
        self.boxes = sorted(self.text.values())
        self.arrows = sorted(
            (self.text[arrow[0]], self.text[arrow[1]], arrow.attr["label"] or "")
            for arrow in self.graph.edges()
        )
        #: What stands in each frame, and the frames around that.
        self.frames = sorted(self._inside(self.graph, ()))

    def _inside(self, graph, around):
        for frame in graph.subgraphs():
            path = (*around, frame.graph_attr["label"])
            inner = {node for subgraph in frame.subgraphs() for node in subgraph.nodes()}
            yield path, sorted(self.text[n] for n in frame.nodes() if n not in inner)
            yield from self._inside(frame, path)

    def color(self, text):
        (node,) = (node for node, label in self.text.items() if label == text)
        return node.attr["fillcolor"]

    def operands(self, text):
        """What arrows come from, in the order in which they are written."""
        (box,) = (node for node, label in self.text.items() if label == text)
        tails = re.findall(rf"(\w+) -> {box}\b", self.source)
        return [self.text[self.graph.get_node(tail)] for tail in tails]


def text_of(label):
    """The text of a label in Graphviz's HTML, line by line."""
    lines = (re.sub(r"<[^>]*>", "", line).strip() for line in label.split("<br/>"))
    return "|".join(html.unescape(line) for line in lines if line)


def leaf(value):
    return tg.Tensor(value, requires_grad=True)


def micrograd_expression(a, b):
    """The example in micrograd's README."""
    c = a + b
    d = a * b + b**3
    c = c + (c + 1)
    c = c + (1 + c + (-a))
    d = d + (d * 2 + (b + a).relu())
    d = d + (3 * d + (b - a).relu())
    e = c - d
    f = e**2
    g = f / 2.0
    g = g + 10.0 / f
    return c, d, e, f, g


# ---------------------------------------------------------------------------- scalars


def test_an_operation_and_its_result_are_one_box():
    a, b = leaf(-4.0), leaf(2.0)
    read = Read(draw(a * b + b, a=a, b=b))
    assert read.boxes == ["*|data -8", "+|data -6", "a|data -4", "b|data 2"]
    assert read.arrows == [
        ("*|data -8", "+|data -6", ""),
        ("a|data -4", "*|data -8", ""),
        ("b|data 2", "*|data -8", ""),
        ("b|data 2", "+|data -6", ""),
    ]
    assert not read.frames


def test_the_numbers_that_micrograd_publishes():
    a, b = leaf(-4.0), leaf(2.0)
    g = micrograd_expression(a, b)[-1]
    g.backward()
    boxes = Read(draw(g, a=a, b=b, g=g)).boxes
    assert "a|data -4 · grad 138.8" in boxes
    assert "b|data 2 · grad 645.6" in boxes
    assert "g +|data 24.7 · grad 1" in boxes


def test_gradients_of_intermediate_numbers_are_torch_s():
    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-4.0, 2.0)]
    expected = micrograd_expression(*values)
    gradients = torch.autograd.grad(expected[-1], expected)
    ours = micrograd_expression(leaf(-4.0), leaf(2.0))
    ours[-1].backward()
    boxes = Read(draw(ours[-1], **dict(zip("cdefg", ours)))).boxes
    for name, value, gradient in zip("cdefg", expected, gradients):
        known = f"|data {value.item():.4g} · grad {gradient.item():.4g}"
        assert [box for box in boxes if box.startswith(f"{name} ") and box.endswith(known)]


def test_constants_stand_on_their_side():
    x = leaf(4.0)
    quotient, power = 10.0 / x, x**3
    read = Read(draw([quotient, power], x=x))
    assert read.operands("/|data 2.5") == ["10", "x|data 4"]
    assert read.operands("**|data 64") == ["x|data 4", "3"]


def test_operands_keep_their_order_where_it_matters():
    a, b = leaf(1.0), leaf(3.0)
    read = Read(draw([b - a, a + b], a=a, b=b))
    orders = {read.text[node]: node.attr["ordering"] or "" for node in read.graph.nodes()}
    assert orders == {
        "-|data 2": "in", "+|data 4": "", "a|data 1": "", "b|data 3": ""
    }  # fmt: skip
    assert read.operands("-|data 2") == ["b|data 3", "a|data 1"]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_left_operand_is_drawn_on_the_left(swapped):
    a, b = leaf(1.0), leaf(3.0)
    svg = ElementTree.fromstring(draw(b - a if swapped else a - b, a=a, b=b).render("svg"))
    place = {text.text: float(text.get("x")) for text in svg.iter(SVG_TEXT)}
    assert (place["a"] > place["b"]) is swapped


def test_an_operand_used_twice_has_two_arrows():
    x = leaf(3.0)
    assert Read(draw(x * x, x=x)).arrows == [("x|data 3", "*|data 9", "")] * 2


def test_a_leaf_alone_can_be_drawn():
    assert Read(draw(leaf(3.0))).boxes == ["data 3"]


def test_gradients_that_were_recorded_themselves_are_shown():
    x = leaf(3.0)
    y = x**2
    y.backward(create_graph=True)
    assert Read(draw(y, x=x)).boxes == ["**|data 9 · grad 1", "2", "x|data 3 · grad 6"]


def test_more_than_two_numbers():
    x = leaf(0.25)
    boxes = Read(draw(torch.lerp(x, leaf(1.0), leaf(0.5)), x=x)).boxes
    assert boxes == ["data 0.5", "data 1", "lerp|data 0.625", "x|data 0.25"]


# ---------------------------------------------------------------------------- tensors


def test_tensors_show_shapes():
    a, b = leaf(-4.0), leaf([[1.0, 2.0], [3.0, 4.0]])
    y = (torch.tanh(a * b) @ b).exp().sum()
    read = Read(draw(y, a=a, b=b))
    assert read.boxes == [
        "*|[2, 2]", "@|[2, 2]", "a|data -4", "b|[2, 2]", "exp|[2, 2]",
        f"sum|data {y.item():.4g}", "tanh|[2, 2]",
    ]  # fmt: skip


def test_scalars_among_tensors():
    x = leaf([3.0, 4.0])
    total = x.sum()
    y = total * total
    assert "sum|data 7" in Read(draw(y)).boxes  # known to the product, which saved it
    y.backward()
    assert "sum|grad 14" in Read(draw(y)).boxes
    assert "*|data 49 · grad 1" in Read(draw(y)).boxes


@pytest.mark.parametrize("retain", [False, True])
def test_a_backward_pass_leaves_the_structure(retain):
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    y = torch.tanh(x @ x) - x.exp()
    before = Read(draw(y, x=x))
    y.backward(torch.ones(2, 2), retain_graph=retain)
    after = Read(draw(y, x=x))
    assert after.arrows == before.arrows and after.boxes == before.boxes
    assert len(after.arrows) == 6


def test_a_constant_tensor_is_drawn_once():
    x, data = leaf([1.0, 2.0]), torch.ones(3, 2)
    read = Read(draw((data * x).sum(0) * x + (data * x).sum(0), x=x))
    assert read.boxes.count("[3, 2]") == 1
    assert read.arrows.count(("[3, 2]", "*|[3, 2]", "")) == 2


def test_options_are_no_operands():
    x = leaf([[1.0, 2.0]])
    assert Read(draw(x.softmax(1), x=x)).boxes == ["softmax|[1, 2]", "x|[1, 2]"]


def test_a_list_of_tensors_is_arrows():
    a, b = leaf([1.0]), leaf([2.0, 3.0])
    read = Read(draw(torch.cat([a, torch.ones(4), b, a]), a=a, b=b))
    assert read.boxes == ["a|[1]", "b|[2]", "cat|[8]"]
    assert read.operands("cat|[8]") == ["a|[1]", "b|[2]", "a|[1]"]


def test_results_of_one_function_are_numbered_arrows():
    x = leaf([[1.0, 2.0, 3.0]])
    low, middle, high = torch.split(x, 1, 1)
    read = Read(draw(high * low + middle, x=x))
    split = "split|[1, 1] [1, 1] [1, 1]"
    assert read.arrows == [
        ("*|[1, 1]", "+|[1, 1]", ""),
        (split, "*|[1, 1]", "0"),
        (split, "*|[1, 1]", "2"),
        (split, "+|[1, 1]", "1"),
        ("x|[1, 3]", split, ""),
    ]


def test_a_result_with_a_name_or_drawn_itself_is_a_box():
    low, middle, high = torch.split(leaf([[1.0, 2.0, 3.0]]), 1, 1)
    read = Read(draw([low * middle, high], middle=middle))
    split = "split|[1, 1] [1, 1] [1, 1]"
    assert (split, "*|[1, 1]", "0") in read.arrows
    assert (split, "middle [1]|[1, 1]", "") in read.arrows
    assert (split, "[2]|[1, 1]", "") in read.arrows
    assert ("middle [1]|[1, 1]", "*|[1, 1]", "") in read.arrows


def test_functions_have_their_names():
    cube = tg.rule(lambda x: x**3, lambda g, _y, x: g * 3 * x**2)
    read = Read(draw(cube(leaf([2.0]))[0]))
    assert read.boxes == ["<lambda>|[1]", "[ ]|data 8", "[1]"]
    tips = {read.text[node]: node.attr["tooltip"] for node in read.graph.nodes()}
    assert tips["[ ]|data 8"] == "Tensor.__getitem__ torch.float32"


def test_names_are_written_as_they_are():
    x = leaf(1.0)
    boxes = Read(draw(x.exp(), **{"<i>&amp;\\N": x})).boxes
    assert boxes == ["<i>&amp;\\N|data 1", "exp|data 2.718"]


def test_inputs_operations_and_outputs_can_be_told_apart():
    a, w = leaf(1.0), tg.nn.Linear(1, 1)
    hidden, y = w(a * torch.ones(1)), a.exp()
    read = Read(draw([hidden.exp(), y], a=a))
    colors = [read.color(text) for text in ("a|data 1", "weight|[1, 1]", "linear|[1]", "exp|[1]")]
    assert len(set(colors)) == 4
    assert read.color("exp|data 2.718") == read.color("exp|[1]")


# ---------------------------------------------------------------------------- modules


class Twice(tg.nn.Module):
    """Uses a module two times, and something of its own in between."""

    def __init__(self):
        self.inner = tg.nn.Linear(2, 2, bias=False)
        self.shift = tg.nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.inner(self.inner(x) + self.shift)


class HandsThrough(tg.nn.Module):
    def forward(self, x):
        return x


def test_modules_are_frames_in_frames():
    layers = [tg.nn.Linear(2, 25), tg.nn.ReLU()]
    model = tg.nn.Sequential(tg.nn.Sequential(*layers), tg.nn.Linear(25, 2))
    loss = tg.nn.MSELoss()(model(torch.ones(100, 2)), torch.zeros(100, 2)).log()
    read = Read(draw(loss))
    value, mse = (f"{number:.4g}" for number in (loss.item(), loss.exp().item()))
    assert read.frames == [
        (("MSELoss",), [f"mse_loss|data {mse}"]),
        (("Sequential",), []),
        (("Sequential", "0: Sequential"), []),
        (("Sequential", "0: Sequential", "0.0: Linear"),
         ["0.0.bias|[25]", "0.0.weight|[25, 2]", "linear|[100, 25]"]),
        (("Sequential", "0: Sequential", "0.1: ReLU"), ["relu|[100, 25]"]),
        (("Sequential", "1: Linear"), ["1.bias|[2]", "1.weight|[2, 25]", "linear|[100, 2]"]),
    ]  # fmt: skip
    framed = {box for _, boxes in read.frames for box in boxes}
    assert sorted(set(read.boxes) - framed) == ["[100, 2]", f"log|data {value}"]


def test_a_module_used_twice_is_two_frames_beside_its_parameters():
    read = Read(draw(Twice()(torch.ones(3, 2))))
    assert read.frames == [
        (("Twice",), ["+|[3, 2]", "inner.weight|[2, 2]", "shift|[2]"]),
        (("Twice", "inner: Linear"), ["linear|[3, 2]"]),
        (("Twice", "inner: Linear"), ["linear|[3, 2]"]),
    ]


def test_a_model_called_twice_has_its_parameters_outside():
    model = tg.nn.Linear(2, 1, bias=False)
    read = Read(draw(model(torch.ones(3, 2)) - model(torch.zeros(3, 2))))
    assert read.frames == [(("Linear",), ["linear|[3, 1]"])] * 2
    assert "weight|[1, 2]" in read.boxes


class Recurrent(tg.nn.Module):
    def __init__(self):
        self.state, self.input = tg.nn.Linear(2, 2), tg.nn.Linear(2, 2)

    def forward(self, x):
        state = x
        for _ in range(5):
            state = torch.tanh(self.state(state) + self.input(x))
        return state


def test_results_stand_below_their_operands():
    graph = Read(draw(Recurrent()(torch.ones(1, 2)))).graph
    graph.layout("dot")
    height = {node: float(node.attr["pos"].split(",")[1]) for node in graph.nodes()}
    assert all(height[operand] > height[result] for operand, result in graph.edges())


def test_a_module_that_computes_nothing_has_no_frame():
    model = tg.nn.Sequential(tg.nn.Linear(2, 1), HandsThrough())
    x = leaf([[1.0, 2.0]])
    y = HandsThrough()(model(HandsThrough()(x * 2)))
    frames = dict(Read(draw(y)).frames)
    assert list(frames) == [("Sequential",), ("Sequential", "0: Linear")]


def test_a_frame_holds_what_the_call_computed_and_nothing_else():
    model = tg.nn.Sequential(tg.nn.Tanh())
    x = leaf([1.0])
    y = model(x.exp()).sin()
    y.backward()  # frames stay when saved values go
    read = Read(draw(y, x=x))
    assert read.frames == [(("Sequential",), []), (("Sequential", "0: Tanh"), ["tanh|[1]"])]


def test_a_given_name_wins_over_the_path_of_a_parameter():
    model = tg.nn.Linear(1, 1, bias=False)
    assert "w|[1, 1]" in Read(draw(model(torch.ones(1)), w=model.weight)).boxes


# ---------------------------------------------------------------------------- files


@pytest.fixture
def diagram():
    x = leaf([1.0, 2.0])
    return draw((x * x).sum(), x=x)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_written(tmp_path, format):
    x = leaf([1.0, 2.0])
    for path in (tmp_path / f"graph.{format}", str(tmp_path / f"GRAPH.{format.upper()}")):
        draw(x.exp(), path)
        assert Path(path).read_bytes().startswith(SIGNATURES[format])
    assert len(list(tmp_path.iterdir())) == 2


def svg_texts(svg):
    elements = ElementTree.fromstring(svg).iter(SVG_TEXT)
    return sorted(text for element in elements if (text := element.text.strip()))


def test_an_svg_says_what_the_diagram_says(diagram):
    svg = diagram._repr_svg_()
    assert svg_texts(svg) == ["*", "[2]", "[2]", "data 5", "sum", "x"]


def test_pictures_are_drawn_where_no_program_can_be_found(tmp_path):
    script = (
        "import tinygrad_ee559 as tg\n"
        "from tinygrad_ee559.draw import draw\n"
        "y = tg.Tensor(1.0, requires_grad=True).exp()\n"
        f"for format in {FORMATS}: draw(y, f'graph.{{format}}')\n"
    )
    environment = {**os.environ, "PATH": ""}
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    for format, signature in SIGNATURES.items():
        assert (tmp_path / f"graph.{format}").read_bytes().startswith(signature)


@pytest.fixture
def dot_program(tmp_path, monkeypatch):
    """Puts a program of that name, with the given lines of shell script, on the path."""

    def install(script):
        program = tmp_path / "bin" / "dot"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    return install


def test_the_program_dot_is_used_where_there_is_one(dot_program, diagram):
    dot_program('echo "$@"; exec cat')
    assert diagram.render("png").decode() == f"-Tpng\n{diagram.source}"


def test_a_font_is_always_found(dot_program, diagram, monkeypatch):
    monkeypatch.delenv("FONTCONFIG_FILE", raising=False)
    dot_program('exec cat "$FONTCONFIG_FILE"')
    config = ElementTree.fromstring(diagram.render("png"))
    assert list(Path(config.find("dir").text).glob("DejaVuSans*.ttf"))


def test_fonts_that_the_user_chose_are_used(dot_program, diagram, monkeypatch):
    monkeypatch.setenv("FONTCONFIG_FILE", "/chosen/by/the/user")
    dot_program('echo "$FONTCONFIG_FILE"')
    assert diagram.render("png") == b"/chosen/by/the/user\n"


def test_drawing_leaves_the_environment_as_it_was(diagram):
    before = dict(os.environ)
    diagram.render("png")
    assert dict(os.environ) == before


def test_a_failed_layout_says_why(dot_program, diagram):
    dot_program("echo out of ink >&2; exit 1")
    with pytest.raises(DrawingError, match="Graphviz could not lay the graph out: out of ink"):
        diagram.render("svg")


@pytest.mark.parametrize("name", ["graph.bmp", "graph", "graph.svg.gz"])
def test_an_unknown_suffix_lists_the_known_ones(tmp_path, name):
    with pytest.raises(DrawingError, match=r"\.svg, \.png, \.pdf or \.dot"):
        draw(leaf(1.0), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_good_file_survives_a_failed_write(tmp_path, monkeypatch, diagram, step):
    path = tmp_path / "graph.dot"
    path.write_text("good")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="no space left"):
        diagram.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["graph.dot"]
    assert path.read_text() == "good"


def test_a_link_stays_a_link(tmp_path, diagram):
    link = tmp_path / "link.dot"
    link.symlink_to(tmp_path / "target.dot")
    diagram.save(link)
    assert link.is_symlink() and (tmp_path / "target.dot").read_text() == diagram.source


def test_committed_pictures_are_what_the_example_draws(tmp_path):
    script = ROOT / "examples" / "draw_expression.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    drawn = {path.name: svg_texts(path.read_text()) for path in tmp_path.iterdir()}
    for name, texts in drawn.items():
        committed = svg_texts((ROOT / "docs" / "_static" / name).read_text())
        assert committed == texts, f"python {script.name} docs/_static draws {name} anew"
    assert len(drawn) == 3


# ---------------------------------------------------------------------------- notebooks, errors


def test_a_notebook_shows_the_diagram_of_what_was_computed():
    x = leaf([1.0])
    y = x.exp()
    assert y._repr_svg_() == draw(y)._repr_svg_()
    assert x._repr_svg_() is None and tg.Tensor(1.0)._repr_svg_() is None


def test_ten_thousand_operations():
    x = y = leaf(1.0)
    for _ in range(10_000):
        y = y.sin()
    diagram = draw(y, x=x)
    assert diagram.source.count("->") == 10_000
    with pytest.raises(DrawingError, match=r"10,001 boxes, and more than 1,000.*\.dot file"):
        diagram.render("svg")
    assert y._repr_svg_() is None


def test_as_many_boxes_as_are_allowed_can_be_drawn():
    x = leaf(1.0)
    layer = [x] * 9
    for _ in range(111):
        layer = [a + b for a, b in zip(layer, layer[1:] + layer[:1])]
    diagram = draw(layer, x=x)
    assert repr(diagram) == "<Diagram of 1000 boxes>"
    assert diagram.render("svg").startswith(SIGNATURES["svg"])


def test_a_name_for_something_else_is_an_error():
    with pytest.raises(DrawingError, match="no output depends on the tensor that was named 'b'"):
        draw(leaf(1.0).exp(), b=leaf(2.0))


def test_what_has_no_history_cannot_be_drawn():
    with pytest.raises(NotDifferentiableError):
        draw(tg.Tensor(1.0))
    with pytest.raises(TypeError, match="must be tensors, not Tensor|must be tensors, not float"):
        draw([1.0])
