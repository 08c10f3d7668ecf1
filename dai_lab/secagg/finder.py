"""How few neighbors are enough: chances that a secret or a sum is lost, and the smallest graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SECURITY, CORRECTNESS = 40, 20
"""Bits: a secret may be lost one time in 2 ** 40, a sum one time in 2 ** 20."""

HAIR = 1e-9
"""A third of 99 is 33, whatever a float makes of it."""


@dataclass(frozen=True)
class Parameters:
    """A graph, and the base-2 logarithms of bounds on what can go wrong in it."""

    neighbors: int
    threshold: int
    corrupt: int
    """Neighbors that may help the server without anybody learning a secret."""
    disconnected: float
    """Bound on the chance that the graph falls apart without the corrupt and the lost."""
    exposed: float
    """Bound on the chance that somebody has more corrupt neighbors than that."""
    stuck: float
    """Bound on the chance that too few of somebody's neighbors stay to give up its shares."""


def find(
    clients: int,
    *,
    corrupt: float,
    dropping: float,
    sigma: int = SECURITY,
    eta: int = CORRECTNESS,
    active: bool = False,
) -> Parameters:
    """Find the fewest neighbors that keep all chances low.

    Args:
        clients: 2 or more.
        corrupt: Share of the clients that help the server, in [0, 1).
        dropping: Share of the clients that drop out, in [0, 1).
        sigma: Bits of security.
        eta: Bits of correctness.
        active: Whether the server may tell neighbors different things about a client.

    Raises:
        ValueError: Not even all the others are enough, or a share out of range.

    Source:
        Bell et al. 2020, ePrint 2020/704, sections 3 and 4; the constants are those of Google's
        parameter finder.
    """
    helping, staying = _counts(clients, corrupt, dropping)
    for neighbors in range(2, clients, 2):
        apart = _apart(clients, math.floor((corrupt + dropping) * clients + HAIR), neighbors)
        if apart >= -sigma - 1:
            continue
        bad, above = _above(clients, helping, neighbors)
        most = int(bad[above > -sigma - 1].max(initial=-1)) + 1
        told = math.ceil((most + neighbors - 1.25) / 2) if active else most
        least = max(told + 1, 2)
        good, below = _above(clients, staying, neighbors, lower=True)
        if int(good[below > -eta].min(initial=neighbors + 1)) - 1 > told:
            return Parameters(
                neighbors, least, most, apart, _at(bad, above, most), _at(good, below, least)
            )  # fmt: skip
    raise ValueError(
        f"secagg.neighbors: not even all of {clients} clients are enough for this secagg.corrupt "
        "and secagg.spare: lower one of them, or set secagg.neighbors=all"
    )


def chances(
    clients: int, neighbors: int, threshold: int, *, corrupt: float, dropping: float, active: bool
) -> Parameters:
    """Bound what can go wrong in a graph of one's own choice; arguments as in :func:`find`."""
    helping, staying = _counts(clients, corrupt, dropping)
    bad, above = _above(clients, helping, neighbors)
    good, below = _above(clients, staying, neighbors, lower=True)
    most = max(0, 2 * threshold - neighbors - 1 if active else threshold - 1)
    apart = _apart(clients, math.floor((corrupt + dropping) * clients + HAIR), neighbors)
    return Parameters(
        neighbors, threshold, most, apart, _at(bad, above, most), _at(good, below, threshold)
    )


def ring(clients: int, neighbors: int, *, order: Sequence[int]) -> list[tuple[int, ...]]:
    """Connect each client with those nearby on a ring; with all, if there are no more.

    Args:
        clients: How many.
        neighbors: Of each, even unless it is all the others; half of them on each side.
        order: Of the clients on the ring, drawn at random by somebody that none of them is.

    Returns:
        For each client its neighbors, rising.

    Raises:
        ValueError: An odd number of neighbors, or an order that leaves somebody out.

    Source:
        Harary 1962; Bell et al. 2020, ePrint 2020/704, algorithm 1.
    """
    if sorted(order) != list(range(clients)):
        raise ValueError("ring: the order must name every client once")
    if neighbors >= clients - 1:
        return [tuple(one for one in range(clients) if one != own) for own in range(clients)]
    if neighbors < 2 or neighbors % 2:
        raise ValueError(f"secagg.neighbors must be an even number from 2, got {neighbors}")
    steps = [step for half in range(1, neighbors // 2 + 1) for step in (-half, half)]
    found: list[tuple[int, ...]] = [()] * clients
    for place, own in enumerate(order):
        found[own] = tuple(sorted(order[(place + step) % clients] for step in steps))
    return found


def _counts(clients: int, corrupt: float, dropping: float) -> tuple[int, int]:
    for name, share in (("corrupt", corrupt), ("spare", dropping)):
        if not 0 <= share < 1:
            raise ValueError(f"secagg.{name} must be a share in [0, 1), got {share}")
    if clients < 2:
        raise ValueError(f"secagg.neighbors: a graph takes two clients, got {clients}")
    return math.floor(corrupt * clients + HAIR), math.ceil((1 - dropping) * clients - HAIR)


def _above(
    clients: int, marked: int, neighbors: int, *, lower: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Bound how many of somebody's neighbors are marked, of whom there are ``marked`` in all.

    Returns:
        Numbers, and for each the logarithm of ``clients`` times the chance that more, or with
        ``lower`` fewer, of the neighbors are marked.
    """
    # One number beyond either end of what can be.
    can = np.arange(max(0, neighbors - clients + marked), min(neighbors, marked) + 1)
    logs = _choose(marked, can) + _choose(clients - marked, neighbors - can)
    logs = logs - _choose(clients, np.array([neighbors])) + math.log(clients)
    if lower:
        tails = np.logaddexp.accumulate(logs)
        return np.append(can, can[-1] + 1), np.append(-np.inf, tails) / math.log(2)
    tails = np.logaddexp.accumulate(logs[::-1])[::-1]
    return np.append(can[0] - 1, can), np.append(tails, -np.inf) / math.log(2)


def _at(numbers: NDArray[np.int64], logs: NDArray[np.float64], number: int) -> float:
    at = int(np.clip(number - int(numbers[0]), 0, len(logs) - 1))
    return float(logs[at])


def _choose(count: int, some: NDArray[np.int64]) -> NDArray[np.float64]:
    from scipy.special import gammaln

    found: NDArray[np.float64] = gammaln(count + 1) - gammaln(some + 1) - gammaln(count - some + 1)
    return found


def _apart(clients: int, gone: int, neighbors: int) -> float:
    """Bound the chance that two runs of ``neighbors / 2`` on the ring are all gone."""
    if neighbors > gone or clients - neighbors <= 1:
        return -math.inf
    runs = clients * (clients - neighbors - 1) / 2
    each = np.arange(neighbors)
    return math.log2(runs) + float(np.log2((gone - each) / (clients - each)).sum())
