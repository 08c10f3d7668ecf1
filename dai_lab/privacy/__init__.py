"""Bounds, noise, what they promise, and audits of the promise."""

from dai_lab.privacy.accounting import FINE, epsilon, noise_for, taken
from dai_lab.privacy.central import adaptive, central, unsound
from dai_lab.privacy.clipping import clip, none, shortened
from dai_lab.privacy.ledger import charged, repeated, same, spent
from dai_lab.privacy.local import local_gaussian, local_laplace, private_unit

__all__ = [
    "FINE",
    "adaptive",
    "central",
    "charged",
    "clip",
    "epsilon",
    "local_gaussian",
    "local_laplace",
    "noise_for",
    "none",
    "private_unit",
    "repeated",
    "same",
    "shortened",
    "spent",
    "taken",
    "unsound",
]
