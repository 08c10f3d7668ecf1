"""Numbers over seeds: the interquartile mean and its bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dai_lab.core import Key

Numbers: TypeAlias = Sequence[float | int] | NDArray[Any]
"""One number per run."""

BOOTSTRAP = Key(0, ("bootstrap",))
"""Where intervals draw from unless told otherwise, so a report repeats to the last digit."""

BATCH = 4_000_000
"""Resampled numbers held at a time; bounds the memory of a long curve."""


@dataclass(frozen=True)
class Estimate:
    """A number over seeds with its interval; ``str`` gives ``0.913 [0.902, 0.921]``."""

    value: float
    low: float
    high: float
    n: int
    """Runs behind the number."""
    missing: int = 0
    """Runs that should be behind it and have no finite number."""

    def __format__(self, spec: str) -> str:
        """Write value and interval each as ``spec`` says (``.3f`` if it says nothing)."""
        spec = spec or ".3f"
        lost = f" ({self.missing} of {self.n + self.missing} missing)" if self.missing else ""
        if self.n == 0:
            return f"none{lost}"
        value = format(self.value, spec)
        if isnan(self.low):
            return f"{value} [one seed]{lost}"
        return f"{value} [{format(self.low, spec)}, {format(self.high, spec)}]{lost}"

    def __str__(self) -> str:
        return format(self, "")


def iqm(values: Numbers) -> float:
    """Average the middle half: drop a quarter of the values, rounded down, at each end.

    Raises:
        ValueError: No value, or one that is not finite.

    Source:
        Agarwal et al. 2021, arXiv:2108.13264, section 4.3.
    """
    return float(_iqm(_finite(values)))


def estimate(
    values: Numbers,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    missing: str = "refuse",
    key: Key = BOOTSTRAP,
) -> Estimate:
    """Summarize one number per seed by its interquartile mean and a bootstrap interval.

    Order does not matter. With three seeds the interval spans from the lowest to the highest
    value and is still too narrow; ten seeds are a good number, and one seed has no interval.

    Args:
        values: One number per seed.
        resamples: Bootstrap samples; at least 1.
        level: Probability the interval aims for, in (0, 1).
        missing: ``refuse`` raises on NaN and infinity; ``count`` leaves them out and says so.
        key: Where the bootstrap draws from.

    Raises:
        ValueError: No value, a value that is not finite, or a knob out of range.

    Source:
        Agarwal et al. 2021, arXiv:2108.13264, section 4.2 (percentile bootstrap over runs).
    """
    if missing not in ("refuse", "count"):
        raise ValueError(f"estimate: missing must be refuse or count, got {missing!r}")
    numbers = np.asarray(values, dtype=float).reshape(-1)
    kept = numbers[np.isfinite(numbers)] if missing == "count" else _finite(numbers)
    lost = len(numbers) - len(kept)
    if len(kept) == 0 and lost > 0:
        return Estimate(nan, nan, nan, 0, lost)
    found = stratified({"": kept}, resamples=resamples, level=level, key=key)
    return Estimate(found.value, found.low, found.high, found.n, lost)


def stratified(
    strata: Mapping[str, Numbers],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    key: Key = BOOTSTRAP,
) -> Estimate:
    """Summarize runs on several tasks by one interquartile mean over all of them.

    Runs are resampled within each task only, so no resample forgets a task. A task counts by
    its number of runs; one with a single run has no spread to resample, so there is no interval.

    Args:
        strata: One number per seed, for each task.
        resamples: Bootstrap samples; at least 1.
        level: Probability the interval aims for, in (0, 1).
        key: Where the bootstrap draws from.

    Raises:
        ValueError: No task, a task without values, or a value that is not finite.

    Source:
        Agarwal et al. 2021, arXiv:2108.13264, section 4.2.
    """
    _check(resamples, level)
    if not strata:
        raise ValueError("estimate: there are no values")
    # Sorted, so that neither the order of seeds nor that of tasks moves the interval.
    parts = sorted((np.sort(_finite(part)) for part in strata.values()), key=lambda part: [*part])
    pooled = np.concatenate(parts)
    value = float(_iqm(pooled))
    if min(len(part) for part in parts) == 1:
        return Estimate(value, nan, nan, len(pooled))
    stream = np.random.default_rng(key.number())
    drawn = [part[_resample(len(part), resamples, stream)] for part in parts]
    low, high = _interval(_iqm(np.concatenate(drawn, axis=1), axis=1), level)
    return Estimate(value, float(low), float(high), len(pooled))


def difference(
    ours: Numbers,
    theirs: Numbers,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    key: Key = BOOTSTRAP,
) -> Estimate:
    """Estimate how much higher ``ours`` is than ``theirs`` on the same seeds.

    Pairing removes what both share (the split, the first model), so two methods whose own
    intervals overlap may still differ clearly.

    Args:
        ours: One number per seed.
        theirs: One number per seed, same seeds in the same order.
        resamples: Bootstrap samples; at least 1.
        level: Probability the interval aims for, in (0, 1).
        key: Where the bootstrap draws from.

    Raises:
        ValueError: Different numbers of seeds, or a value that is not finite.
    """
    left, right = _finite(ours), _finite(theirs)
    if len(left) != len(right):
        raise ValueError(f"difference: {len(left)} values cannot pair with {len(right)}")
    return estimate(left - right, resamples=resamples, level=level, key=key)


def band(
    curves: NDArray[Any],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    key: Key = BOOTSTRAP,
) -> list[Estimate]:
    """Estimate every point of a curve: ``estimate`` of each column, in one pass.

    Args:
        curves: One run per row, one point per column; NaN where a run has no number, which
            is counted.
        resamples: Bootstrap samples; at least 1.
        level: Probability the interval aims for, in (0, 1).
        key: Where the bootstrap draws from.
    """
    _check(resamples, level)
    runs, points = curves.shape
    whole = np.isfinite(curves).all(axis=0)
    if runs < 2 or not whole.all():
        return [
            estimate(column, resamples=resamples, level=level, missing="count", key=key)
            for column in curves.T
        ]
    ordered = np.sort(curves, axis=0)
    picks = _resample(runs, resamples, np.random.default_rng(key.number()))
    step = max(1, BATCH // (runs * resamples))
    found: list[Estimate] = []
    for start in range(0, points, step):
        piece = ordered[:, start : start + step]
        low, high = _interval(_iqm(piece[picks], axis=1), level)
        rows = zip(_iqm(piece), low, high, strict=True)
        found.extend(Estimate(float(v), float(a), float(b), runs) for v, a, b in rows)
    return found


def mean_ranks(
    tasks: Sequence[NDArray[Any]],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    key: Key = BOOTSTRAP,
) -> list[Estimate]:
    """Estimate the average place of every method over several tasks; 1 is best.

    On each task the methods are put in the order of their interquartile means, and equals (to 12
    decimals) share the mean of their places. The bootstrap redraws the seeds of each task, the
    same for all methods, so that what a seed does to everybody moves nobody's rank.

    Args:
        tasks: For each task one row per method, the same methods in the same order, and one
            column per seed; higher is better, NaN (a run that broke down) worse than any number.
        resamples: Bootstrap samples; at least 1.
        level: Probability the interval aims for, in (0, 1).
        key: Where the bootstrap draws from.

    Raises:
        ValueError: No task, a task without seeds, different numbers of methods, or a knob out
            of range.

    Source:
        Demsar 2006, Journal of Machine Learning Research 7, section 3.2.2 (average ranks);
        Agarwal et al. 2021, arXiv:2108.13264, section 4.2 (bootstrap stratified by task).
    """
    _check(resamples, level)
    shapes = {table.shape[0] for table in tasks}
    if len(shapes) != 1 or any(table.shape[1] == 0 for table in tasks):
        raise ValueError(
            "mean_ranks: every task needs the same methods, and a seed, got tables of "
            f"{', '.join(str(table.shape) for table in tasks) or 'no task'}"
        )
    places, drawn = [], []
    for number, table in enumerate(tasks):
        scores = np.where(np.isnan(table), -np.inf, table.astype(float))
        places.append(_places(_iqm(scores, axis=1)))
        # A stream each: the first seed of one task has nothing to do with that of another.
        stream = np.random.default_rng((key / number).number())
        picks = _resample(scores.shape[1], resamples, stream)
        drawn.append(_places(_iqm(scores[:, picks], axis=2)))
    value = np.mean(places, axis=0)
    low, high = _interval(np.mean(drawn, axis=0).T, level)
    if min(table.shape[1] for table in tasks) == 1:
        low = high = np.full_like(value, nan)
    count = sum(table.shape[1] for table in tasks)
    rows = zip(value, low, high, strict=True)
    return [Estimate(float(one), float(a), float(b), count) for one, a, b in rows]


def _iqm(values: NDArray[Any], axis: int = 0) -> NDArray[Any]:
    count = values.shape[axis]
    cut = count // 4
    middle = np.sort(values, axis=axis).take(range(cut, count - cut), axis=axis)
    return np.asarray(middle.mean(axis=axis))


def _resample(count: int, resamples: int, stream: np.random.Generator) -> NDArray[Any]:
    return stream.integers(0, count, size=(resamples, count))


def _places(scores: NDArray[Any]) -> NDArray[Any]:
    """Rank scores along the first axis, highest first; equals share the mean of their places."""
    # Sums of the same accuracies in another order differ in their last bits.
    scores = scores.round(12)
    above = (scores[None] > scores[:, None]).sum(axis=1)
    level = (scores[None] == scores[:, None]).sum(axis=1)
    return np.asarray(above + (level + 1) / 2)


def _interval(samples: NDArray[Any], level: float) -> tuple[NDArray[Any], NDArray[Any]]:
    tail = (1 - level) / 2
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def _finite(values: Numbers) -> NDArray[Any]:
    numbers = np.asarray(values, dtype=float).reshape(-1)
    if len(numbers) == 0:
        raise ValueError("estimate: there are no values")
    bad = int((~np.isfinite(numbers)).sum())
    if bad:
        raise ValueError(f"estimate: {bad} of {len(numbers)} values are NaN or infinite")
    return numbers


def _check(resamples: int, level: float) -> None:
    if resamples < 1:
        raise ValueError(f"estimate: resamples must be at least 1, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"estimate: level must be in (0, 1), got {level}")
