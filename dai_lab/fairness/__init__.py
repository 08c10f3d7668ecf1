"""Whom a model serves worse, over groups of people, clients and rewards; decisions that mend it."""

from dai_lab.fairness.calibration import Calibration, calibration
from dai_lab.fairness.clients import collaboration_gain, over_clients, reward_correlation
from dai_lab.fairness.decisions import highest, thresholds
from dai_lab.fairness.groups import cells, group_fairness
from dai_lab.fairness.intervals import by_group, gaps

__all__ = [
    "Calibration",
    "by_group",
    "calibration",
    "cells",
    "collaboration_gain",
    "gaps",
    "group_fairness",
    "highest",
    "over_clients",
    "reward_correlation",
    "thresholds",
]
