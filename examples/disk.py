"""Learn which points of the unit square are inside a disk: training, from data to picture."""

import torch

import tinygrad_ee559 as tg
from tinygrad_ee559 import plots
from tinygrad_ee559.data import DISK, Batches, disk, normalize, one_hot
from tinygrad_ee559.training import evaluate

torch.set_num_threads(1)  # matrices this small gain nothing from more

# 1,000 points to learn from and 1,000 to be examined on, drawn with a seed.
generator = torch.Generator().manual_seed(0)
points, labels = disk(1000, generator)
test_points, test_labels = disk(1000, generator)


# The square's coordinates have mean 1/2 and variance 1/12; a network likes 0 and 1 better.
def inputs_of(points):
    return normalize(points, mean=0.5, std=12**-0.5)


# Two coordinates in; out come two scores: "outside" and "inside".
torch.manual_seed(0)
model = tg.nn.Sequential(
    tg.nn.Linear(2, 25),
    tg.nn.ReLU(),
    tg.nn.Linear(25, 25),
    tg.nn.ReLU(),
    tg.nn.Linear(25, 2),
)
print(model)

loss = tg.nn.MSELoss()
optimizer = tg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
train = Batches(inputs_of(points), one_hot(labels, 2), batch_size=100, generator=generator)
test = Batches(inputs_of(test_points), one_hot(test_labels, 2), batch_size=1000)

# This is all that training is; `tinygrad_ee559.training.fit` does it with a progress bar.
for epoch in range(1, 101):
    for inputs, targets in train:
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()
    if epoch % 20 == 0:
        test_loss, accuracy = evaluate(model, loss, test)
        print(f"epoch {epoch:3}: test loss {test_loss:.4f}, accuracy {accuracy:.1%}")

plots.decision_boundary(
    "disk.png", DISK, lambda points: model(inputs_of(points)), test_points, test_labels
)
print("disk.png shows what it learned")
