"""pfl-research's simulated backend, in one process or sharded over two by torch.distributed.

The second process is started as its guide on distributed simulation says: the same script with the
same addresses and another rank.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import numpy as np


def spread(workers: int) -> list[subprocess.Popen]:
    """Start the other ranks of this script, unless this is one of them."""
    if workers == 1 or "PFL_WORKER_RANK" in os.environ:
        return []
    with socket.socket() as some:
        some.bind(("localhost", 0))
        port = some.getsockname()[1]
    places = ",".join(f"localhost:{port + rank}" for rank in range(workers))
    os.environ.update(PFL_WORKER_ADDRESSES=places, PFL_WORKER_RANK="0")
    return [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env={**os.environ, "PFL_WORKER_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
        )
        for rank in range(1, workers)
    ]


def main() -> None:
    """Play rounds of pfl's federated averaging."""
    from setting import RATE, finished, load, options, played, ready

    asked = options()
    others = spread(int(asked.mode))

    # Its modules join the process group as they are imported.
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.internal.ops import pytorch_ops
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    np.random.seed(0)
    setting = load(asked.data, asked.task)
    network = setting.network()
    network.loss = lambda inputs, targets: torch.nn.functional.cross_entropy(
        network(inputs), targets
    )
    network.metrics = lambda inputs, targets: {}
    first = pytorch_ops.distributed.global_rank == 0

    class Timed(TrainingProcessCallback):
        """Lets all ranks begin a round together, and rank 0 report it."""

        def on_train_begin(self, *, model):
            if first:
                ready()
            self.begin()
            return Metrics()

        def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
            if first:
                played(time.perf_counter() - self.before)
            self.begin()
            return False, Metrics()

        def begin(self) -> None:
            pytorch_ops.distributed.all_reduce([torch.zeros(1)])
            self.before = time.perf_counter()

    held = {}
    for client in range(setting.clients):
        mine = setting.members(client)
        held[client] = [setting.inputs[mine], setting.targets[mine]]
    users = FederatedDataset.from_slices(
        held, get_user_sampler("minimize_reuse", list(range(setting.clients)))
    )
    model = PyTorchModel(
        network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        backend=SimulatedBackend(training_data=users, val_data=users),
        model=model,
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=asked.rounds,
            evaluation_frequency=10**9,
            train_cohort_size=setting.cohort,
            val_cohort_size=0,
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=RATE, local_batch_size=setting.batch
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=setting.batch),
        callbacks=[Timed()],
        send_metrics_to_platform=False,
    )
    if first:
        finished(setting, network, "pfl")
    for other in others:
        other.wait()


if __name__ == "__main__":
    main()
