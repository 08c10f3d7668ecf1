"""The server of a Flower quickstart, whose strategy is ours; run as a script, it simulates."""

import json
import sys
from functools import partial
from pathlib import Path

from client_app import app as client
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from task import network

from dai_lab.aggregators import multi_krum
from dai_lab.bridges.flower import RobustStrategy

app = ServerApp()


@app.main()
def main(grid, context):
    folder = Path(sys.argv[1])
    strategy = RobustStrategy(partial(multi_krum, f=2), min_available_nodes=10)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(network().state_dict()),
        train_config=ConfigRecord({"folder": str(folder)}),
        num_rounds=2,
    )
    seen = {
        "train": {n: dict(one) for n, one in result.train_metrics_clientapp.items()},
        "evaluate": {n: dict(one) for n, one in result.evaluate_metrics_clientapp.items()},
        "tracked": int(result.arrays.to_torch_state_dict()["1.num_batches_tracked"]),
        "arrays": list(result.arrays),
    }
    (folder / "result.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    run_simulation(
        server_app=app,
        client_app=client,
        num_supernodes=10,
        backend_config={
            "init_args": {
                "num_cpus": 1,
                "object_store_memory": 128 * 2**20,
                "include_dashboard": False,
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
