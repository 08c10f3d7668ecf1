"""How sure group rates and their gaps are, by a bootstrap over examples."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from dai_lab.core import Key
from dai_lab.fairness.calibration import calibration
from dai_lab.fairness.groups import GAPS, Counts, cells, gaps_of, outcomes, rates

if TYPE_CHECKING:
    from pandas import DataFrame
else:
    DataFrame = Any

PRIOR = np.array([0.5, 0.5, 0.5, 0.25, 0.25])
"""Examples added to each outcome before drawing: half a one on either side of a rate, so that
what was seen 3 of 3 times is not taken for certain (Jeffreys' prior of a proportion)."""


def by_group(
    predictions: Int[Tensor, "examples"],
    targets: Int[Tensor, "examples"],
    groups: Int[Tensor, "examples"],
    scores: Float[Tensor, "examples"] | None = None,
    *,
    names: Sequence[str],
    favorable: int = 1,
    minimum: int = 1,
    resamples: int = 1000,
    level: float = 0.95,
    key: Key,
) -> DataFrame:
    """Tabulate how each group fares, one row a group, every rate with its interval.

    Columns are ``name``, ``size``, ``share``, ``too_small`` and, each with ``_low`` and
    ``_high``, ``selection_rate``, ``true_positive_rate``, ``false_positive_rate``,
    ``precision``, ``accuracy`` and ``error_rate``; with scores also ``calibration_error`` and
    ``calibration_offset``. A rate that a group does not have is missing. The intervals are of
    one rate each: do not compare two groups by whether theirs overlap, that is what ``gaps`` is
    for. A group that is too small keeps its row, and a warning names it.

    Args:
        predictions: Answer to each example; out of range is no answer, see ``cells``.
        targets: True class of each example.
        groups: Group of each example.
        scores: Probability the model gives to the favorable class, in 0..1.
        names: What each group is called.
        favorable: Class that people hope to be given.
        minimum: Examples below which a group is too small.
        resamples: Bootstrap samples; at least 1.
        level: Probability each interval aims for, in (0, 1).
        key: Where the bootstrap draws from.

    Raises:
        ValueError: A group without a name, or a knob out of range.

    Source:
        Rubin 1981, The Annals of Statistics 9(1) (the Bayesian bootstrap); Brown, Cai and
        DasGupta 2001, Statistical Science 16(2), section 3 (Jeffreys' interval).
    """
    from pandas import DataFrame

    # An answer that is nobody's truth and not favorable is as good as none.
    classes = 1 + max(favorable, int(targets.max()) if len(targets) else 0)
    counts = cells(predictions, targets, groups, count=len(names), classes=classes)
    table = outcomes(counts, favorable, minimum)
    sizes = table.sum(axis=1).astype(int)
    columns: dict[str, Any] = {
        "name": [*names],
        "size": sizes,
        "share": sizes / max(1, sizes.sum()),
        "too_small": sizes < minimum,
    }
    drawn = rates(_resampled(table, resamples, level, key))
    for rate, value in rates(table).items():
        low, high = np.quantile(drawn[rate], [(1 - level) / 2, (1 + level) / 2], axis=0)
        columns[rate] = value
        # Draws never reach the 1 of 3 hits in 3; and a rate that is missing has no interval.
        columns[f"{rate}_low"] = np.minimum(low, value)
        columns[f"{rate}_high"] = np.maximum(high, value)
    if scores is not None:
        found = calibration(scores, targets, groups, count=len(names), favorable=favorable)
        columns["calibration_error"] = np.array(found.error, dtype=float)
        columns["calibration_offset"] = np.array(found.offset, dtype=float)
    for name, size in zip(names, sizes, strict=True):
        if size < minimum:
            warnings.warn(
                f"group {name!r} has {size} of the {minimum} examples that fairness.minimum asks "
                "for: it takes no part in the gaps",
                stacklevel=2,
            )
    return DataFrame(columns)


def gaps(
    counts: Counts,
    *,
    favorable: int = 1,
    minimum: int = 1,
    resamples: int = 1000,
    level: float = 0.95,
    key: Key,
) -> dict[str, tuple[float, float, float] | None]:
    """Give every gap of ``group_fairness`` its interval, which may reach equality.

    The highest of noisy rates is too high and the lowest too low, so a measured difference is
    biased away from 0 (and a ratio from 1), more so for many small groups; and as no resample
    has a difference of exactly 0, an interval from percentiles of resampled gaps (also
    bias-corrected) all but never covers a model that treats groups alike. So the gaps are not
    resampled. Each pair of groups differs by its measured difference, give or take so many
    standard errors that all pairs hold at once, and the gap lies between the largest lower and
    the largest upper bound. The value stays what ``group_fairness`` says, bias and all: a lower
    bound at 0 means that chance alone may explain it.

    For two groups this is about exact; groups that differ widely make it err on the wide side,
    and 20 to 40 examples behind each of many rates on the narrow one (95 % intervals of five
    such groups hold in 90 to 98 of 100 draws).

    Resampling is the Bayesian bootstrap of the table: no resample loses a group, and a rate of 0
    or 1 keeps its doubt. Ratios are compared on the scale of logarithms.

    Args:
        counts: What ``cells`` counted.
        favorable: Class that people hope to be given.
        minimum: Examples below which a group takes no part.
        resamples: Bootstrap samples; at least 1.
        level: Probability each interval aims for, in (0, 1).
        key: Where the bootstrap draws from.

    Returns:
        Value, low and high of each gap and of ``worst_group_accuracy``; ``None`` where
        ``group_fairness`` says ``None``.

    Raises:
        ValueError: A knob out of range.

    Source:
        Lum et al. 2022, arXiv:2205.05770 (the bias); Chernozhukov, Lee and Rosen 2013,
        Econometrica 81(2) (bounds on the largest of several estimates); Ferrara et al. 2025,
        arXiv:2506.10586 (Dirichlet draws for small groups).
    """
    table = outcomes(counts, favorable, minimum)
    measured = table.sum(axis=1) >= minimum
    seen, center = rates(table), rates(table + PRIOR)
    drawn = rates(_resampled(table, resamples, level, key))
    found: dict[str, tuple[float, float, float] | None] = {}
    for name, value in gaps_of(seen, measured.tolist()).items():
        if value is None:
            found[name] = None
            continue
        scale = np.log if name.endswith("ratio") else np.asarray
        ours, theirs = [], []
        for rate in GAPS[name]:
            known = np.flatnonzero(measured & ~np.isnan(seen[rate]))
            one, other = (known[side] for side in np.triu_indices(len(known), 1))
            ours.append(scale(center[rate][one]) - scale(center[rate][other]))
            theirs.append(scale(drawn[rate][:, one]) - scale(drawn[rate][:, other]))
        apart = np.concatenate(ours)
        doubt = _together(apart, np.concatenate(theirs, axis=1), level)
        low = max(0.0, float((np.abs(apart) - doubt).max()))
        high = float((np.abs(apart) + doubt).max())
        if name.endswith("ratio"):
            low, high = float(np.exp(-high)), float(np.exp(-low))
        found[name] = (value, min(low, value), max(min(high, 1.0), value))
    found["worst_group_accuracy"] = None
    if measured.any():
        middle, value = center["accuracy"][measured], float(seen["accuracy"][measured].min())
        doubt = _together(middle, drawn["accuracy"][:, measured], level)
        low, high = max(0.0, float((middle - doubt).min())), float((middle + doubt).min())
        found["worst_group_accuracy"] = (value, min(low, value), max(min(high, 1.0), value))
    return found


def _together(
    center: NDArray[np.float64], drawn: NDArray[np.float64], level: float
) -> NDArray[np.float64]:
    """How far from ``center`` numbers may be so that all hold at once with this probability."""
    errors = np.sqrt(((drawn - center) ** 2).mean(axis=0))
    many = np.quantile((np.abs(drawn - center) / errors).max(axis=1), level)
    return np.asarray(errors * many)


def _resampled(
    table: NDArray[np.float64], resamples: int, level: float, key: Key
) -> NDArray[np.float64]:
    if resamples < 1:
        raise ValueError(f"fairness.resamples must be at least 1, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"fairness.level must be in (0, 1), got {level}")
    # A Dirichlet draw is gamma draws over their sum, and rates do not see the sum.
    stream = np.random.default_rng(key.number())
    return np.asarray(stream.standard_gamma(table + PRIOR, size=(resamples, *table.shape)))
