"""What every engine is given, in every environment: data, network, plain training, protocol.

Nothing here needs more than torch and numpy, so that each peer's environment can import it. Data
are memory-mapped: engines with several processes share the pages, as a careful user arranges.

The protocol: an engine calls ``ready`` when everything is set up, plays a round each time ``ready``
or ``played`` returns, reports it with ``played``, and ends with ``finished``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

RATE = 0.05
MARK = "@@ "
"""How a line of the protocol begins; peers print lines of their own."""


@dataclass(frozen=True)
class Setting:
    """One task as all engines see it."""

    name: str
    clients: int
    held: int
    cohort: int
    batch: int
    inputs: Tensor
    targets: Tensor
    order: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    start: Tensor
    loader: bool
    """Whether batches come from a DataLoader, as in tutorials, instead of from indexing."""

    def members(self, client: int) -> Tensor:
        """Return which examples a client holds."""
        return self.order[client * self.held : (client + 1) * self.held]

    def batches(self, client: int, generator: torch.Generator) -> Batches | DataLoader:
        """Shuffle a client's examples into an epoch of batches."""
        if self.loader:
            data = Subset(TensorDataset(self.inputs, self.targets), self.members(client).tolist())
            return DataLoader(data, self.batch, shuffle=True, generator=generator)
        return Batches(self, self.members(client), generator)

    def network(self) -> nn.Sequential:
        """Build the task's network with the weights everybody starts from."""
        network = build(self.name)
        nn.utils.vector_to_parameters(self.start.clone(), network.parameters())
        return network


class Batches(Dataset):
    """An epoch of one client by plain indexing: the fastest a user's own code would be."""

    def __init__(self, setting: Setting, members: Tensor, generator: torch.Generator) -> None:
        self.setting, self.members, self.generator = setting, members, generator
        self.dataset = None  # what some trainers ask a DataLoader for

    def __len__(self) -> int:
        return -(-len(self.members) // self.setting.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        shuffled = self.members[torch.randperm(len(self.members), generator=self.generator)]
        for some in shuffled.split(self.setting.batch):
            yield self.setting.inputs[some], self.setting.targets[some]


def build(task: str) -> nn.Sequential:
    """Build the network of a task; ``dai_lab.models`` builds the same ones."""
    if task == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )
    hidden = {"mlp": 200, "tiny": 32}[task]
    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def load(folder: Path, task: str, *, loader: bool = False) -> Setting:
    """Open what ``data.write`` wrote."""

    def array(name: str) -> Tensor:
        return torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c"))

    sizes = json.loads((folder / "tasks.json").read_text())[task]
    names = ("inputs", "targets", "order", "test_inputs", "test_targets")
    arrays = {name: array(name) for name in names}
    return Setting(task, **sizes, **arrays, start=array(f"start_{task}"), loader=loader)


def train(network: nn.Module, batches: Batches | DataLoader) -> None:
    """Take an epoch of plain SGD: the client's side as a user of any engine writes it."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    for inputs, targets in batches:
        optimizer.zero_grad()
        functional.cross_entropy(network(inputs), targets).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(setting: Setting, network: nn.Module) -> float:
    """Return the share of unseen digits a network recognizes."""
    network.eval()
    found = network(setting.test_inputs).argmax(1)
    return float((found == setting.test_targets).float().mean())


def options() -> argparse.Namespace:
    """Read what ``run.py`` asks of an engine, and keep torch to one thread."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--mode", default="1", help="workers, or the name of a peer's mode")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--loader", action="store_true")
    torch.set_num_threads(1)
    return parser.parse_args()


def ready() -> None:
    """Say that everything is set up, and wait for the word to play a round."""
    _say(ready=True)
    _wait()


def played(seconds: float) -> None:
    """Report how long a round took, and wait for the word to play the next."""
    _say(seconds=seconds)
    _wait()


def finished(setting: Setting, network: nn.Module, *packages: str) -> None:
    """Report the accuracy reached, and what reached it."""
    found = {name: version(name) for name in ("torch", *packages)}
    found["python"] = sys.version.split()[0]
    _say(accuracy=accuracy(setting, network), versions=found)


def _say(**words: object) -> None:
    print(MARK + json.dumps(words), flush=True)


def _wait() -> None:
    if not sys.stdin.readline():
        os._exit(1)  # nobody asks any more, and an engine's threads may not heed an exception
