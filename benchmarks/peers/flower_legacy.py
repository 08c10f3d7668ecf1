"""Flower's older ``start_simulation``: deprecated since 1.13, still shipped, and faster.

It waits for Ray's results; the simulation runtime that replaced it asks for news every 0.1 s.
"""

from __future__ import annotations

import logging
import time

import torch
from flower_client import legacy
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import start_simulation
from setting import finished, load, options, played, ready


def main() -> None:
    """Play rounds of Flower's federated averaging."""
    asked = options()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    setting = load(asked.data, asked.task)
    network = setting.network()
    before = 0.0

    def between(number, parameters, config):
        """Flower calls this before the first round and after every one."""
        nonlocal before
        took = time.perf_counter() - before
        if number == asked.rounds:
            with torch.no_grad():
                for here, there in zip(network.parameters(), parameters, strict=True):
                    here.copy_(torch.from_numpy(there))
        if number:
            played(took)
        else:
            ready()
        before = time.perf_counter()

    told = {"folder": str(asked.data), "task": asked.task, "loader": asked.loader}
    start_simulation(
        client_fn=legacy,
        num_clients=setting.clients,
        config=ServerConfig(num_rounds=asked.rounds),
        client_resources={"num_cpus": 1, "num_gpus": 0.0},
        ray_init_args={
            "num_cpus": int(asked.mode),
            "object_store_memory": 256 * 2**20,
            "include_dashboard": False,
        },
        strategy=FedAvg(
            fraction_fit=setting.cohort / setting.clients,
            fraction_evaluate=0.0,
            min_fit_clients=setting.cohort,
            min_available_clients=setting.clients,
            initial_parameters=ndarrays_to_parameters(
                [each.detach().numpy() for each in network.parameters()]
            ),
            on_fit_config_fn=lambda number: {**told, "round": number},
            evaluate_fn=between,
        ),
    )
    finished(setting, network, "flwr", "ray")


if __name__ == "__main__":
    main()
