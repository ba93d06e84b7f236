"""What a profile says about blocks of which the calls, and the slow parts, are known."""

import gc
import json
import math
import re
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch
import torch.nn.functional as F
from steps import interpreted

import tinygrad_ee559 as tg
from tinygrad_ee559 import tape
from tinygrad_ee559.nn.module import Module
from tinygrad_ee559.optim import SGD
from tinygrad_ee559.rules.registry import RULES, Plan, Rule
from tinygrad_ee559.tensor import Tensor

__all__ = ["interpreted"]


def leaf(*shape):
    return tg.Tensor(torch.ones(*shape), requires_grad=True)


def calls(rows):
    return {(row.name, row.phase): row.calls for row in rows}


double = tg.rule(lambda x: x * 2, lambda g, _y, _x: g * 2)


class Net(tg.nn.Module):
    def __init__(self):
        self.body = tg.nn.Sequential(tg.nn.Linear(4, 5), tg.nn.Tanh())
        self.head = tg.nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.body(x))


def training_step(model, optimizer):
    x, y = torch.ones(3, 4), torch.zeros(3, dtype=torch.long)
    optimizer.zero_grad()
    tg.nn.CrossEntropyLoss()(model(x), y).backward()
    optimizer.step()


@pytest.fixture
def trained():
    """The profile of two training steps."""
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1)
    with tg.profile() as p:
        for _ in range(2):
            training_step(model, optimizer)
    return p


# ------------------------------------------------------------------------- the rows


def test_operations_of_a_training_step_are_counted_exactly(trained):
    counted = calls(trained.operations)
    own = {key: n for key, n in counted.items() if not key[0].startswith("aten::")}
    assert own == {
        ("functional.linear", "forward"): 4,
        ("functional.linear", "backward"): 4,
        ("torch.tanh", "forward"): 2,
        ("torch.tanh", "backward"): 2,
        ("torch.log_softmax", "forward"): 2,
        ("torch.log_softmax", "backward"): 2,
        ("functional.nll_loss", "forward"): 2,
        ("functional.nll_loss", "backward"): 2,
        ("SGD.step", "optimizer"): 2,
        ("engine and other Python", "forward"): 1,
        ("engine", "backward"): 2,
    }


def test_modules_are_named_as_in_diagrams_and_counted(trained):
    paths = ["Net", "body: Sequential", "body.0: Linear", "body.1: Tanh", "head: Linear"]
    paths += ["CrossEntropyLoss"]  # of which each step makes a new one
    expected = {(path, phase): 2 for path in paths for phase in ("forward", "backward")}
    assert calls(trained.modules) == {**expected, ("outside of modules", ""): 1}


@pytest.mark.parametrize("table", ["operations", "modules"])
def test_times_add_up_and_are_sorted(trained, table):
    rows = getattr(trained, table)
    assert sum(row.share for row in rows) == pytest.approx(1)
    whole = sum(row.self_time for row in rows)
    assert whole == pytest.approx(sum(row.self_time for row in trained.operations))
    for row in rows:
        assert row.share == pytest.approx(row.self_time / whole)
        assert -1e-9 <= row.self_time <= row.total_time + 1e-9 <= whole + 2e-9
    own = [row.self_time for row in rows]
    assert own == sorted(own, reverse=True)


def test_a_module_takes_what_those_in_it_take(trained):
    for phase in ("forward", "backward"):
        total = {row.name: row.total_time for row in trained.modules if row.phase == phase}
        inside = total["body.0: Linear"] + total["body.1: Tanh"]
        (own,) = (r.self_time for r in trained.modules if r[:2] == ("body: Sequential", phase))
        assert total["body: Sequential"] == pytest.approx(own + inside)
        assert total["Net"] >= total["body: Sequential"] + total["head: Linear"]


def slowly(seconds):
    def function(x):
        time.sleep(seconds)
        return x * 2

    return function


def test_what_is_slow_ranks_first():
    slow = slowly(0.15)

    def formula(g, _y, _x):
        time.sleep(0.3)
        return g * 2

    operation = tg.rule(slow, formula)
    x = leaf(3)
    began = time.perf_counter()
    with tg.profile() as p:
        torch.tanh(operation(x)).sum().backward()
        time.sleep(0.02)
    took = time.perf_counter() - began
    backward, forward, python = p.operations[:3]
    name = RULES[slow].name
    assert backward[:3] == (name, "backward", 1) and 0.3 <= backward.self_time < took
    assert forward[:3] == (name, "forward", 1) and 0.15 <= forward.self_time < took
    assert python.name == "engine and other Python" and 0.02 <= python.self_time < took
    assert x.grad.tolist() == pytest.approx([2 * (1 - math.tanh(2) ** 2)] * 3)


def test_time_spent_in_the_engine_is_the_engines():
    x = leaf(3)
    y = x * 2
    y.register_hook(lambda g: time.sleep(0.05))
    with tg.profile() as p:
        y.sum().backward()
    assert p.operations[0][:3] == ("engine", "backward", 1)
    assert 0.05 <= p.operations[0].self_time == p.operations[0].total_time


# ------------------------------------------------------ every way to call an operation


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("torch.tanh", torch.tanh),  # by the dispatcher
        ("torch.tanh", lambda x: x.tanh()),
        ("torch.neg", lambda x: -x),  # the short ways of record.py
        ("torch.mul", lambda x: x * x),
        ("torch.mul", lambda x: 2 * x),
        ("torch.sub", lambda x: 1 - x),
        ("torch.exp", lambda x: torch.exp(input=x)),
        ("Tensor.__getitem__", lambda x: x[0]),
        ("torch.reshape", lambda x: x.reshape(9)),
        ("torch.cat", lambda x: torch.cat([x, x])),
        ("torch.unbind", lambda x: x.unbind()[1]),
        ("functional.linear", lambda x: F.linear(x, torch.ones(2, 3))),
        ("torch.relu", tg.from_torch(torch.nn.ReLU())),
    ],
)
def test_each_way_to_call_an_operation_is_seen(name, expression):
    x = leaf(3, 3)
    with tg.profile() as p:
        expression(x).sum().backward()
    counted = calls(p.operations)
    assert counted[name, "forward"] == counted[name, "backward"] == 1


def test_a_graph_made_before_and_one_used_after():
    x = leaf(3)
    before = torch.tanh(x).sum()
    with tg.profile() as p:
        before.backward()
        after = torch.exp(x).sum()
    counted = calls(p.operations)
    assert counted["torch.tanh", "backward"] == 1 and ("torch.tanh", "forward") not in counted
    assert counted["torch.exp", "forward"] == 1 and ("torch.exp", "backward") not in counted
    x.grad = None
    after.backward()
    assert x.grad.tolist() == torch.exp(x).tolist()


def test_torch_functions_that_are_not_recorded_have_rows_of_their_own():
    x = leaf(3)
    with tg.profile() as p, tg.no_grad():
        torch.tanh(x)
        x.argmax()
        with torch.profiler.record_function("torch.tanh"):  # the user's own, of that name
            torch.ones(3)
    counted = calls(p.operations)
    assert counted["torch.tanh", "forward"] == 1
    assert counted["aten::argmax", "forward"] == counted["aten::ones", "forward"] == 1


def test_a_function_that_is_taken_apart_is_its_parts():
    x = leaf(2, 3)
    with tg.profile() as p:
        torch.nn.functional.gelu(x).sum().backward()
        torch.kron(x, x).sum().backward()
    names = {row.name for row in p.operations}
    assert "torch.mul" in names and not names & {"torch.kron", "aten::kron"}


def test_plain_numbers_are_left_out():
    def product(a, b, c):
        return a * b * c

    formulas = (lambda g, _y, _a, b, c: g * b * c, lambda g, _y, a, _b, c: g * a * c, None)
    operation = tg.rule(product, *formulas, number=product)
    x = tg.Tensor(0.5, requires_grad=True)
    with tg.profile() as p:
        (operation(x, x.tanh(), 3.0) * 2).backward()
    assert calls(p.operations) == {
        ("engine and other Python", "forward"): 1,
        ("engine", "backward"): 1,
    }


def test_gradients_of_gradients():
    x = leaf(3)
    with tg.profile() as p:
        (g,) = tg.grad(torch.sin(x).sum(), x, create_graph=True)
        g.sum().backward()
    counted = calls(p.operations)
    assert counted["torch.sin", "forward"] == counted["torch.sin", "backward"] == 1
    assert counted["torch.cos", "forward"] == counted["torch.cos", "backward"] == 1
    assert counted["torch.mul", "backward"] == 1  # g * cos(x), recorded by the first pass
    assert counted["engine", "backward"] == 2
    assert sum(row.share for row in p.operations) == pytest.approx(1)


def test_what_a_checkpoint_computes_again_counts_again():
    layer = tg.nn.Linear(3, 3)
    x = leaf(2, 3)
    with tg.profile() as p:
        tg.checkpoint(layer, x).sum().backward()
    operations, modules = calls(p.operations), calls(p.modules)
    assert operations["functional.linear", "forward"] == 2
    assert operations["functional.linear", "backward"] == 1
    assert operations["tinygrad_ee559.nn.linear.Linear", "backward"] == 1
    assert operations["engine", "backward"] == 2
    assert modules["Linear", "forward"] == 2 and modules["Linear", "backward"] == 1


def test_an_overridden_rule_keeps_its_name():
    x = leaf(3)
    with tg.profile() as p, tg.override_rule(torch.relu, lambda g, _y, x: g * 5 * x):
        torch.relu(x).sum().backward()
    assert x.grad.tolist() == [5, 5, 5]
    assert calls(p.operations)["torch.relu", "backward"] == 1


def test_drawing_and_transforms_inside():
    x = leaf(2)
    with tg.profile() as p:
        inside = str(tg.draw((x * x).sum()))
        tg.func.vmap(tg.func.grad(lambda x: torch.sin(x).sum()))(torch.zeros(4, 2))
        rule = RULES[torch.mul]
        assert rule.function == torch.mul and hash(rule.function) == hash(torch.mul)
    assert inside == str(tg.draw((x * x).sum()))
    assert calls(p.operations)["torch.sin", "backward"] == 1


# -------------------------------------------------------------------------- modules


def test_a_module_that_is_called_several_times_has_one_row():
    layer = tg.nn.Linear(3, 3)
    with tg.profile() as p:
        layer(layer(layer(leaf(2, 3)))).sum().backward()
    counted = calls(p.modules)
    assert counted["Linear", "forward"] == counted["Linear", "backward"] == 3
    assert calls(p.operations)["functional.linear", "backward"] == 3


def test_two_modules_of_one_name_have_two_rows():
    models = [tg.nn.Sequential(tg.nn.Linear(3, 3), tg.nn.ReLU()) for _ in range(2)]
    with tg.profile() as p:
        for times, model in enumerate(models, 1):
            for _ in range(times):
                model(leaf(2, 3)).sum().backward()
    counted = calls(p.modules)
    for name in ("Sequential", "0: Linear", "1: ReLU"):
        for phase in ("forward", "backward"):
            assert counted[name, phase] == 1 and counted[f"{name} (2)", phase] == 2


def test_a_module_that_calls_itself_is_not_counted_twice():
    class Twice(tg.nn.Module):
        def forward(self, x, again=True):
            time.sleep(0.02)
            x = torch.tanh(x)
            return self(x, again=False) if again else x

    began = time.perf_counter()
    with tg.profile() as p:
        Twice()(leaf(3))
    took = time.perf_counter() - began
    (row,) = (row for row in p.modules if row.name == "Twice")
    assert row.calls == 2 and 0.04 <= row.self_time <= row.total_time + 1e-9 < took


def test_a_pass_inside_a_pass():
    class Checkpointed(tg.nn.Module):
        def __init__(self):
            self.layer = tg.nn.Linear(3, 3)

        def forward(self, x):
            return tg.checkpoint(self.layer, x)

    with tg.profile() as p:
        tg.nn.Sequential(tg.nn.Linear(3, 3), Checkpointed(), tg.nn.Tanh())(
            leaf(2, 3)
        ).sum().backward()
    counted = calls(p.modules)
    assert counted["Sequential", "backward"] == counted["1: Checkpointed", "backward"] == 1
    assert counted["1.layer: Linear", "forward"] == 2
    assert counted["1.layer: Linear", "backward"] == 1
    total = {row[:2]: row.total_time for row in p.modules}
    assert total["1: Checkpointed", "backward"] >= total["1.layer: Linear", "backward"]


def test_modules_inside_a_module_of_pytorch():
    inner = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh())
    model = tg.from_torch(torch.nn.Sequential(inner, torch.nn.Linear(3, 1)))
    with tg.profile() as p:
        model(leaf(2, 3)).sum().backward()
        names = {"Sequential", "0: Sequential", "0.0: Linear", "0.1: Tanh", "1: Linear"}
    expected = {(name, phase): 1 for name in names for phase in ("forward", "backward")}
    assert calls(p.modules) == {**expected, ("outside of modules", ""): 1}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


@pytest.mark.filterwarnings("ignore:module forward hook")  # the bridge's own
def test_an_error_before_a_module_of_pytorch_is_entered():
    def fail(*_):
        raise ZeroDivisionError

    theirs = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh())
    theirs[1].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError), tg.profile() as p:
        tg.from_torch(theirs)(leaf(2, 3))
    assert calls(p.modules)["Sequential", "forward"] == 1


def test_backward_time_belongs_to_the_module_that_made_the_nodes():
    slow = tg.rule(lambda x: x.clone(), lambda g, _y, _x: time.sleep(0.05) or g)

    class Slow(tg.nn.Module):
        def forward(self, x):
            return slow(x)

    with tg.profile() as p:
        tg.nn.Sequential(tg.nn.Tanh(), Slow(), tg.nn.Tanh())(leaf(3)).sum().backward()
    assert p.modules[0][:3] == ("1: Slow", "backward", 1)
    assert p.modules[0].share > 0.5


# ------------------------------------------------------------- blocks and their ends


def exchanged():
    """All that a profile exchanges."""
    from tinygrad_ee559 import bridge, gradients, recompute, tensor
    from tinygrad_ee559.func import derivatives

    modules = (bridge, gradients, recompute, tensor, derivatives, tape)
    functions = (Tensor.__mul__, Tensor.__neg__, Tensor.tanh, double)
    cells = [cell for f in functions for cell in getattr(f, "__closure__", None) or ()]
    return [
        vars(Rule)["function"], vars(Plan)["formulas"], vars(tape.Node)["plan"],
        vars(Module)["__call__"], vars(SGD)["step"], vars(bridge.TorchModule)["_watched"],
        *(vars(module)["propagate"] for module in modules if hasattr(module, "propagate")),
        *(cell.cell_contents for cell in cells),
    ]  # fmt: skip


def same(these, those):
    return [a is b for a, b in zip(these, those, strict=True)]


def test_afterwards_everything_is_as_before():
    before = exchanged()
    with tg.profile():
        inside = exchanged()
    assert all(same(exchanged(), before))
    assert not any(same(inside, before)[:6]) and not all(same(inside, before)[-4:])


def test_a_rule_made_inside_goes_on_outside():
    with tg.profile() as p:
        triple = tg.rule(lambda x: x * 3, lambda g, _y, _x: g * 3)
        triple(leaf(3)).sum().backward()
    (name,) = {name for name, _ in calls(p.operations) if "lambda" in name}
    assert calls(p.operations)[name, "forward"] == calls(p.operations)[name, "backward"] == 1
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as theirs:
        triple(leaf(3)).sum().backward()
    assert all(event.name.startswith(("aten::", "detach")) for event in theirs.events())
    with tg.profile() as p:
        triple(leaf(3)).sum().backward()
    assert calls(p.operations)[name, "forward"] == 1


@pytest.mark.parametrize("place", ["block", "forward", "backward", "module"])
def test_after_an_error_too(place):
    def fail(*_):
        raise ZeroDivisionError

    formula = fail if place == "backward" else lambda g: g
    operation = tg.rule(lambda x: x.clone(), lambda g, _y, _x: formula(g))

    class Inner(tg.nn.Module):
        def forward(self, x):
            return fail() if place == "module" else operation(x)

    model = tg.nn.Sequential(tg.nn.Tanh(), Inner())
    before = exchanged()
    with pytest.raises(ZeroDivisionError), tg.profile() as p:  # noqa: PT012
        model(leaf(3)).sum().backward()
        if place == "forward":
            tg.rule(fail, lambda g, _y, _x: g)(leaf(3))
        fail()
    assert all(same(exchanged(), before))
    assert sum(row.share for row in p.operations) == pytest.approx(1)
    assert calls(p.operations)["torch.tanh", "forward"] == 1
    with tg.profile() as p:
        torch.sin(leaf(3))
    assert set(calls(p.operations)) >= {("torch.sin", "forward")}


def test_a_profile_does_not_keep_the_graph():
    with tg.profile() as p:
        y = torch.tanh(leaf(3))
        seen = weakref.ref(y.data)
        y.sum().backward(retain_graph=True)
        assert repr(y)
        del y
    gc.collect()
    assert seen() is None and p.operations


def test_one_profile_at_a_time():
    with tg.profile() as p:
        with pytest.raises(RuntimeError, match="running already"), tg.profile():
            pass
        torch.sin(leaf(3))
    assert calls(p.operations)["torch.sin", "forward"] == 1


def test_not_inside_pytorchs_profiler():
    before = exchanged()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as outer:
        with pytest.raises(RuntimeError, match="PyTorch's profiler is running"), tg.profile():
            pass
        torch.sin(leaf(3))
    assert all(same(exchanged(), before))
    assert "aten::sin" in {event.name for event in outer.events()}


def test_programs_have_rows(interpreted):
    fast, both = tg.compile(lambda x: x * 2), tg.ensemble([lambda x: x * 2] * 2)
    for _ in range(3):
        fast(torch.ones(2))
        both(torch.ones(2, 1))
    with tg.profile() as p:
        for _ in range(4):
            fast(torch.ones(2))
        fast.loop(torch.ones(3, 2))
        both(torch.ones(2, 1))
    counted = {name: n for (name, phase), n in calls(p.operations).items() if phase == "compiled"}
    assert counted == {"compiled step": 4, "compiled loop": 1, "compiled ensemble": 1}


def test_a_trace_in_no_folder(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere to write the trace into"):
        trained.export_chrome_trace(tmp_path / "nowhere" / "trace.json")


def test_results_come_when_the_block_has_ended(tmp_path):
    with tg.profile() as p:
        assert "has not ended" in repr(p)
        with pytest.raises(RuntimeError, match="not before"):
            _ = p.operations
        with pytest.raises(RuntimeError, match="not before"):
            p.export_chrome_trace(tmp_path / "trace.json")
    assert [row.name for row in p.operations] == ["engine and other Python"]
    with p:  # once more, anew
        torch.sin(leaf(3))
    assert ("torch.sin", "forward") in calls(p.operations)


def test_another_thread_goes_on_unseen():
    model = Net()
    stop = threading.Event()
    steps = []

    def work():
        other = Net()
        optimizer = SGD(other.parameters(), lr=0.1)
        while not stop.is_set() or not steps:
            training_step(other, optimizer)
            steps.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            with tg.profile() as p:
                now = len(steps)
                while len(steps) < now + 3:
                    time.sleep(0.001)
                model(torch.ones(3, 4)).sum().backward()
            counted = calls(p.operations)
            assert counted["functional.linear", "forward"] == 2
            assert counted["functional.linear", "backward"] == 2
            assert ("SGD.step", "optimizer") not in counted
            assert calls(p.modules)["Net", "backward"] == 1
    finally:
        stop.set()
        thread.join()


def test_gradients_are_the_same_inside():
    torch.manual_seed(0)
    model = Net()
    twin = Net()
    twin.load_state_dict(model.state_dict())
    training_step(model, SGD(model.parameters(), lr=0.1))
    with tg.profile():
        training_step(twin, SGD(twin.parameters(), lr=0.1))
    for one, other in zip(model.parameters(), twin.parameters()):
        assert torch.equal(one.data, other.data) and torch.equal(one.grad.data, other.grad.data)


# ----------------------------------------------------------------- table and trace


def test_the_table_shows_all_rows_and_can_be_read(trained):
    text = repr(trained)
    assert text == str(trained)
    lines = text.splitlines()
    assert re.fullmatch(r"profile of \d+\.\d{3} ms", lines[0])
    for rows in (trained.operations, trained.modules):
        for row in rows:
            (line,) = (
                s for s in lines
                if re.match(rf"{re.escape(row.name)} +{row.phase or ' '} +{row.calls} ", s)
            )  # fmt: skip
            assert line.endswith(f"{row.share:.1%}") and f" {row.total_time * 1e3:.3f} " in line
    assert len({len(line) for line in lines[2 : 4 + len(trained.operations)]}) == 1  # aligned
    with tg.profile() as p:
        torch.sin(leaf(3))
    assert "module" not in repr(p)


def test_the_trace_nests_as_the_calls_did(trained, tmp_path):
    path = tmp_path / "trace.json"
    trained.export_chrome_trace(path)
    events = json.loads(path.read_text())["traceEvents"]
    events = [e for e in events if e.get("cat") in ("cpu_op", "user_annotation")]
    events.sort(key=lambda e: (e["ts"], -e["dur"]))
    around, nested = [], set()
    for event in events:
        while around and event["ts"] >= around[-1]["ts"] + around[-1]["dur"]:
            around.pop()
        around.append(event)
        nested.add(" > ".join(e["name"] for e in around))
    assert {
        "profile > Net > body: Sequential > body.0: Linear > functional.linear > aten::linear",
        "profile > backward pass > Net backward > head: Linear backward"
        " > functional.linear backward > aten::mm",
        "profile > backward pass > Net backward > body: Sequential backward"
        " > body.1: Tanh backward > torch.tanh backward > aten::tanh_backward",
        "profile > SGD.step > aten::_foreach_add_",
    } <= nested


def test_any_name_makes_a_valid_trace(tmp_path):
    class Odd(tg.nn.Module):
        def __init__(self):
            self.layers = {'a"b\\c': tg.nn.Tanh(), "é\n": tg.nn.Tanh(), "ü\n": tg.nn.Tanh()}

        def forward(self, x):
            for layer in self.layers.values():
                x = layer(x)
            return x

    with tg.profile() as p:
        Odd()(leaf(3)).sum().backward()
    p.export_chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {"layers.a'b/c: Tanh", "layers.? : Tanh", "layers.? : Tanh backward"} <= {
        e["name"] for e in events
    }
    counted = calls(p.modules)
    for key in ('a"b\\c', "é\n", "ü\n"):
        assert counted[f"layers.{key}: Tanh", "backward"] == 1


def test_the_import_brings_no_more_of_torch_in():
    program = """
import sys, torch
before = {name for name in sys.modules if name.startswith("torch.")}
import tinygrad_ee559.profiling
print(*{name for name in sys.modules if name.startswith("torch.")} - before)
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert not [name for name in output.stdout.split() if "profil" in name], output
    assert output.returncode == 0, output.stderr
