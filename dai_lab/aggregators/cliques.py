"""The largest set of rows that are all near each other, by an exact search.

Rows farther apart than a radius must not both stay: few rows must cover all such pairs.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Float64

Matrix: TypeAlias = Float64[np.ndarray, "n n"]
STEPS = 300_000
"""Branches of the search for a cover, some seconds."""


def clique(distances: Matrix, f: int) -> list[int]:
    """Return the lexicographically first ``n - f`` rows of the smallest diameter."""
    count = len(distances)
    upper = np.triu(distances, 1)
    gaps = upper + upper.T
    radii = np.unique(gaps)
    budget = [STEPS]
    # The smallest radius lies where exactly `f` rows cover all pairs that are farther apart.
    low, high = -1, len(radii) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if _covered(_apart(gaps, radii[middle]), f, budget):
            high = middle
        else:
            low = middle
    apart = _apart(gaps, radii[high])
    kept: list[int] = []
    gone = 0
    for row in range(count):
        if gone >> row & 1 or len(kept) == count - f:
            continue
        # With this row stay all those that go with it; is the rest still coverable?
        leaving = gone | apart[row]
        left = f - leaving.bit_count()
        open_rows = [
            0 if leaving >> other & 1 else far & ~leaving for other, far in enumerate(apart)
        ]
        if left >= 0 and _covered(open_rows, left, budget):
            kept.append(row)
            gone = leaving
        else:
            gone |= 1 << row
    return kept


def _apart(gaps: Matrix, radius: float) -> list[int]:
    """Return, for each row, a bit for each row farther than ``radius``."""
    bits = np.packbits(gaps > radius, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in bits]


def _covered(apart: list[int], most: int, budget: list[int]) -> bool:
    """Say whether ``most`` rows touch all pairs that are apart."""
    budget[0] -= 1
    if budget[0] < 0:
        raise ValueError(
            f"aggregator=mda gave up its search after {STEPS} steps: lower aggregator.f"
        )
    apart = list(apart)
    while True:
        degrees = [far.bit_count() for far in apart]
        highest = max(degrees)
        if highest == 0:
            return True
        # Each row covers at most `highest` pairs.
        if most <= 0 or sum(degrees) > 2 * most * highest:
            return False
        if highest > most:
            _remove(apart, 1 << degrees.index(highest))
            most -= 1
            continue
        if 1 in degrees:
            # Whoever is apart from one other only is covered by that other.
            _remove(apart, apart[degrees.index(1)])
            most -= 1
            continue
        break
    if highest == 2:
        return sum((length + 1) // 2 for length in _cycles(apart)) <= most
    row = degrees.index(highest)
    without = list(apart)
    around = apart[row]
    _remove(without, 1 << row)
    if _covered(without, most - 1, budget):
        return True
    _remove(apart, around)
    return _covered(apart, most - highest, budget)


def _remove(apart: list[int], rows: int) -> None:
    for row in range(len(apart)):
        apart[row] = 0 if rows >> row & 1 else apart[row] & ~rows


def _cycles(apart: list[int]) -> list[int]:
    """Return the lengths of the cycles of a graph in which every row is apart from two or none."""
    lengths = []
    left = sum(1 << row for row, far in enumerate(apart) if far)
    while left:
        found = left & -left
        grown = found
        while grown:
            row = grown.bit_length() - 1
            fresh = apart[row] & ~found
            found |= fresh
            grown = grown & ~(1 << row) | fresh
        lengths.append(found.bit_count())
        left &= ~found
    return lengths
