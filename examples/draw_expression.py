"""Draw what was recorded: an expression of scalars, one of matrices, and a network with its loss.

Takes the folder to draw to, this one if none is given. The pictures in docs/ are made by it:

    python examples/draw_expression.py docs/_static
"""

import sys
from pathlib import Path

import torch

import tinygrad_ee559 as tg

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")

# Scalars show their values and, once there was a backward pass, their gradients.
a = tg.Tensor(2.0, requires_grad=True)
b = tg.Tensor(-3.0, requires_grad=True)
c = a * b + b**2
y = (c / 10).tanh()
y.backward()
tg.draw(y, folder / "scalars.svg", a=a, b=b, c=c, y=y)

# Everything else shows its shape.
a = tg.Tensor(-4.0, requires_grad=True)
b = tg.Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
y = (torch.tanh(a * b) @ b.T).exp().sum() / b.norm()
y.backward()
tg.draw(y, folder / "expression.svg", a=a, b=b)

# Parameters have the names that the model gives them; modules are frames.
torch.manual_seed(0)
model = tg.nn.Sequential(tg.nn.Linear(2, 25), tg.nn.ReLU(), tg.nn.Linear(25, 2))
criterion = tg.nn.MSELoss()
loss = criterion(model(torch.rand(100, 2)), torch.rand(100, 2))
tg.draw(loss, folder / "network.svg", loss=loss)

for name in ("scalars", "expression", "network"):
    print(f"drew {folder / name}.svg")
