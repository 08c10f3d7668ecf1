"""From the rows the server may see to one update, and a verdict on every row."""

from dai_lab.aggregators.centers import centered_clipping, geometric_median
from dai_lab.aggregators.certified import certified_radius, crfl, lipschitz, vote, vote_bounds
from dai_lab.aggregators.clusters import flame, freqfed
from dai_lab.aggregators.coordinates import (
    majority_vote,
    meamed,
    mean,
    median,
    phocas,
    rlr,
    trimmed_mean,
)
from dai_lab.aggregators.deepsight import deepsight
from dai_lab.aggregators.features import auror, signguard
from dai_lab.aggregators.history import foolsgold, safeguard
from dai_lab.aggregators.layers import lasa
from dai_lab.aggregators.lengths import cge, monna
from dai_lab.aggregators.mixing import arc, bucketing, clipping, nnm, noisy
from dai_lab.aggregators.prediction import fldetector
from dai_lab.aggregators.selection import bulyan, krum, multi_krum
from dai_lab.aggregators.spectra import caf, dnc
from dai_lab.aggregators.subsets import mda, mva, smea
from dai_lab.aggregators.trust import fltrust
from dai_lab.aggregators.validation import fang_err, fang_lfr, fang_union, zeno

__all__ = [
    "arc",
    "auror",
    "bucketing",
    "bulyan",
    "caf",
    "centered_clipping",
    "certified_radius",
    "cge",
    "clipping",
    "crfl",
    "deepsight",
    "dnc",
    "fang_err",
    "fang_lfr",
    "fang_union",
    "flame",
    "fldetector",
    "fltrust",
    "foolsgold",
    "freqfed",
    "geometric_median",
    "krum",
    "lasa",
    "lipschitz",
    "majority_vote",
    "mda",
    "meamed",
    "mean",
    "median",
    "monna",
    "multi_krum",
    "mva",
    "nnm",
    "noisy",
    "phocas",
    "rlr",
    "safeguard",
    "signguard",
    "smea",
    "trimmed_mean",
    "vote",
    "vote_bounds",
    "zeno",
]
