"""Complex numbers: their parts, and the functions that have no complex derivative.

A gradient is PyTorch's: of a real loss L with respect to z = x + iy, it is dL/dx + i dL/dy. The
formulas here hold as they stand; nothing is conjugated around them.
"""

from __future__ import annotations

from typing import Any

import torch

from tinygrad_ee559.rules.registry import alias, pointwise, rule, view

aten = torch.ops.aten

# of a plain number too
view(torch.conj, lambda g, _y, _z: torch.conj(g), holomorphic=False)
view(torch.real, lambda g, _y, _z: g, holomorphic=False)
view(torch.imag, lambda g, _y, _z: torch.complex(torch.zeros_like(g), g), holomorphic=False)
view(torch.resolve_conj, lambda g, _y, _z: g)
view(torch.resolve_neg, lambda g, _y, _z: g)
view(torch.view_as_real,
     lambda g, _y, _z: torch.complex(g.select(-1, 0), g.select(-1, 1)), holomorphic=False)
view(torch.view_as_complex,
     lambda g, _y, _x: torch.stack([torch.real(g), torch.imag(g)], -1), holomorphic=False)
rule(torch.conj_physical, lambda g, _y, _z: torch.conj(g), holomorphic=False)
alias(torch.conj, torch.ops.aten._conj)

rule(torch.complex, lambda g, _y, _real, _imag: torch.real(g),
                    lambda g, _y, _real, _imag: torch.imag(g), holomorphic=False)
rule(torch.polar,
     lambda g, y, _abs, _angle: torch.real(torch.conj(g) * torch.sgn(y)),
     lambda g, y, _abs, _angle: torch.real(torch.conj(g) * y * 1j), holomorphic=False)

pointwise(torch.abs, lambda g, _y, x: g * torch.sgn(x), number=abs, holomorphic=False)
alias(torch.abs, torch.absolute)
pointwise(torch.angle, lambda g, _y, x: _angle_gradient(g, x), holomorphic=False)
pointwise(torch.sgn, lambda g, y, x: _sgn_gradient(g, y, x), holomorphic=False)


def _angle_gradient(g: Any, z: Any) -> Any:
    """The angle grows at right angles to z, the faster the nearer to 0; a real one is constant."""
    if not z.is_complex():
        return torch.zeros_like(g)
    return torch.where(z == 0, 0, g * 1j / torch.conj(torch.where(z == 0, 1, z)))


def _sgn_gradient(g: Any, y: Any, z: Any) -> Any:
    """Of z / |z| only what is at right angles to z changes it; a sign is constant."""
    if not z.is_complex():
        return torch.zeros_like(g)
    size = torch.abs(z)
    return torch.where(size == 0, 0, (g - torch.real(g * torch.conj(y)) * y) / size)
