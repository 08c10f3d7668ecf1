"""Training that minds groups of people and clients that fare worse, one paper a file."""

from dai_lab.learning.fairness.afl import afl, afl_server
from dai_lab.learning.fairness.fairfed import fairfed
from dai_lab.learning.fairness.fedfb import fedfb, fedfb_server
from dai_lab.learning.fairness.gifair import gifair
from dai_lab.learning.fairness.minimax import fedminmax, fedminmax_server, group_dro_server
from dai_lab.learning.fairness.q_ffl import q_ffl
from dai_lab.learning.fairness.reweighing import reweighing
from dai_lab.learning.fairness.survey import shared_out, surveyed

__all__ = [
    "afl",
    "afl_server",
    "fairfed",
    "fedfb",
    "fedfb_server",
    "fedminmax",
    "fedminmax_server",
    "gifair",
    "group_dro_server",
    "q_ffl",
    "reweighing",
    "shared_out",
    "surveyed",
]
