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
from dai_lab.aggregators.lengths import cge, monna
from dai_lab.aggregators.mixing import arc, bucketing, clipping, nnm
from dai_lab.aggregators.selection import bulyan, krum, multi_krum

__all__ = [
    "arc",
    "bucketing",
    "bulyan",
    "cge",
    "clipping",
    "krum",
    "majority_vote",
    "meamed",
    "mean",
    "median",
    "monna",
    "multi_krum",
    "nnm",
    "phocas",
    "rlr",
    "trimmed_mean",
]
