"""Federated algorithms beyond averaging, one paper a file: what clients do, and the server."""

from dai_lab.learning.algorithms.ditto import ditto
from dai_lab.learning.algorithms.feddyn import feddyn, feddyn_server
from dai_lab.learning.algorithms.fednova import fednova, fednova_server
from dai_lab.learning.algorithms.heads import body, fedper, fedrep, own_head
from dai_lab.learning.algorithms.ifca import best_cluster, ifca, ifca_server
from dai_lab.learning.algorithms.pfedme import pfedme
from dai_lab.learning.algorithms.scaffold import scaffold, scaffold_server

__all__ = [
    "best_cluster",
    "body",
    "ditto",
    "feddyn",
    "feddyn_server",
    "fednova",
    "fednova_server",
    "fedper",
    "fedrep",
    "ifca",
    "ifca_server",
    "own_head",
    "pfedme",
    "scaffold",
    "scaffold_server",
]
