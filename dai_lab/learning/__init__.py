"""What clients do locally, who is asked, and what the server does with the answer."""

from dai_lab.learning.batches import epochs_of, one_batch
from dai_lab.learning.distributed import distributed_sgd
from dai_lab.learning.local import sgd
from dai_lab.learning.methods import choose, predict
from dai_lab.learning.personal import common
from dai_lab.learning.schedules import constant, cosine, exponential, step
from dai_lab.learning.servers import fedadagrad, fedadam, fedavg, fedavgm, fedyogi

__all__ = [
    "choose",
    "common",
    "constant",
    "cosine",
    "distributed_sgd",
    "epochs_of",
    "exponential",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedyogi",
    "one_batch",
    "predict",
    "sgd",
    "step",
]
