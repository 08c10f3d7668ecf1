"""What clients do locally, who is asked, and what the server does with the answer."""

from dai_lab.learning.adaptive import adagrad, adam
from dai_lab.learning.algorithms import (
    best_cluster,
    body,
    ditto,
    feddyn,
    feddyn_server,
    fednova,
    fednova_server,
    fedper,
    fedrep,
    ifca,
    ifca_server,
    own_head,
    pfedme,
    scaffold,
    scaffold_server,
)
from dai_lab.learning.batches import epochs_of, one_batch
from dai_lab.learning.distributed import distributed_sgd
from dai_lab.learning.local import sgd
from dai_lab.learning.methods import choose, predict
from dai_lab.learning.personal import common, fine_tuned, remembered
from dai_lab.learning.private import dp_sgd
from dai_lab.learning.schedules import constant, cosine, exponential, step
from dai_lab.learning.servers import fedadagrad, fedadam, fedavg, fedavgm, fedyogi

__all__ = [
    "adagrad",
    "adam",
    "best_cluster",
    "body",
    "choose",
    "common",
    "constant",
    "cosine",
    "distributed_sgd",
    "ditto",
    "dp_sgd",
    "epochs_of",
    "exponential",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "feddyn",
    "feddyn_server",
    "fednova",
    "fednova_server",
    "fedper",
    "fedrep",
    "fedyogi",
    "fine_tuned",
    "ifca",
    "ifca_server",
    "one_batch",
    "own_head",
    "pfedme",
    "predict",
    "remembered",
    "scaffold",
    "scaffold_server",
    "sgd",
    "step",
]
