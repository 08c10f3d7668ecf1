"""Whether a score means the same in every group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """How far scores are from what happened, for each group in order.

    ``None`` stands for a group without examples or with a score that is NaN, and for the spread
    of fewer than two groups.
    """

    error: tuple[float | None, ...]
    """Expected calibration error, in 0..1."""
    offset: tuple[float | None, ...]
    """Mean score less base rate (calibration in the large): above 0 the group is overrated."""
    error_spread: float | None
    """Highest error of a group less the lowest."""
    offset_spread: float | None
    """Highest offset of a group less the lowest."""


def calibration(
    scores: Float[Tensor, "examples"],
    targets: Int[Tensor, "examples"],
    groups: Int[Tensor, "examples"],
    *,
    count: int,
    bins: int = 10,
    favorable: int = 1,
    minimum: int = 1,
) -> Calibration:
    """Measure how well scores are calibrated in each group.

    The error of a small group is too large, the more so with more bins, as the noise of each bin
    counts; compare groups of like size, or by their offsets. Where base rates differ, a score
    that is calibrated in every group cannot also have equal error rates (Kleinberg et al. 2016).

    Args:
        scores: Probability the model gives to the favorable class, in 0..1.
        targets: True class of each example.
        groups: Group of each example, in ``0..count - 1``.
        count: Number of groups.
        bins: Bins of equal width that scores are sorted into; each holds its upper edge.
        favorable: Class that the scores are about.
        minimum: Examples below which a group takes no part in the spreads.

    Raises:
        ValueError: A score outside 0..1, a group out of range, or fewer than one bin.

    Source:
        Naeini et al. 2015, AAAI 29(1) (expected calibration error); Pleiss et al. 2017,
        arXiv:1709.02012 (by group); Kleinberg et al. 2016, arXiv:1609.05807.
    """
    if bins < 1:
        raise ValueError(f"fairness.bins must be at least 1, got {bins}")
    score = scores.detach().cpu().double().numpy()
    if ((score < 0) | (score > 1)).any():
        raise ValueError("fairness: scores must be probabilities in 0..1")
    group = groups.cpu().long().numpy()
    if ((group < 0) | (group >= count)).any():
        raise ValueError(f"fairness: groups must be in 0..{count - 1}")
    excess = score - (targets == favorable).cpu().numpy()
    place = group * bins + np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], score)
    table = np.bincount(place, excess, minlength=count * bins).reshape(count, bins)
    sizes = np.bincount(group, minlength=count)
    with np.errstate(invalid="ignore"):
        error, offset = np.abs(table).sum(axis=1) / sizes, table.sum(axis=1) / sizes
    large = sizes >= minimum
    return Calibration(_known(error), _known(offset), _spread(error[large]), _spread(offset[large]))


def _known(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)


def _spread(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.max() - known.min()) if len(known) > 1 else None
