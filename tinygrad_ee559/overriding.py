"""`override_rule`: another gradient for a function, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinygrad_ee559.errors import NoRuleError
from tinygrad_ee559.rules.registry import COMPOSED, RULES, Formula, Rule, function_name
from tinygrad_ee559.tape import overriding_rule


@contextmanager
def override_rule(function: Any, *formulas: Formula | None) -> Iterator[None]:
    """Inside the block, in this thread, differentiate a function by other formulas.

    It is the backward pass that must lie in the block. A formula that needs a value which the
    function's own rule does not keep (its result, or an argument) needs the function to be called
    in the block too.

    Args:
        function: a function with a rule: a torch function, by any of its names, or your own.
        formulas: as for `rule`: one per argument, from the gradient of the result, the result and
            the arguments to the gradient of the argument.

    Raises:
        NoRuleError: the function has no rule of its own, or is composed of others.
        RuleError: in the backward pass, if a formula needs what was not kept.

    >>> import torch
    >>> from tinygrad_ee559 import Tensor
    >>> x = Tensor([-1.0, 2.0], requires_grad=True)
    >>> y = torch.relu(x)
    >>> with override_rule(torch.relu, lambda g, y, x: g):  # straight through
    ...     y.sum().backward()
    >>> x.grad
    Tensor([1., 1.])
    """
    rule = RULES.get(function)
    if rule is None:
        how = "is composed of others" if function in COMPOSED else "has no rule"
        raise NoRuleError(f"{function_name(function)} {how}; override the functions it calls")
    other = Rule(rule.function, formulas, rule.number, rule.pointwise, holomorphic=rule.holomorphic)
    with overriding_rule(rule, other):
        yield
