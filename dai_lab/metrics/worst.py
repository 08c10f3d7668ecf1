"""The worst that several attacks do to a method."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dai_lab.core import Key
from dai_lab.metrics.statistics import BOOTSTRAP, Estimate, _check, _interval, _iqm, _resample


def worst(
    tasks: Sequence[NDArray[Any]],
    *,
    peak: bool = False,
    resamples: int = 2000,
    level: float = 0.95,
    key: Key = BOOTSTRAP,
) -> tuple[int, Estimate]:
    """Find the task on which curves end lowest, and how low.

    Curves are averaged over seeds first (interquartile mean), so a peak is one of the mean, not a
    mean of lucky peaks. The bootstrap redraws seeds, the same for all tasks, and looks for the
    worst task anew each time.

    Args:
        tasks: For each task a row a seed, the same seeds in the same order, and a column a time;
            NaN (a run that broke down) is worse than any number and counts as 0.
        peak: Take the highest point of a curve in place of its end.
        resamples: Bootstrap samples; at least 1.
        level: Probability the interval aims for, in (0, 1).
        key: Where the bootstrap draws from.

    Returns:
        Which task is the worst, the first of equals, and the estimate there.

    Raises:
        ValueError: No task, no seed, or tasks with different numbers of seeds.
    """
    _check(resamples, level)
    if len({len(task) for task in tasks}) != 1 or not len(tasks[0]):
        raise ValueError("worst: every task needs the same seeds, and there must be one")
    curves = [np.nan_to_num(task.astype(float)) for task in tasks]
    shown = curves if peak else [task[:, -1:] for task in curves]
    count = len(shown[0])
    ends = np.array([_iqm(task).max() for task in shown])
    place, value = int(ends.argmin()), float(ends.min())
    if count == 1:
        return place, Estimate(value, nan, nan, 1)
    picks = _resample(count, resamples, np.random.default_rng(key.number()))
    drawn = np.min([_iqm(task[picks], axis=1).max(axis=1) for task in shown], axis=0)
    low, high = _interval(drawn, level)
    return place, Estimate(value, float(low), float(high), count)
