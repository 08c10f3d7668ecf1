"""From the rows the server may see to one update, and a verdict on every row."""

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

__all__ = [
    "krum",
    "majority_vote",
    "meamed",
    "mean",
    "median",
    "phocas",
    "rlr",
    "trimmed_mean",
]
