"""What hostile clients send instead of what they computed, and train on instead of what they hold.

What an attacker knows of the others is in its ``Sight``; ``federation.knows`` says how much.
A poison's knobs are on the command line as ``poison.<knob>``.
"""

from dai_lab.attacks.adaptive import adaptive
from dai_lab.attacks.adaptive_trigger import a3fl
from dai_lab.attacks.amplified import eab_fl
from dai_lab.attacks.boosted import alternating, model_replacement, neurotoxin, projected
from dai_lab.attacks.clean_labels import feature_collision, gradient_alignment
from dai_lab.attacks.groups import feature_poisoning, group_flip, under_sampling
from dai_lab.attacks.labels import edge_case, label_flip, targeted_flip
from dai_lab.attacks.order import fang_trimmed_mean, mimic
from dai_lab.attacks.plain import gaussian, none, not_finite, sign_flip, zero
from dai_lab.attacks.riders import free_rider
from dai_lab.attacks.schedules import between, partly, sleeper, sometimes
from dai_lab.attacks.searches import agr_tailored, fang_krum, opt_alie, opt_ipm
from dai_lab.attacks.spread import min_max, min_sum
from dai_lab.attacks.statistics import alie, ipm
from dai_lab.attacks.triggers import badnets, blended, dba, sig
from dai_lab.attacks.unfair import anchoring, gap
from dai_lab.attacks.unpoisoned import unpoisoned

__all__ = [
    "a3fl",
    "adaptive",
    "agr_tailored",
    "alie",
    "alternating",
    "anchoring",
    "badnets",
    "between",
    "blended",
    "dba",
    "eab_fl",
    "edge_case",
    "fang_krum",
    "fang_trimmed_mean",
    "feature_collision",
    "feature_poisoning",
    "free_rider",
    "gap",
    "gaussian",
    "gradient_alignment",
    "group_flip",
    "ipm",
    "label_flip",
    "mimic",
    "min_max",
    "min_sum",
    "model_replacement",
    "neurotoxin",
    "none",
    "not_finite",
    "opt_alie",
    "opt_ipm",
    "partly",
    "projected",
    "sig",
    "sign_flip",
    "sleeper",
    "sometimes",
    "targeted_flip",
    "under_sampling",
    "unpoisoned",
    "zero",
]
