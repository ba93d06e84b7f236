"""The same training code on real data: a network learns to read the handwritten digits of MNIST."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from rich.console import Console

from tinygrad_ee559 import nn, optim, plots, saving
from tinygrad_ee559.data import Batches, mnist, normalize
from tinygrad_ee559.history import History
from tinygrad_ee559.tensor import Tensor
from tinygrad_ee559.training import fit, seeded

TRAINING_IMAGES = 60_000
MOMENTUM = 0.9
# Of all pixels of the training images; every model trained on MNIST has seen these two numbers.
MEAN, STD = 0.1307, 0.3081


def run(
    data: str | os.PathLike[str] | None,
    out: Path,
    *,
    samples: int,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    console: Console,
) -> History:
    """Train on the first `samples` training images; save the model and show its mistakes.

    The images are in the folder `data`; if it is None, where `data.mnist` looks for them.

    Returns:
        What training came to.

    Raises:
        DataFileError: one of the data files is missing or not the published one.
        FloatingPointError: the learning rate was too large, and training diverged.
        OSError: `out` cannot be made or written to.
    """
    images, labels = mnist(data)
    test_images, test_labels = mnist(data, train=False)
    out.mkdir(parents=True, exist_ok=True)

    generator = torch.Generator().manual_seed(seed)
    model = network(seed)
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM)
    scheduler = optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs)
    test = Batches(inputs_of(test_images), test_labels, batch_size=1000)
    history = fit(
        model,
        nn.CrossEntropyLoss(),
        optimizer,
        Batches(inputs_of(images[:samples]), labels[:samples], batch_size, generator),
        epochs,
        test=test,
        callbacks=[lambda _: scheduler.step(), console.out],
        console=console,
    )
    saving.save(out / "model.safetensors", model)
    with torch.no_grad():
        answers = torch.cat([model(inputs).argmax(1).data for inputs, _ in test])
    plots.wrong_digits(out / "wrong.png", test_images, test_labels, Tensor(answers))
    for name in ("model.safetensors", "wrong.png"):
        console.out(out / name)
    return history


def network(seed: int) -> nn.Module:
    """784-512-512-512-10 with ReLU between, its parameters drawn with a seed."""
    with seeded(seed):
        return nn.Sequential(
            nn.Linear(784, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 10),
        )


def inputs_of(images: Tensor) -> Tensor:
    """What the network sees of images: rows of 784 numbers of mean 0 and variance 1."""
    return normalize(images.reshape(-1, 784), MEAN, STD)
