"""BlazeFL's own federated averaging, in its three modes: one thread, two threads, two processes.

It asks for a free-threaded Python for its threads; on an ordinary one they share the lock.
"""

from __future__ import annotations

import copy
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch._dynamo  # which optimizers import late, in every forked worker: 4 s a round
from blazefl.contrib import (
    FedAvgBaseClientTrainer,
    FedAvgBaseServerHandler,
    FedAvgProcessPoolClientTrainer,
    FedAvgThreadPoolClientTrainer,
)
from blazefl.core import IPCMode
from setting import RATE, Setting, finished, load, options, played, ready
from torch.utils.data import TensorDataset


@cache
def opened(folder: Path, task: str, loader: bool) -> tuple[Setting, torch.nn.Module]:
    """Open data and network once; forked workers find them open."""
    setting = load(folder, task, loader=loader)
    return setting, setting.network()


class Data:
    """BlazeFL's view of the data; pickles as a path, not as tensors."""

    def __init__(self, *place) -> None:
        self.place = place

    def get_dataset(self, type_, cid):
        """Return one client's examples, without an order or batches."""
        setting = opened(*self.place)[0]
        mine = setting.members(cid)
        return TensorDataset(setting.inputs[mine], setting.targets[mine])

    def set_dataset(self, type_, cid, dataset) -> None:
        """Keep nothing: no augmentation changes the data."""

    def get_dataloader(self, type_, cid, batch_size, generator):
        """Shuffle one client's epoch; the batch size is the setting's."""
        return opened(*self.place)[0].batches(cid, generator)


class Models:
    """BlazeFL's way to make a model: a copy, which is faster than drawing weights anew."""

    def __init__(self, *place) -> None:
        self.place = place

    def select_model(self, model_name):
        """Copy the network everybody starts from."""
        return copy.deepcopy(opened(*self.place)[1])


def trainer(mode: str, setting: Setting, models: Models, data: Data, folder: Path):
    """Make the trainer of a mode."""
    common = {
        "model_selector": models,
        "model_name": setting.name,
        "dataset": data,
        "device": "cpu",
        "num_clients": setting.clients,
        "epochs": 1,
        "batch_size": setting.batch,
        "lr": RATE,
        "seed": 0,
    }
    if mode == "single":
        return FedAvgBaseClientTrainer(**common)
    if mode == "threads":
        return FedAvgThreadPoolClientTrainer(**common, num_parallels=2)
    return FedAvgProcessPoolClientTrainer(
        **common,
        num_parallels=2,
        share_dir=folder / "share",
        state_dir=folder / "state",
        ipc_mode=IPCMode.SHARED_MEMORY,
    )


def main() -> None:
    """Play rounds as BlazeFL's quickstart does."""
    asked = options()
    place = (asked.data, asked.task, asked.loader)
    setting = opened(*place)[0]
    models, data = Models(*place), Data(*place)
    handler = FedAvgBaseServerHandler(
        model_selector=models,
        model_name=setting.name,
        dataset=data,
        global_round=asked.rounds,
        num_clients=setting.clients,
        sample_ratio=setting.cohort / setting.clients,
        device="cpu",
        batch_size=setting.batch,
        seed=0,
    )
    with TemporaryDirectory() as folder:
        clients = trainer(asked.mode, setting, models, data, Path(folder))
        ready()
        while not handler.if_stop():
            before = time.perf_counter()
            sampled = handler.sample_clients()
            clients.local_process(handler.downlink_package(), sampled)
            for package in clients.uplink_package():
                handler.load(package)
            played(time.perf_counter() - before)
    finished(setting, handler.model, "blazefl")


if __name__ == "__main__":
    main()
