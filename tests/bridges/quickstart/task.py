"""What a Flower quickstart calls its task: a network, data, a local epoch."""

import torch
from torch import nn
from torch.nn import functional

CLASSES = 4


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = (nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
        return nn.Sequential(*hidden, nn.Linear(16, CLASSES))


def examples(part, count=200):
    stream = torch.Generator().manual_seed(part)
    centers = 3 * torch.randn(CLASSES, 8, generator=torch.Generator().manual_seed(99))
    targets = torch.randint(CLASSES, (count,), generator=stream)
    return centers[targets] + torch.randn(count, 8, generator=stream), targets


def train(net, inputs, targets):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.train()
    for some in torch.arange(len(inputs)).split(20):
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(inputs[some]), targets[some])
        loss.backward()
        optimizer.step()
    return loss.item()


def accuracy(net, inputs, targets):
    net.eval()
    with torch.no_grad():
        return float((net(inputs).argmax(1) == targets).float().mean())
