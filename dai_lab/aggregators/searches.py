"""Exact searches for the best ``n - f`` of ``n`` rows, in the space of their inner products.

Rows are removed one after the other, strangest first, while a lower bound says what further
removals may still reach.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int

Matrix: TypeAlias = Float64[np.ndarray, "n n"]
Bounds: TypeAlias = Callable[
    [Bool[np.ndarray, "nodes n"], Bool[np.ndarray, "nodes n"], int], Float64[np.ndarray, "nodes"]
]
"""From rows not removed, those of them that must stay, and how many are still to be removed."""

TIE = 1e-12
"""Relative difference below which two subsets are equally good."""
NODES = {"smea": 1.5e9, "mva": 4e9}
"""Partial subsets looked at, times n cubed and n squared: 10 to 30 seconds on one core."""
SWAPS = 500
"""Exchanges of one row for another that are tried at once, for a good subset to begin with."""
CHUNK = 4e6
"""Numbers held at once by the search, in square matrices of all rows."""


def scattered(distances: Matrix, f: int) -> list[int]:
    """Return the lexicographically first ``n - f`` rows of the smallest sum of variances."""
    count, size = len(distances), len(distances) - f
    # Sums of each row's nearest others: what a row costs at least if it stays, or saves less.
    nearest = np.cumsum(np.sort(distances, axis=1), axis=1)

    def bounds(
        stay: Bool[np.ndarray, "nodes n"], sure: Bool[np.ndarray, "nodes n"], more: int
    ) -> Float64[np.ndarray, "nodes"]:
        gains = stay @ distances
        whole: Float64[np.ndarray, "nodes"] = (gains * stay).sum(1) / 2
        if not more:
            return whole
        # A pair that leaves together is counted by both of its rows.
        saved = np.where(stay & ~sure, gains - nearest[:, more - 1] / 2, -np.inf)
        best = np.partition(saved, count - more, axis=1)[:, count - more :].sum(1)
        costs = nearest[:, size - 1] / 2
        chosen = np.where(stay & ~sure, costs, np.inf)
        chosen = np.where(sure, -1.0, chosen)
        cheap = np.sort(chosen, axis=1)[:, :size]
        kept = np.where(cheap < 0, 0.0, cheap).sum(1) + (sure * costs).sum(1)
        found: Float64[np.ndarray, "nodes"] = whole - best - 1e-12 * whole
        np.maximum(found, kept * (1 - 1e-12), out=found)
        return found

    return _search("mva", distances, f, bounds, NODES["mva"] / count**2)


def spread(inner: Matrix, distances: Matrix, f: int) -> list[int]:
    """Return the lexicographically first ``n - f`` rows of the smallest largest eigenvalue."""
    count, size = len(inner), len(inner) - f

    def bounds(
        stay: Bool[np.ndarray, "nodes n"], sure: Bool[np.ndarray, "nodes n"], more: int
    ) -> Float64[np.ndarray, "nodes"]:
        held = stay.astype(np.float64)
        # Rows that left must not be seen: theirs may be the largest numbers by far.
        seen = np.where(stay[:, :, None] & stay[:, None, :], inner, 0.0)
        means = seen.sum(2) / held.sum(1, keepdims=True)
        level = means.sum(1) / held.sum(1)
        seen -= means[:, :, None] + means[:, None, :] - level[:, None, None]
        seen *= held[:, :, None] * held[:, None, :]
        if not more:
            exact: Float64[np.ndarray, "nodes"] = np.linalg.eigvalsh(seen)[:, -1].clip(0)
            return exact
        values, vectors = np.linalg.eigh(seen)
        # Whoever leaves lowers no eigenvalue below the next one.
        found: Float64[np.ndarray, "nodes"] = values[:, -1 - more]
        slack = 1e-12 * values[:, -1]
        for top in (1, 2, 3)[: count - 1]:
            line = vectors[:, :, -top] * np.sqrt(values[:, -top].clip(0))[:, None]
            found = np.maximum(found, _narrowest(line, stay, sure, size))
        return found - slack

    return _search("smea", distances, f, bounds, NODES["smea"] / count**3)


def _narrowest(
    line: Float64[np.ndarray, "nodes n"],
    stay: Bool[np.ndarray, "nodes n"],
    sure: Bool[np.ndarray, "nodes n"],
    size: int,
) -> Float64[np.ndarray, "nodes"]:
    """Return the least sum of squares about their mean of ``size`` numbers, ``sure`` among them.

    Those that are free must then be neighbors: any between two of them would be closer to the mean.
    """
    free = stay & ~sure
    order = np.argsort(np.where(free, line, np.inf), axis=1)
    ranked = np.take_along_axis(np.where(free, line, 0.0), order, axis=1)
    start = np.zeros((len(line), 1))
    sums = np.concatenate([start, np.cumsum(ranked, axis=1)], axis=1)
    squares = np.concatenate([start, np.cumsum(ranked**2, axis=1)], axis=1)
    width = size - sure.sum(1, keepdims=True)
    first = np.arange(line.shape[1] + 1)[None, :]
    last = np.minimum(first + width, line.shape[1])
    total = np.take_along_axis(sums, last, axis=1) - sums + (line * sure).sum(1, keepdims=True)
    squared = np.take_along_axis(squares, last, axis=1) - squares
    squared = squared + (line**2 * sure).sum(1, keepdims=True)
    fits = first + width <= free.sum(1, keepdims=True)
    least: Float64[np.ndarray, "nodes"] = np.where(fits, squared - total**2 / size, np.inf).min(1)
    return least


def _search(rule: str, distances: Matrix, f: int, bounds: Bounds, most: float) -> list[int]:
    """Return the lexicographically first subset on which ``bounds`` is smallest.

    ``bounds`` is exact where nobody is left to be removed. Rows that are equal are removed last
    first: to remove others instead would give the same.
    """
    count = len(distances)
    if not f:
        return list(range(count))
    start = _removed_one_by_one(distances, f)
    order, before = _strangest_first(distances, start)
    back = np.empty(count, dtype=np.int64)
    back[order] = np.arange(count)
    best = _swapped(start, bounds)
    chunk = 1 + int(CHUNK / count**2)
    found: list[tuple[float, Bool[np.ndarray, "n"]]] = []
    stack = [np.zeros((1, 0), dtype=np.int64)]
    looked = 0
    while stack:
        removed = stack.pop()
        taken = removed.shape[1]
        stay = np.ones((len(removed), count), dtype=bool)
        np.put_along_axis(stay, order[removed], False, axis=1)
        last = removed[:, -1:] if taken else np.full((1, 1), -1)
        passed = back[None, :] <= last
        reach = bounds(stay, stay & passed, f - taken)
        looked += len(removed)
        if looked > most:
            raise ValueError(
                f"aggregator={rule} looked at {looked} of up to {comb(count, f)} subsets of "
                f"{count} rows and saw no end: lower aggregator.f or use aggregator=caf"
            )
        if taken == f:
            best = min(best, float(reach.min()))
            good = reach <= best * (1 + TIE)
            found += list(zip(reach[good].tolist(), stay[good], strict=True))
            continue
        hopeful = removed[reach <= best * (1 + TIE)]
        children = _children(hopeful, count, f, before)
        stack += [children[at : at + chunk] for at in range(0, len(children), chunk)][::-1]
    kept = [np.flatnonzero(stay).tolist() for value, stay in found if value <= best * (1 + TIE)]
    return min(kept)


def _removed_one_by_one(distances: Matrix, f: int) -> Bool[np.ndarray, "n"]:
    """Return who stays if whoever is farthest from the others is removed ``f`` times."""
    stay = np.ones(len(distances), dtype=bool)
    for _ in range(f):
        gains = np.where(stay, distances @ stay, -1.0)
        stay[gains.argmax()] = False
    return stay


def _swapped(stay: Bool[np.ndarray, "n"], bounds: Bounds) -> float:
    """Return the value of this subset, or of a better one that exchanges of rows lead to."""
    nobody = np.zeros_like(stay)
    best = float(bounds(stay[None], nobody[None], 0)[0])
    inside, outside = np.flatnonzero(stay), np.flatnonzero(~stay)
    if len(inside) * len(outside) > SWAPS:
        return best
    while True:
        tried = np.repeat(stay[None], len(inside) * len(outside), axis=0)
        each = np.arange(len(tried))
        tried[each, np.repeat(inside, len(outside))] = False
        tried[each, np.tile(outside, len(inside))] = True
        values = bounds(tried, np.zeros_like(tried), 0)
        if not values.min() < best * (1 - TIE):
            return best
        best, stay = float(values.min()), tried[values.argmin()]
        inside, outside = np.flatnonzero(stay), np.flatnonzero(~stay)


def _strangest_first(
    distances: Matrix, stay: Bool[np.ndarray, "n"]
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Order rows by their distance from those that stay; of equal rows, the last comes first.

    Returns:
        The order, and for each place in it the place of the equal row that comes just before, or
        -1.
    """
    count = len(distances)
    far = distances @ stay
    # What rounding leaves of a distance of 0 is small beside what the rows are away from others.
    same = distances <= 1e-15 * np.minimum(far[:, None], far[None, :])
    same |= np.eye(count, dtype=bool)
    alike = same.argmax(1)
    order = np.lexsort((-np.arange(count), alike, -far[alike]))
    before = np.full(count, -1)
    for place in range(1, count):
        if alike[order[place]] == alike[order[place - 1]]:
            before[place] = place - 1
    return order, before


def _children(
    removed: Int[np.ndarray, "nodes taken"], count: int, f: int, before: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "children more"]:
    """Remove one more place, after all that are removed already."""
    taken = removed.shape[1]
    last = removed[:, -1:] if taken else np.full((len(removed), 1), -1)
    place = np.arange(count - (f - taken) + 1)[None, :]
    allowed = place > last
    held = before[: place.shape[1]]
    # Its equal, which comes just before, must have been removed: then it was the last to be.
    allowed &= (held < 0)[None, :] | (last == held[None, :])
    node, after = np.nonzero(allowed)
    return np.concatenate([removed[node], after[:, None]], axis=1)
