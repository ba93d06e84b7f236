"""Formulas on plain numbers: the same code, with `torch` read as Python's arithmetic.

A formula such as `lambda g, _y, x: g * torch.cos(x)` runs on floats if its `torch.cos` is the
number form that the rule of `torch.cos` was registered with. So its function object is made a
second time, with global names that lead to number forms.
"""

from __future__ import annotations

import dis
import types
from typing import Any

import torch

from tinygrad_ee559.rules.registry import CONSTANT, RULES, Formula, Rule


class NumberTorch:
    """Stands for torch, or a namespace inside it, with every function in its number form."""

    def __init__(self, namespace: Any) -> None:
        self._namespace = namespace

    def __getattr__(self, name: str) -> Any:
        value = number_form(getattr(self._namespace, name))
        if value is None:
            raise AttributeError(f"{name} has no form on plain numbers")
        setattr(self, name, value)
        return value


def number_form(value: Any) -> Any:
    """What stands for a torch function or a namespace of them on numbers; None if nothing does."""
    if isinstance(value, float):  # torch.pi
        return value
    if value is torch or isinstance(value, (types.ModuleType, type(torch.ops.aten))):
        return NumberTorch(value)
    if not callable(value):
        return None
    rule = RULES.get(value)
    return CONSTANT.get(value) if rule is None else rule.number


def number_formulas(rule: Rule) -> tuple[Formula | None, ...]:
    """The formulas of `rule` for plain numbers; none if one of them needs more than arithmetic."""
    if rule.number_formulas is None:
        forms = [formula and _on_numbers(formula) for formula in rule.formulas]
        complete = all(form or not formula for form, formula in zip(forms, rule.formulas))
        rule.number_formulas = tuple(forms) if complete else ()
    return rule.number_formulas


def _on_numbers(formula: Formula) -> Formula | None:
    if not isinstance(formula, types.FunctionType):
        return None
    code = formula.__code__
    used = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    forms = {name: number_form(formula.__globals__.get(name)) for name in used}
    if None in forms.values():
        return None
    return types.FunctionType(
        code, forms, formula.__name__, formula.__defaults__, formula.__closure__
    )
