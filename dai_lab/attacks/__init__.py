"""What hostile clients send instead of what they computed, and train on instead of what they hold.

What an attacker knows of the others is in its ``Sight``; ``federation.knows`` says how much.
A poison's knobs are on the command line as ``poison.<knob>``.
"""

from dai_lab.attacks.adaptive_trigger import a3fl
from dai_lab.attacks.clean_labels import feature_collision, gradient_alignment
from dai_lab.attacks.groups import feature_poisoning, group_flip, under_sampling
from dai_lab.attacks.labels import edge_case, label_flip, targeted_flip
from dai_lab.attacks.plain import gaussian, none, not_finite, sign_flip, zero
from dai_lab.attacks.schedules import between, partly, sleeper, sometimes
from dai_lab.attacks.statistics import alie, ipm
from dai_lab.attacks.triggers import badnets, blended, dba, sig
from dai_lab.attacks.unpoisoned import unpoisoned

__all__ = [
    "a3fl",
    "alie",
    "badnets",
    "between",
    "blended",
    "dba",
    "edge_case",
    "feature_collision",
    "feature_poisoning",
    "gaussian",
    "gradient_alignment",
    "group_flip",
    "ipm",
    "label_flip",
    "none",
    "not_finite",
    "partly",
    "sig",
    "sign_flip",
    "sleeper",
    "sometimes",
    "targeted_flip",
    "under_sampling",
    "unpoisoned",
    "zero",
]
