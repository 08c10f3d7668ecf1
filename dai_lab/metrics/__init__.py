"""How well it went: accuracy, its spread over clients, and statistics with intervals."""

from dai_lab.metrics.plane import Plane, plane, rows
from dai_lab.metrics.statistics import (
    Estimate,
    band,
    difference,
    estimate,
    iqm,
    mean_ranks,
    stratified,
)
from dai_lab.metrics.utility import (
    accuracy,
    correct,
    cost_to,
    final,
    mean_loss,
    peak,
    per_client,
    rounds_to,
    seconds_to,
    spread,
)
from dai_lab.metrics.worst import worst

__all__ = [
    "Estimate",
    "Plane",
    "accuracy",
    "band",
    "correct",
    "cost_to",
    "difference",
    "estimate",
    "final",
    "iqm",
    "mean_loss",
    "mean_ranks",
    "peak",
    "per_client",
    "plane",
    "rounds_to",
    "rows",
    "seconds_to",
    "spread",
    "stratified",
    "worst",
]
