"""What attacks refuse to work with, and what all of them look at."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dai_lab.core import Outcome, Rows, Sight, TooFew, Vector


def above_zero(knob: str, value: float, *, of: str = "attack") -> None:
    """Refuse a knob that must be above 0."""
    if not value > 0:
        raise ValueError(f"{of}.{knob} must be above 0, got {value}")


def in_unit(knob: str, value: float, *, of: str = "attack") -> None:
    """Refuse a share or a probability that is none."""
    if not 0 <= value <= 1:
        raise ValueError(f"{of}.{knob} must be in [0, 1], got {value}")


def at_least(least: int, sight: Sight, name: str) -> None:
    """Refuse to estimate from too few rows."""
    if len(sight.honest) < least:
        raise TooFew(
            f"attack={name} needs to know at least {least} rows a round and knows "
            f"{len(sight.honest)}: raise federation.knows or the cohort"
        )


def a_defense(sight: Sight, name: str) -> Callable[[Rows], Outcome]:
    """Refuse to search without the defense to search against."""
    if sight.defense is None:
        raise ValueError(
            f"attack={name} tries its rows on the defense: set federation.knows=defense"
        )
    return sight.defense


def center(honest: Rows) -> tuple[Vector, Vector]:
    """Return the mean of some rows and the standard deviation of each coordinate.

    Two passes over rows that lie in memory one after another; torch's own walks down columns and
    takes ten times as long.
    """
    mean = honest.mean(dim=0)
    squares = torch.zeros_like(mean)
    for row in honest:
        apart = row - mean
        squares.addcmul_(apart, apart)
    return mean, squares.div_(max(len(honest) - 1, 1)).sqrt_()
