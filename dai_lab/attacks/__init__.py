"""What hostile clients send instead of what they computed, and train on instead of what they hold.

What an attacker knows of the others is in its ``Sight``; ``federation.knows`` says how much.
"""

from dai_lab.attacks.adaptive import adaptive
from dai_lab.attacks.boosted import alternating, model_replacement, neurotoxin, projected
from dai_lab.attacks.order import fang_trimmed_mean, mimic
from dai_lab.attacks.plain import gaussian, none, not_finite, sign_flip, zero
from dai_lab.attacks.riders import free_rider
from dai_lab.attacks.schedules import between, partly, sleeper, sometimes
from dai_lab.attacks.searches import agr_tailored, fang_krum, opt_alie, opt_ipm
from dai_lab.attacks.spread import min_max, min_sum
from dai_lab.attacks.statistics import alie, ipm
from dai_lab.attacks.unpoisoned import unpoisoned

__all__ = [
    "adaptive",
    "agr_tailored",
    "alie",
    "alternating",
    "between",
    "fang_krum",
    "fang_trimmed_mean",
    "free_rider",
    "gaussian",
    "ipm",
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
    "sign_flip",
    "sleeper",
    "sometimes",
    "unpoisoned",
    "zero",
]
