"""The yardstick: one model, one optimizer, one client after another, on one thread."""

from __future__ import annotations

import time

import torch
from setting import Setting, finished, load, options, played, ready, train


def main() -> None:
    """Play blocks of rounds, all alike, for as long as somebody asks for them."""
    asked = options()
    setting = load(asked.data, asked.task, loader=asked.loader)
    while True:
        block(setting, asked.rounds)


def block(setting: Setting, rounds: int) -> None:
    """Play rounds of federated averaging in plain PyTorch, from the start."""
    network = setting.network()
    shared = {name: each.clone() for name, each in network.state_dict().items()}
    draw = torch.Generator().manual_seed(0)
    ready()
    for _ in range(rounds):
        before = time.perf_counter()
        total = {name: torch.zeros_like(each) for name, each in shared.items()}
        for client in torch.randperm(setting.clients, generator=draw)[: setting.cohort].tolist():
            network.load_state_dict(shared)
            train(network, setting.batches(client, draw))
            for name, each in network.state_dict().items():
                total[name] += each
        shared = {name: each / setting.cohort for name, each in total.items()}
        played(time.perf_counter() - before)
    network.load_state_dict(shared)
    finished(setting, network)


if __name__ == "__main__":
    main()
