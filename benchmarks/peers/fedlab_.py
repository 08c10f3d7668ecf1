"""FedLab's standalone pipeline: its serial trainer in one process, the only simulation it has."""

from __future__ import annotations

import logging
import time

import torch
from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from fedlab.contrib.dataset.basic_dataset import FedDataset
from fedlab.core.standalone import StandalonePipeline
from setting import RATE, Setting, finished, load, options, played, ready


class Data(FedDataset):
    """FedLab's view of the data."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.draw = torch.Generator().manual_seed(0)

    def get_dataloader(self, id, batch_size):
        """Shuffle one client's epoch; the batch size is the setting's."""
        return self.setting.batches(id, self.draw)


class Timed(StandalonePipeline):
    """The pipeline, which calls ``evaluate`` after every round."""

    def main(self) -> None:
        """Play all rounds."""
        ready()
        self.before = time.perf_counter()
        super().main()

    def evaluate(self) -> None:
        """Report the round."""
        played(time.perf_counter() - self.before)
        self.before = time.perf_counter()


def main() -> None:
    """Play rounds of FedLab's federated averaging."""
    asked = options()
    logging.getLogger().setLevel(logging.WARNING)
    setting = load(asked.data, asked.task, loader=asked.loader)
    network = setting.network()
    handler = SyncServerHandler(network, asked.rounds, setting.cohort / setting.clients)
    trainer = SGDSerialClientTrainer(setting.network(), setting.clients)
    logging.getLogger().setLevel(logging.WARNING)
    trainer.setup_dataset(Data(setting))
    trainer.setup_optim(1, setting.batch, RATE)
    Timed(handler, trainer).main()
    finished(setting, handler.model, "fedlab")


if __name__ == "__main__":
    main()
