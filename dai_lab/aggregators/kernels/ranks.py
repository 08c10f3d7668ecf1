"""Which rows a rule left out of a few columns."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
@no_type_check
def outside(sample, low, high, near, found):
    """Tell which values of each column are not between two ranks, or not closest to those.

    Args:
        sample: ``[n, columns]``.
        low: First rank.
        high: One past the last.
        near: How many values closest to the average of those ranks to take instead, if not 0.
        found: ``[n, columns]``, booleans; gets the answers.
    """
    n, columns = sample.shape
    order, values = np.empty(n, np.int64), np.empty(n, np.float64)
    for column in range(columns):
        for row in range(n):  # insertion keeps equal values in the order of rows
            value, at = float(sample[row, column]), row
            while at > 0 and values[at - 1] > value:
                values[at], order[at] = values[at - 1], order[at - 1]
                at -= 1
            values[at], order[at] = value, row
        first, last = low, high
        if near:
            center = values[low:high].mean()
            first = 0
            while first + near < n and values[first + near] - center < center - values[first]:
                first += 1
            last = first + near
        for at in range(n):
            found[order[at], column] = at < first or at >= last
