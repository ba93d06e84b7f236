"""Why does a network see a 3? Three explanations of one prediction, by its gradients.

    python examples/explanations.py

Trains a small convolutional network, written with torch.nn, on the digits that come with
scikit-learn; then draws, for a digit of each kind, which pixels speak for the answer:

    saliency                how fast the answer's score changes with each pixel
                            (Simonyan et al. 2013)
    guided backpropagation  the same, where only what speaks for the answer passes a ReLU
                            (Springenberg et al. 2015): a changed rule, in one line
    integrated gradients    what each pixel adds to the score on the way from a black image to this
                            one (Sundararajan et al. 2017); all that is added up is the score
"""

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn

import tinygrad_ee559 as tg
from tinygrad_ee559.data import Batches
from tinygrad_ee559.training import fit

torch.manual_seed(0)
digits = load_digits()
order = torch.randperm(len(digits.target))
images = tg.Tensor(torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16)
labels = tg.Tensor(torch.tensor(digits.target)[order])
train = Batches(images[:1500], labels[:1500], batch_size=50)
test = Batches(images[1500:], labels[1500:], batch_size=297)

network = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(32 * 4 * 4, 10),
)  # fmt: skip
model = tg.from_torch(network)
optimizer = tg.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
fit(model, tg.nn.CrossEntropyLoss(), optimizer, train, epochs=8, test=test, callbacks=[print])

shown = images[[1500 + labels[1500:].tolist().index(kind) for kind in range(10)]]
answers = model(shown).argmax(1, keepdim=True)


def score(images):
    """The scores of the answers, of all images together."""
    return model(images).gather(1, answers).sum()


def slope(images):
    images = images.detach().requires_grad_()
    (gradient,) = tg.grad(score(images), images)
    return gradient


def saliency(images):
    return slope(images).abs()


def guided_backpropagation(images):
    with tg.override_rule(torch.relu, lambda g, y, _x: g * (y > 0) * (g > 0)):
        return slope(images).clamp(min=0)


def integrated_gradients(images, steps=200):
    middles = [(step + 0.5) / steps for step in range(steps)]
    return images * sum(slope(images * middle) for middle in middles) / steps


total = integrated_gradients(shown).sum().item()
gained = (score(shown) - score(shown * 0)).item()
print(f"integrated gradients add up to {total:.3f}, the scores have gained {gained:.3f}")

METHODS = {
    "image": lambda images: images,
    "saliency": saliency,
    "guided\nbackpropagation": guided_backpropagation,
    "integrated\ngradients": integrated_gradients,
}
figure = Figure(figsize=(10, 4.6), layout="constrained")
rows = figure.subplots(len(METHODS), len(shown))
for row, (name, method) in zip(rows, METHODS.items()):
    signed = name.startswith("integrated")
    colors = "gray_r" if name == "image" else "RdBu_r" if signed else "magma_r"
    for axes, picture in zip(row, method(shown).squeeze(1)):
        most = picture.abs().max().item()
        axes.imshow(picture.numpy(), cmap=colors, vmin=-most if signed else 0, vmax=most)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
for axes, (answer,) in zip(rows[0], answers.tolist()):
    axes.set_title(f"read as {answer}", fontsize=9)
figure.savefig("explanations.png", dpi=120)
print("explanations.png: what speaks for each answer; in the last row red, and blue against it")
