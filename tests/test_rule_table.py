"""Every rule says truthfully what it needs."""

import dis
import inspect

import pytest
import torch

import tinygrad_ee559 as tg
from tinygrad_ee559.rules.registry import COMPOSED, CONSTANT, RULES, ops

FORMULAS = [
    (rule, i, formula)
    for rule in dict.fromkeys(RULES.values())
    for i, formula in enumerate(rule.formulas)
    if formula is not None
]


def names_loaded(code):
    """The local names that a function reads, in nested functions too."""
    loaded = {
        i.argval
        for i in dis.get_instructions(code)
        if i.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE"))
    }
    for value in loaded.copy():
        if isinstance(value, tuple):  # two at once, from Python 3.13 on
            loaded |= set(value)
    return loaded


@pytest.mark.parametrize(
    ("rule", "i", "formula"), FORMULAS, ids=[f"{rule.name}-{i}" for rule, i, _ in FORMULAS]
)
def test_parameters_say_what_a_formula_needs(rule, i, formula):
    if not inspect.isfunction(formula):
        pytest.skip("not written in Python")
    loaded = names_loaded(formula.__code__)
    operands = 1 + len(rule.formulas)  # the result and what has a gradient; options cost nothing
    for parameter in list(inspect.signature(formula).parameters)[1 : 1 + operands]:
        if parameter.startswith("_"):
            assert parameter not in loaded, f"{parameter} is used, though it is not kept"
        else:
            assert parameter in loaded, f"{parameter} is kept, though nothing needs it"


def test_every_torch_function_with_a_rule_that_is_a_method_is_a_method():
    for table in (RULES, COMPOSED, CONSTANT):
        for function in table:
            name = getattr(function, "__name__", "_")
            method = getattr(torch.Tensor, name, None)
            if getattr(torch, name, None) is function and inspect.isroutine(method):
                assert hasattr(tg.Tensor, name), name


def test_what_torchs_tensors_have_as_properties_are_properties():
    z = tg.Tensor([[1 + 2j, 3j]], requires_grad=True)
    assert z.real.tolist() == [[1, 0]] and z.imag.requires_grad and z.H.shape == (2, 1)
    assert z.layout is torch.strided and z.is_sparse is False and z.itemsize == 8


def test_a_rule_of_ones_own_for_a_torch_function_also_makes_a_method():
    x = tg.Tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    tg.rule(torch.special.bessel_j0, lambda g, _y, x: -g * torch.special.bessel_j1(x))
    tg.rule(torch.special.bessel_j1, lambda g, y, x: g * (torch.special.bessel_j0(x) - y / x))
    try:
        assert tg.gradcheck(torch.special.bessel_j0, x)
        assert tg.gradgradcheck(torch.special.bessel_j0, x)
    finally:
        for function in (torch.special.bessel_j0, torch.special.bessel_j1):
            del RULES[function]


def test_a_rule_for_a_function_of_ones_own():
    """The example of the docs: a hard step with a straight-through gradient."""
    step = tg.rule(lambda x: (x > 0).to(x.dtype), lambda g, _y, _x: g)
    x = tg.Tensor([-1.0, 2.0], requires_grad=True)
    y = step(x)
    assert y.tolist() == [0, 1]
    y.sum().backward()
    assert x.grad.tolist() == [1, 1]


def test_operators_called_by_their_c_functions_are_recorded_like_others():
    g = tg.Tensor([1.0, 2.0], requires_grad=True)
    d = ops.threshold_backward(g, torch.tensor([-1.0, 1.0]), 0)
    assert d.node.rule is RULES[torch.ops.aten.threshold_backward]
    d.sum().backward()
    assert g.grad.tolist() == [0, 1]
    assert RULES[ops.threshold_backward] is d.node.rule
    with pytest.raises(AttributeError):
        ops.no_such_operator  # noqa: B018
