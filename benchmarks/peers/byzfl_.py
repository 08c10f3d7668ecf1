"""ByzFL's own training loop on a cell of our grid: its clients, server, attacks and rules.

The loop is that of ``byzfl.benchmark.train`` (distributed SGD) without its files. ByzFL knows
no network of this size and no split but its own, so the network is added to its models by name,
and every client's loader holds what our partition dealt it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

ATTACKS = {
    "alie": ("ALittleIsEnough", {"tau": 1.5}),
    "opt_alie": ("Optimal_ALittleIsEnough", {}),
    "opt_ipm": ("Optimal_InnerProductManipulation", {}),
    "sign_flip": ("SignFlipping", {}),
    "ipm": ("InnerProductManipulation", {"tau": 0.1}),
    "mimic": ("Mimic", {}),
    "label_flip": ("LabelFlipping", {}),
}
"""Attacks of the grid as ByzFL calls them; Min-Max it has not."""

ELSEWHERE = ("mimic", "label_flip")
"""Attacks that are others in ByzFL: it copies a client of a fixed number, and flips the labels of
honest clients. They cost what they cost, but accuracies need not be the same."""


def rules(aggregator: str, f: int, *, rate: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a rule and what comes before it in ByzFL's words; lengths are those of gradients."""
    before, _, name = aggregator.rpartition("+")
    known = {
        "mean": ("Average", {}),
        "median": ("Median", {}),
        "trimmed_mean": ("TrMean", {"f": f}),
        "krum": ("Krum", {"f": f}),
        "multi_krum": ("MultiKrum", {"f": f}),
        "geometric_median": ("GeometricMedian", {"nu": 0.01 / rate, "T": 3}),
        "centered_clipping": ("CenteredClipping", {"L": 3, "tau": 1.0 / rate}),
    }
    first = {"": [], "nnm": [("NNM", {"f": f})], "bucketing": [("Bucketing", {"s": 2})]}[before]
    kind, knobs = known[name]
    return (
        {"name": kind, "parameters": knobs},
        [{"name": one, "parameters": said} for one, said in first],
    )


def network(sizes: Sequence[int], initial: Mapping[str, Any]) -> str:
    """Add a network of linear layers to ByzFL's models, which it can only choose by name."""
    from byzfl.fed_framework import models
    from torch import nn

    class Mlp(nn.Sequential):
        def __init__(self) -> None:
            layers: list[nn.Module] = [nn.Flatten()]
            for before, after in pairwise(sizes):
                layers += [nn.Linear(before, after), nn.ReLU()]
            super().__init__(*layers[:-1])
            for mine, given in zip(self.parameters(), initial.values(), strict=True):
                mine.data.copy_(given)

    models.dai_lab_mlp = Mlp
    return "dai_lab_mlp"


def train(
    shards: Sequence[tuple[Any, Any]],
    test: tuple[Any, Any],
    *,
    model: str,
    attack: str,
    aggregator: str,
    f: int,
    steps: int,
    every: int,
    rate: float,
    momentum: float,
    batch: int,
    seed: int,
) -> tuple[list[float], float]:
    """Train as ByzFL does; return accuracies after every ``every`` steps, and seconds.

    Args:
        shards: Inputs and targets of each honest client.
        test: Inputs and targets of the test set.
        model: Name among ByzFL's models.
        attack: One of ``ATTACKS``.
        aggregator: A rule, perhaps after ``nnm+`` or ``bucketing+``.
        f: How many lie.
        steps: Steps of distributed SGD.
        every: Steps between evaluations.
        rate: Learning rate.
        momentum: Of each client.
        batch: Examples a step and client.
        seed: Of torch's generator, from which loaders draw.
    """
    import numpy as np
    import torch
    from byzfl import ByzantineClient, Client, Server
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(seed)
    np.random.seed(seed)
    began = time.perf_counter()
    rule, before = rules(aggregator, f, rate=rate)
    flips = attack == "label_flip"
    honest = [
        Client(
            {
                "model_name": model,
                "device": "cpu",
                "loss_name": "CrossEntropyLoss",
                "LabelFlipping": flips,
                "nb_labels": 10,
                "momentum": momentum,
                "training_dataloader": DataLoader(
                    TensorDataset(*one), batch_size=batch, shuffle=True
                ),
                "store_per_client_metrics": False,
            }
        )
        for one in shards
    ]
    server = Server(
        {
            "model_name": model,
            "device": "cpu",
            "test_loader": DataLoader(TensorDataset(*test), batch_size=500),
            "optimizer_name": "SGD",
            "learning_rate": rate,
            "weight_decay": 0.0,
            "milestones": [],
            "learning_rate_decay": 1.0,
            "aggregator_info": rule,
            "pre_agg_list": before,
        }
    )
    name, knobs = ATTACKS[attack]
    knows = {"aggregator_info": rule, "pre_agg_list": before, "f": f}
    liars = ByzantineClient({"name": name, "f": f, "parameters": {**knobs, **knows}})
    accuracies = []
    _send(server, honest)
    for step in range(1, steps + 1):
        for client in honest:
            client.compute_gradients()
        sent = [client.get_flat_gradients_with_momentum() for client in honest]
        shown = [client.get_flat_flipped_gradients() for client in honest] if flips else sent
        server.update_model_with_gradients(sent + liars.apply_attack(shown))
        _send(server, honest)
        if step % every == 0:
            with torch.no_grad():
                accuracies.append(server.compute_test_accuracy())
    return accuracies, time.perf_counter() - began


def _send(server: Any, honest: Sequence[Any]) -> None:
    state = server.get_dict_parameters()
    for client in honest:
        client.set_model_state(state)
