"""Read handwritten digits: python examples/mnist.py FOLDER (downloads MNIST there if needed)."""

import sys

import torch
from rich.console import Console

import tinygrad_ee559 as tg
from tinygrad_ee559 import saving
from tinygrad_ee559.data import Batches, mnist, normalize
from tinygrad_ee559.training import fit

folder = sys.argv[1] if len(sys.argv) > 1 else "mnist"


# Images are [n, 28, 28] with values from 0 to 1; the network wants rows, of mean 0 and variance 1.
def inputs_of(images):
    return normalize(images.reshape(-1, 784), mean=0.1307, std=0.3081)


images, labels = mnist(folder)
test_images, test_labels = mnist(folder, train=False)
generator = torch.Generator().manual_seed(0)
train = Batches(inputs_of(images)[:10_000], labels[:10_000], batch_size=100, generator=generator)
test = Batches(inputs_of(test_images), test_labels, batch_size=1000)

torch.manual_seed(0)
model = tg.nn.Sequential(tg.nn.Linear(784, 128), tg.nn.ReLU(), tg.nn.Linear(128, 10))
optimizer = tg.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
scheduler = tg.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=4)

# After every epoch: lower the learning rate, then print what the epoch came to.
fit(
    model,
    tg.nn.CrossEntropyLoss(),
    optimizer,
    train,
    epochs=4,
    test=test,
    callbacks=[lambda _: scheduler.step(), print],
    console=Console(),
)

# A model is its parameters. Save them, and load them into a new model of the same make.
saving.save("digits.safetensors", model)
same = tg.nn.Sequential(tg.nn.Linear(784, 128), tg.nn.ReLU(), tg.nn.Linear(128, 10))
saving.load("digits.safetensors", same)
answers = same(inputs_of(test_images[:5])).argmax(1)
print("the first five test digits:", test_labels[:5].tolist(), "read as", answers.tolist())
