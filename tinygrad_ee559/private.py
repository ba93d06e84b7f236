"""The private parts of torch that are used, all of them: where no public function serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch._decomp import decomposition_table


def decomposition(operator: Any) -> Callable[..., Any] | None:
    """How torch writes an operator in terms of others, if it does."""
    return decomposition_table.get(operator)
