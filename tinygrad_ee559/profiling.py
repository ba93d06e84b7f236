"""`profile`: where the time of a block goes, by operation and by module.

PyTorch's profiler does the measuring. For as long as the block lasts, the places that every call
comes through (the function of a rule, the formulas of a plan, `Module.__call__`, ...) are exchanged
for ones that open a *range*, an entry in the profiler's record with a name; nothing is asked or
done in other places, and nothing at all outside of such a block.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any, NamedTuple

import torch

from tinygrad_ee559 import optim, record, tape
from tinygrad_ee559.bridge import TorchModule
from tinygrad_ee559.compiling.program import Program
from tinygrad_ee559.compiling.together import Together
from tinygrad_ee559.nn.module import Module
from tinygrad_ee559.private import profiler_range, torch_is_profiling
from tinygrad_ee559.rules.registry import Plan, Rule
from tinygrad_ee559.tape import NUMBERS, Node, next_order
from tinygrad_ee559.tensor import Tensor

_PACKAGE = __name__.partition(".")[0]
_ONE_AT_A_TIME = threading.Lock()
#: What runs programs, and what its rows are called.
_COMPILED = (
    (Program, "run", "compiled step"),
    (Program, "loop", "compiled loop"),
    (Together, "loop", "compiled ensemble"),
)


class Row(NamedTuple):
    """One line of a profile's table. Times are in seconds.

    `phase` is "forward", "backward" or "optimizer", and "compiled" of programs, which are all of
    these. `total_time` is all the time from call to return; `self_time` leaves out what has rows of
    its own in the same part of the table. `share` is the part of the whole block's time that
    `self_time` is.
    """

    name: str
    phase: str
    calls: int
    total_time: float
    self_time: float
    share: float


class profile:
    """Measure where the time goes inside a `with` block, by operation and by module.

    The block's own thread is measured, and only one profile runs at a time. Printed, a profile is a
    table; its rows are in `operations` and `modules`, those that took longest first. The shares of
    either add up to 1.

    Raises:
        RuntimeError: another profile, or PyTorch's profiler, is running; or results are asked for
            before the block has ended.

    >>> x = Tensor(torch.ones(100, 100), requires_grad=True)
    >>> with profile() as p:
    ...     torch.tanh(x).sum().backward()
    >>> sorted((row.name, row.phase, row.calls) for row in p.operations if "torch" in row.name)
    ... # doctest: +NORMALIZE_WHITESPACE
    [('torch.sum', 'backward', 1), ('torch.sum', 'forward', 1),
     ('torch.tanh', 'backward', 1), ('torch.tanh', 'forward', 1)]
    """

    def __init__(self) -> None:
        self._profiler: Any = None
        self._ranges = _Ranges()
        self._leave = ExitStack()
        self._rows: tuple[list[Row], list[Row]] | None = None

    def __enter__(self) -> profile:
        if not _ONE_AT_A_TIME.acquire(blocking=False):
            raise RuntimeError(
                "a profile is running already, here or in another thread; end that one first"
            )
        with ExitStack() as stack:
            stack.callback(_ONE_AT_A_TIME.release)
            if torch_is_profiling():
                raise RuntimeError(
                    "PyTorch's profiler is running, and cannot run twice; end that one first"
                )
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = self._rows = None
            profiler = torch.profiler.profile(activities=activities)
            stack.callback(setattr, self, "_profiler", profiler)
            stack.enter_context(profiler)
            self._ranges = _Ranges()
            stack.enter_context(self._ranges.opened())
            stack.enter_context(profiler_range(self._ranges.text(*_BLOCK)))
            self._leave = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._leave.__exit__(*error)

    @property
    def operations(self) -> list[Row]:
        """The rows of operations, of the optimizer's step, and of the time in between."""
        return self._both()[0]

    @property
    def modules(self) -> list[Row]:
        """The rows of modules, by path and type as in diagrams, and of the time outside of them."""
        return self._both()[1]

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the course of events, to be seen in chrome://tracing or https://ui.perfetto.dev.

        PyTorch writes it, and does so only once.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):  # of which PyTorch says nothing
            raise FileNotFoundError(f"there is no folder {folder} to write the trace into")
        self._finished().export_chrome_trace(os.fspath(path))

    def __repr__(self) -> str:
        if self._profiler is None:
            return "<profile: its block has not ended yet>"
        operations, modules = self._both()
        whole = sum(row.self_time for row in operations)
        tables = [_table("operation", operations)]
        if len(modules) > 1:
            tables.append(_table("module", modules))
        return "\n\n".join((f"profile of {whole * 1e3:.3f} ms", *tables))

    def _finished(self) -> Any:
        if self._profiler is None:
            raise RuntimeError("a profile has results when its block has ended, and not before")
        return self._profiler

    def _both(self) -> tuple[list[Row], list[Row]]:
        if self._rows is None:
            ranges = self._ranges
            events = self._finished().events()
            block = next((event for event in events if ranges.label(event) == _BLOCK), None)
            if block is None:
                raise RuntimeError(
                    "nothing was recorded, as PyTorch's profiler was started inside the block too"
                )
            self._rows = (
                _rows(block, _BLOCK, ranges.operation, ranges.backward_calls),
                _rows(block, _OUTSIDE, ranges.module, {}),
            )
        return self._rows


class _Label(NamedTuple):
    """What a range, or an event of torch's own, is counted under."""

    kind: str
    name: str
    phase: str


_BLOCK = _Label("block", "engine and other Python", "forward")
_PASS = _Label("pass", "engine", "backward")
_OUTSIDE = _Label("block", "outside of modules", "")


class _Call:
    """One call of a module; the nodes made in it have places between `begin` and `end`."""

    def __init__(self, module: Any, title: str) -> None:
        self.module = module
        self.title = title
        self.begin = -next_order()
        self.end = float("inf")
        self.inner: list[_Call] = []


class _Ranged:
    """A function, or formula, that opens a range when it is called; for the rest it is itself."""

    __slots__ = ("function", "text")
    # A class has one of its own, which `__getattr__` would not be asked for.
    __module__ = property(lambda self: self.function.__module__)

    def __init__(self, function: Any, text: str) -> None:
        self.function = function
        self.text = text

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else None
        if first.__class__ is Tensor and first._data.__class__ in NUMBERS:
            return self.function(*args, **kwargs)  # plain numbers are left out
        with profiler_range(self.text):
            return self.function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)

    def __hash__(self) -> int:
        return hash(self.function)

    def __eq__(self, other: object) -> bool:
        return bool(self.function == other)


class _Ranges:
    """Opens the ranges of one profile, and knows afterwards what they stand for."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        #: How often each operation's node was gone through: it may have several formulas.
        self.backward_calls: Counter[str] = Counter()
        self._labels: dict[str, _Label] = {}
        self._texts: dict[_Label, str] = {}
        self._titles: dict[Any, str] = {}
        self._taken: Counter[str] = Counter()
        #: Calls of modules outside of any other, and those going on with their ranges.
        self._calls: list[_Call] = []
        self._running: list[tuple[_Call, Any]] = []
        #: The calls whose nodes the backward pass is going through, with their ranges.
        self._passing: list[tuple[_Call, Any]] = []
        #: The node whose plan was read last, and the one counted last.
        self._node: Any = None
        self._counted: Any = None

    # ------------------------------------------------------------ what is exchanged

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Inside, everything that is to be measured opens ranges."""
        with ExitStack() as stack:

            def exchange(owner: Any, name: str, value: Any) -> None:
                stack.callback(setattr, owner, name, vars(owner)[name])
                setattr(owner, name, value)

            stack.callback(setattr, self, "_node", None)  # and with it, the graph
            stack.callback(_take_back_ranges)
            for rule, cell in _short_ways():
                cell.cell_contents = self._ranged_function(rule, rule.function)
            exchange(Rule, "function", _changed_slot(Rule, "function", self._ranged_function))
            exchange(Plan, "formulas", _changed_slot(Plan, "formulas", self._ranged_formulas))
            exchange(Node, "plan", _changed_slot(Node, "plan", self._at_node))
            exchange(Module, "__call__", self._here(Module.__call__, self._call))
            watched = self._here(TorchModule._watched, self._watched)
            exchange(TorchModule, "_watched", watched)
            original = tape.propagate
            for module in _modules():
                if vars(module).get("propagate") is original:
                    exchange(module, "propagate", self._here(original, self._propagate))
            for optimizer in vars(optim).values():
                if isinstance(optimizer, type) and "step" in vars(optimizer):
                    text = self.text("step", f"{optimizer.__name__}.step", "optimizer")
                    step = vars(optimizer)["step"]
                    exchange(optimizer, "step", self._here(step, _stepping(text)))
            for kind, name, title in _COMPILED:
                text = self.text("step", title, "compiled")
                exchange(kind, name, self._here(vars(kind)[name], _stepping(text)))
            yield

    def _here(self, original: Any, replacement: Any) -> Any:
        """`replacement`, given `original` and the arguments, in the thread that is measured."""

        def either(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self.thread:
                return original(*args, **kwargs)
            return replacement(original, *args, **kwargs)

        return either

    def _ranged_function(self, rule: Rule, function: Any) -> Any:
        return _Ranged(function, self.text("operation", _name(rule), "forward"))

    def _at_node(self, node: Any, plan: Plan) -> Plan:
        if threading.get_ident() == self.thread:
            self._node = node
        return plan

    def _ranged_formulas(self, plan: Plan, formulas: Any) -> Any:
        """Called when the backward pass comes to a node, after having read its plan."""
        node = self._node
        if node is not self._counted and threading.get_ident() == self.thread:
            self._counted = node
            self.backward_calls[_name(node.rule)] += 1
            self._pass_to(self._calls_around(-node.order))
        text = self.text("operation", _name(plan.rule), "backward")
        return tuple([_Ranged(formula, text) for formula in formulas])

    def _propagate(self, propagate: Any, *args: Any, **kwargs: Any) -> Any:
        outer, self._passing, self._counted = self._passing, [], None
        with profiler_range(self.text(*_PASS)):
            try:
                return propagate(*args, **kwargs)
            finally:
                self._pass_to([])
                self._passing, self._counted = outer, None

    # ----------------------------------------------------------------------- modules

    def _call(self, call: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        self._enter(module)
        try:
            return call(module, *args, **kwargs)
        finally:
            self._exit(module)

    @contextmanager
    def _watched(self, watched: Any, outermost: Any) -> Iterator[None]:
        """Around a call of a module of PyTorch's: those in it are called by PyTorch."""
        with watched(outermost), ExitStack() as stack:
            for module in outermost.modules():
                if module is not outermost and isinstance(module, TorchModule):
                    theirs = module.module
                    stack.callback(
                        theirs.register_forward_pre_hook(
                            lambda *_, module=module: self._enter(module)
                        ).remove
                    )
                    stack.callback(
                        theirs.register_forward_hook(
                            lambda *_, module=module: self._exit(module), always_call=True
                        ).remove
                    )
            yield

    def _enter(self, module: Any) -> None:
        call = _Call(module, self._title(module))
        (self._running[-1][0].inner if self._running else self._calls).append(call)
        self._running.append((call, _entered(self.text("module", call.title, "forward"))))

    def _exit(self, module: Any) -> None:
        if self._running and self._running[-1][0].module is module:
            call, range_ = self._running.pop()
            range_.__exit__(None, None, None)
            call.end = -next_order()

    def _title(self, module: Any) -> str:
        """A module's path in the outermost one that is being called, and its type."""
        for outermost in (self._running[0][0].module if self._running else module, module):
            if module not in self._titles:
                self._take_titles(outermost)
        return self._titles[module]

    def _take_titles(self, outermost: Any) -> None:
        # Networks of one type are told apart; losses and the like may be made anew at each step.
        numbered = next(outermost.parameters(), None) is not None
        for path, module in outermost.named_modules():
            if module not in self._titles:
                title = f"{path}: {module._get_name()}" if path else module._get_name()
                self._taken[title] += numbered
                number = self._taken[title]
                self._titles[module] = title if number < 2 else f"{title} ({number})"

    def _calls_around(self, place: float) -> list[_Call]:
        """The calls in which the node of that place was made, from the outside in."""
        around: list[_Call] = []
        calls = self._calls
        while calls:
            i = bisect_right(calls, place, key=lambda call: call.begin) - 1
            if i < 0 or calls[i].end < place:
                break
            around.append(calls[i])
            calls = calls[i].inner
        return around

    def _pass_to(self, calls: list[_Call]) -> None:
        """Have the ranges of these calls open in the backward pass, and no others."""
        passing = self._passing
        shared = 0
        for (open_call, _), call in zip(passing, calls):
            if open_call is not call:
                break
            shared += 1
        while len(passing) > shared:
            passing.pop()[1].__exit__(None, None, None)
        for call in calls[shared:]:
            passing.append((call, _entered(self.text("module", call.title, "backward"))))

    # ---------------------------------------------------------- what ranges stand for

    def text(self, kind: str, name: str, phase: str) -> str:
        """The name of a range in the trace; no two labels have the same."""
        label = _Label(kind, name, phase)
        text = self._texts.get(label)
        if text is None:
            text = {"block": "profile", "pass": "backward pass"}.get(kind) or _in_trace(name)
            text += " backward" * (phase == "backward" and kind != "pass")
            while text in self._labels:
                text += "'"
            self._texts[label] = text
            self._labels[text] = label
        return text

    def label(self, event: Any) -> _Label | None:
        return None if event.is_user_annotation else self._labels.get(event.name)

    def operation(self, event: Any, outer: _Label) -> _Label | None:
        """What an event is in the table of operations, given what is around it there.

        Where no operation is around it, a function of torch's own counts as one, unless the engine
        has taken it apart.
        """
        label = self.label(event)
        if label is not None:
            return None if label.kind == "module" else label
        between = outer.kind in ("block", "pass") and not event.is_user_annotation
        if not between or self._holds_ranges(event):
            return None
        return _Label("torch", event.name, outer.phase)

    def module(self, event: Any, _outer: _Label) -> _Label | None:
        """What an event is in the table of modules."""
        label = self.label(event)
        return label if label is not None and label.kind == "module" else None

    def _holds_ranges(self, event: Any) -> bool:
        inside = list(event.cpu_children)
        for child in inside:
            if self.label(child) is not None:
                return True
            inside += child.cpu_children
        return False


def _entered(text: str) -> Any:
    range_ = profiler_range(text)
    range_.__enter__()
    return range_


def _stepping(text: str) -> Callable[..., Any]:
    def stepping(step: Any, *args: Any, **kwargs: Any) -> Any:
        with profiler_range(text):
            return step(*args, **kwargs)

    return stepping


def _changed_slot(owner: Any, name: str, change: Callable[[Any, Any], Any]) -> property:
    """A slot's attribute, changed whenever it is read.

    Not in advance: objects made inside the block take part, and none has to be put back.
    """
    slot = vars(owner)[name]
    return property(lambda thing: change(thing, slot.__get__(thing)), slot.__set__)


def _modules() -> list[Any]:
    return [m for name, m in sys.modules.items() if name.partition(".")[0] == _PACKAGE]


def _short_ways() -> Iterator[tuple[Rule, Any]]:
    """The rules whose functions closures of record.py call, and the cells that hold the functions.

    The garbage collector knows them all, those that `rule` gave to users too.
    """
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__globals__ is vars(record):
            contents = [cell.cell_contents for cell in function.__closure__ or ()]
            rule = next((content for content in contents if isinstance(content, Rule)), None)
            for cell, content in zip(function.__closure__ or (), contents):
                if rule is not None and (content is rule.function or type(content) is _Ranged):
                    yield rule, cell


def _take_back_ranges() -> None:
    """Also from the closures that were made inside the block."""
    for rule, cell in _short_ways():
        cell.cell_contents = rule.function


def _name(rule: Rule) -> str:
    """A rule's name; a module that was given to `checkpoint` has all that it holds in its name."""
    return rule.name.partition("(")[0]


def _in_trace(name: str) -> str:
    """A name as it can stand in the trace, whose writer escapes nothing."""
    name = " ".join(name.split()).replace('"', "'").replace("\\", "/")
    return name.encode("ascii", "replace").decode()


def _rows(
    block: Any,
    rest: _Label,
    meaning: Callable[[Any, _Label], _Label | None],
    backward_calls: dict[str, int],
) -> list[Row]:
    """The time of the block, divided among what the events in it mean; `rest` gets what is left."""
    calls: Counter[_Label] = Counter()
    total: Counter[_Label] = Counter()
    own: Counter[_Label] = Counter()
    waiting: list[tuple[Any, tuple[_Label, ...]]] = [(block, ())]
    while waiting:
        event, around = waiting.pop()
        label = meaning(event, around[-1]) if around else rest
        if label is not None:
            time = event.time_range.elapsed_us() * 1e-6
            calls[label] += 1
            total[label] += 0 if label in around else time
            own[label] += time
            if around:
                own[around[-1]] -= time
            around = (*around, label)
        waiting += [(child, around) for child in event.cpu_children]
    for label in own:
        if label.kind in ("block", "pass"):
            total[label] = own[label]
        elif label.kind == "operation" and label.phase == "backward":
            calls[label] = backward_calls[label.name]
    whole = sum(own.values())
    return [
        Row(label.name, label.phase, calls[label], total[label], time, time / whole)
        for label, time in own.most_common()
    ]


def _table(title: str, rows: list[Row]) -> str:
    """Rows as text, with times in milliseconds."""
    cells = [(title, "phase", "calls", "total ms", "self ms", "share")]
    for name, phase, calls, total, own, share in rows:
        name = name if len(name) <= 50 else f"{name[:47]}..."
        times = (f"{total * 1e3:.3f}", f"{own * 1e3:.3f}", f"{share:.1%}")
        cells.append((name, phase, str(calls), *times))
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = []
    for name, phase, *numbers in cells:
        right = [number.rjust(width) for number, width in zip(numbers, widths[2:])]
        lines.append("  ".join((name.ljust(widths[0]), phase.ljust(widths[1]), *right)))
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)
