"""What hostile clients send instead of what they computed, and train on instead of what they hold.

What an attacker knows of the others is in its ``Sight``; ``federation.knows`` says how much.
"""

from dai_lab.attacks.plain import gaussian, none, not_finite, sign_flip, zero
from dai_lab.attacks.schedules import between, partly, sleeper, sometimes
from dai_lab.attacks.statistics import alie, ipm
from dai_lab.attacks.unpoisoned import unpoisoned

__all__ = [
    "alie",
    "between",
    "gaussian",
    "ipm",
    "none",
    "not_finite",
    "partly",
    "sign_flip",
    "sleeper",
    "sometimes",
    "unpoisoned",
    "zero",
]
