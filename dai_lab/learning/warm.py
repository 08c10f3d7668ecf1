"""Compile once, when the lab is set up, so that nobody's first round waits for it."""

import torch
from torch import nn

from dai_lab.core import Compute, Examples, Key, Model, Shards, State, Task, cross_entropy
from dai_lab.learning.local import sgd


def warm() -> None:
    """Train three networks of a few weights for a step, by every compiled path."""
    data = Examples(torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 0, 1]))
    dense = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    pooled = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(), nn.MaxPool2d(2), dense[0], nn.Linear(8, 2)
    )
    wide = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), dense[0], nn.Linear(64, 2)
    )
    for network in (dense, pooled, wide):
        weights = dict(network.named_parameters())
        start = torch.cat([weight.detach().flatten() for weight in weights.values()])
        shapes = tuple(weight.shape for weight in weights.values())
        model = Model(network, cross_entropy, tuple(weights), shapes, start)
        task = Task(model, data, Shards.of([torch.arange(4)]))
        sgd(task, State(start), start, [0], key=Key(0), round=1, compute=Compute())


if __name__ == "__main__":
    warm()
