"""The house keeps its shape: imports point downwards, and the engine stands on its own."""

import ast
from pathlib import Path

import pytest

import tinygrad_ee559

PACKAGE = Path(tinygrad_ee559.__file__).parent
#: Who may import whom: every room only from rooms listed before it.
FLOORS = [
    ["errors", "files", "private"],
    ["rules"],
    ["tape"],
    ["tensor"],
    ["record"],
    ["inplace"],
    ["dispatch"],
    ["methods"],
    ["gradients", "recompute", "overriding"],
    ["gradcheck"],
    ["compiling", "draw"],
    ["nn"],
    ["optim"],
    ["func", "bridge"],
    ["data", "metrics", "profiling", "saving"],
    ["plots"],
    ["history"],
    ["resuming"],
    ["training"],
    ["demo", "mnist"],
    ["__main__"],
]
#: The same of the files in compiling/, as its `__init__.py` lists them.
COMPILING = [
    ["private"],
    ["cache", "memory", "progress"],
    ["streams"],
    ["native"],
    ["unseen", "layout"],
    ["lanes"],
    ["products"],
    ["lowering"],
    ["executable"],
    ["places", "code", "histories"],
    ["classes"],
    ["owner"],
    ["state"],
    ["alike"],
    ["conditions"],
    ["recorder", "arguments"],
    ["capture"],
    ["runs", "inputs"],
    ["program", "together"],
    ["compiled", "ensemble"],
]
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
#: In compiling/: a captured run may meet PyTorch's parameters, graphs are made functional, and
#: programs tell that they changed tensors in place.
ALLOWED = {
    "torch.nn.Parameter",
    "torch.func.functionalize",
    "torch.autograd.graph.increment_version",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file):
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(tree):
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
            if node.module == "tinygrad_ee559":
                names = [f"tinygrad_ee559.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("tinygrad_ee559."):
                yield name.split(".")[1]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_downwards(file):
    room = room_of(file)
    if room == "__init__":
        return
    for imported in imported_rooms(ast.parse(file.read_text())):
        inside = imported == room
        assert inside or FLOOR[imported] < FLOOR[room], f"{room} imports {imported}"


@pytest.mark.parametrize("file", sorted((PACKAGE / "compiling").glob("*.py")), ids=lambda f: f.name)
def test_imports_of_a_room_point_downwards(file):
    floor = {name: level for level, names in enumerate(COMPILING) for name in names}
    if file.name == "__init__.py":
        return
    for node in ast.walk(ast.parse(file.read_text())):
        module = getattr(node, "module", None) or ""
        if isinstance(node, ast.ImportFrom) and module.startswith("tinygrad_ee559.compiling"):
            names = module.split(".")[2:] or [alias.name for alias in node.names]
            for name in names:
                assert floor[name] < floor[file.stem], f"{file.stem} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_import_of_the_package_hides_in_a_function(file):
    for function in ast.walk(ast.parse(file.read_text())):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert not list(imported_rooms(function)), f"{function.name} imports the package"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_the_engine_uses_neither_autograd_nor_modules_of_torch(file):
    """torch.nn.functional is a namespace of functions and welcome; demo compares with PyTorch, and
    the bridge is where PyTorch's modules come from. What `ALLOWED` names differentiates nothing."""
    if file.name in ("demo.py", "bridge.py"):
        return
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if room_of(file) == "compiling" and any(a.startswith(text) for a in ALLOWED):
                continue
            assert not text.startswith("torch.autograd"), text
            batching = file.name == "batches.py" and text == "torch.func.vmap"
            assert batching or not text.startswith("torch.func."), text
            if text.startswith("torch.nn."):
                assert text.startswith("torch.nn.functional"), text
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            public = node.module in ("torch", "torch.nn.functional")
            assert public or file.name == "private.py", node.module
