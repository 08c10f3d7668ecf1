"""Flower's simulation runtime on Ray: one actor or two, data and network kept in the actor.

Its node ids are random, so which clients a round asks cannot be fixed.
"""

from __future__ import annotations

import logging
import time

from flower_client import app as client
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from setting import finished, load, options, played, ready


def main() -> None:
    """Play rounds of Flower's federated averaging."""
    asked = options()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    setting = load(asked.data, asked.task)
    network = setting.network()
    server, workers = ServerApp(), int(asked.mode)
    before = 0.0

    def between(number: int, arrays: ArrayRecord) -> None:
        """Flower calls this before the first round and after every one."""
        nonlocal before
        if number:
            played(time.perf_counter() - before)
        else:
            ready()
        before = time.perf_counter()

    @server.main()
    def play(grid, context) -> None:
        strategy = FedAvg(
            fraction_train=setting.cohort / setting.clients,
            fraction_evaluate=0.0,
            min_train_nodes=setting.cohort,
            min_available_nodes=setting.clients,
        )
        told = {"folder": str(asked.data), "task": asked.task, "loader": asked.loader}
        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(network.state_dict()),
            train_config=ConfigRecord(told),
            num_rounds=asked.rounds,
            evaluate_fn=between,
        )
        network.load_state_dict(result.arrays.to_torch_state_dict())

    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=setting.clients,
        backend_config={
            "init_args": {"num_cpus": workers, "object_store_memory": 256 * 2**20},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    finished(setting, network, "flwr", "ray")


if __name__ == "__main__":
    main()
