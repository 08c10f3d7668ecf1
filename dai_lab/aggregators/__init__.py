"""From the rows the server may see to one update, and a verdict on every row."""

from dai_lab.aggregators.centers import centered_clipping, geometric_median
from dai_lab.aggregators.coordinates import (
    majority_vote,
    meamed,
    mean,
    median,
    phocas,
    rlr,
    trimmed_mean,
)
from dai_lab.aggregators.selection import krum
from dai_lab.aggregators.spectra import caf, dnc
from dai_lab.aggregators.subsets import mda, mva, smea

__all__ = [
    "caf",
    "centered_clipping",
    "dnc",
    "geometric_median",
    "krum",
    "majority_vote",
    "mda",
    "meamed",
    "mean",
    "median",
    "mva",
    "phocas",
    "rlr",
    "smea",
    "trimmed_mean",
]
