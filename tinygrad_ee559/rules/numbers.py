"""Formulas on plain numbers: the same code, with `torch` read as Python's arithmetic.

A formula such as `lambda g, _y, x: g * torch.cos(x)` runs on floats if its `torch.cos` is the
number form that the rule of `torch.cos` was registered with. So its function object is made a
second time, with a `torch` that looks names up in the rule table.
"""

from __future__ import annotations

import dis
import types
from typing import Any

import torch

from tinygrad_ee559.rules.registry import RULES, Formula, Rule


class NumberTorch:
    """Stands for torch, or a namespace inside it, with every function in its number form."""

    def __init__(self, namespace: Any) -> None:
        self._namespace = namespace

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._namespace, name)
        rule = RULES.get(value) if callable(value) else None
        if rule is not None and rule.number is not None:
            value = rule.number
        elif callable(value):
            raise AttributeError(f"{name} has no form on plain numbers")
        else:
            value = NumberTorch(value)
        setattr(self, name, value)
        return value


_number_torch = NumberTorch(torch)


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
    if not used <= {"torch"}:
        return None
    return types.FunctionType(
        code, {"torch": _number_torch}, formula.__name__, formula.__defaults__, formula.__closure__
    )
