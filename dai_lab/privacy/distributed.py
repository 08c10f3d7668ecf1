"""Noise that clients add, a share each, to whole numbers that a secure sum adds up.

The server sees the sum modulo ``2 ** bits`` and nothing else, so nobody has to be trusted with
the sum before noise: what is promised is what the noise of those who stayed is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dai_lab.core import Encoding, Event, Key, Protected, Rows, State, Words
from dai_lab.privacy import discrete
from dai_lab.privacy.clipping import shortened

BETA = 0.6065306597126334
"""``exp(-1/2)``: roundings that keep the bound are then not rare, and the bound is close."""


def distributed_gaussian(
    rows: Rows,
    *,
    state: State,
    key: Key,
    norm: float = 1.0,
    noise: float = 1.0,
    bits: int = 16,
    clients: int = 20,
    dropping: float = 0.0,
    corrupt: float = 0.0,
    spread: float = 4.0,
    beta: float = BETA,
) -> Protected:
    """Clip rows, and let each client add discrete Gaussian noise inside the secure sum.

    Needs a sum that the server cannot see into: secure aggregation rotates, rounds, noises and
    adds rows by what comes back as ``encoding``. With ``noise=0`` and an infinite ``norm``
    nothing happens at all.

    Args:
        rows: What clients computed.
        state: Unused.
        key: Where the round's public rotation is drawn.
        norm: Largest Euclidean length of a row, above 0.
        noise: Standard deviation of the sum's noise over ``norm``, 0 or more, where no fewer
            stay than expected; in proportion less variance where they do.
        bits: The sum is taken modulo ``2 ** bits``; 2 to 32. Fewer are less to send, and coarser.
        clients: How many are expected in a sum, 1 or more: the cohort, or one of its groups.
        dropping: Share of them that may vanish, in [0, 1), with the noise still as said.
        corrupt: Share of those who stay that may tell the server their noise, in [0, 1).
        spread: How many standard deviations of the sum's entries must fit before it wraps, above
            0; rows that are all alike are the worst case.
        beta: How often a rounding may be refused for being too long, in [0, 1); 0 lets every
            rounding pass, at a larger bound.

    Raises:
        ValueError: A knob out of range, a sum that does not fit, or noise too fine for the grain.

    Source:
        Kairouz, Liu and Steinke 2021, arXiv:2102.06387, algorithms 1 and 2, theorem 1.
    """
    plan = _planned(norm, noise, bits, clients, dropping, corrupt, spread, beta)
    if plan is None:
        return Protected(rows)
    grid = plan.on(rows.shape[1])
    if noise and plan.noisy > 1 and grid.std < 0.5:
        raise ValueError(
            f"privacy: a client's noise is {grid.std:.2g} grains, and sums of less than half a "
            "grain have no price: raise privacy.bits or privacy.noise, lower privacy.clients or "
            "privacy.spread, or choose privacy=skellam"
        )

    def price(honest: int) -> Event:
        return Event("zcdp", (_rho(grid, honest),))

    return _protected(rows, plan, grid, key, discrete.discrete_gaussian, price)


def skellam(
    rows: Rows,
    *,
    state: State,
    key: Key,
    norm: float = 1.0,
    noise: float = 1.0,
    bits: int = 16,
    clients: int = 20,
    dropping: float = 0.0,
    corrupt: float = 0.0,
    spread: float = 4.0,
    beta: float = BETA,
) -> Protected:
    """Clip rows, and let each client add Skellam noise inside the secure sum.

    Sums of such noise are such noise again, so however many clients share it and however coarse
    the grain is, it has a price.

    Args:
        rows: See :func:`distributed_gaussian`.
        state: Unused.
        key: See :func:`distributed_gaussian`.
        norm: See :func:`distributed_gaussian`.
        noise: See :func:`distributed_gaussian`.
        bits: See :func:`distributed_gaussian`.
        clients: See :func:`distributed_gaussian`.
        dropping: See :func:`distributed_gaussian`.
        corrupt: See :func:`distributed_gaussian`.
        spread: See :func:`distributed_gaussian`.
        beta: See :func:`distributed_gaussian`.

    Raises:
        ValueError: A knob out of range, or a sum that does not fit.

    Source:
        Agarwal, Kairouz and Liu 2021, arXiv:2110.04995, section 4 and corollary 4.1.
    """
    plan = _planned(norm, noise, bits, clients, dropping, corrupt, spread, beta)
    if plan is None:
        return Protected(rows)
    grid = plan.on(rows.shape[1])

    def price(honest: int) -> Event:
        return Event("skellam", (honest * grid.std**2, grid.l2**2, grid.l1))

    return _protected(rows, plan, grid, key, discrete.skellam_noise, price)


@dataclass(frozen=True)
class Plan:
    """The knobs, and what follows from them whatever a row's length."""

    norm: float
    noise: float
    bits: int
    clients: int
    dropping: float
    corrupt: float
    spread: float
    beta: float

    def honest(self, stayed: int) -> int:
        """Return how many of those who stayed keep their noise to themselves."""
        return stayed - math.ceil(self.corrupt * stayed - 1e-9)

    @property
    def noisy(self) -> int:
        """Return by how many the noise is shared, at least 1."""
        return max(1, self.honest(math.floor(self.clients * (1 - self.dropping) + 1e-9)))

    def on(self, params: int) -> Grid:
        """Choose the grain at which the sum just fits.

        An entry of the rotated sum varies by no more than ``clients * norm / sqrt(width)`` for the
        rows, half a grain for each rounding, and the noise of all, if they all stay.

        Source:
            Kairouz, Liu and Steinke 2021, arXiv:2102.06387, section 5 (``k`` standard deviations).
        """
        width = discrete.width(params)
        room = 4.0**self.bits - self.spread**2 * self.clients
        if room <= 0:
            raise ValueError(
                f"privacy.bits={self.bits} cannot hold a sum of {self.clients} roundings: raise "
                "privacy.bits, or lower privacy.clients or privacy.spread"
            )
        share = (self.noise * self.norm) ** 2 / self.noisy
        varies = (self.clients * self.norm) ** 2 / width + self.clients * share
        grain = 2 * self.spread * math.sqrt(varies / room)
        return Grid(width, grain, math.sqrt(share) / grain, self.norm / grain, self.beta)


@dataclass(frozen=True)
class Grid:
    """Whole numbers that stand for rows; lengths are in grains."""

    width: int
    grain: float
    """What 1 stands for."""
    std: float
    """Of one client's noise."""
    longest: float
    """A row before it is rounded."""
    beta: float

    @property
    def l2(self) -> float:
        """Return the longest a row may be once it is rounded."""
        if not self.beta:
            return self.longest + math.sqrt(self.width)
        usual = self.longest**2 + self.width / 4
        tail = math.sqrt(2 * math.log(1 / self.beta)) * (self.longest + math.sqrt(self.width) / 2)
        return min(self.longest + math.sqrt(self.width), math.sqrt(usual + tail))

    @property
    def l1(self) -> float:
        """Return the largest sum of its absolute entries, which are whole numbers."""
        return self.l2 * min(math.sqrt(self.width), self.l2)


def _rho(grid: Grid, honest: int) -> float:
    """Price the sum of some clients' discrete Gaussians, which is not quite one itself."""
    std = math.sqrt(honest) * grid.std
    k = np.arange(1, honest)
    apart = 10 * float(np.exp(-2 * math.pi**2 * grid.std**2 * k / (k + 1)).sum())
    alone = grid.l2 / std
    squared = min(
        alone**2 + 2 * apart * grid.width,
        alone**2 + 2 * apart * grid.l1 / std + apart**2 * grid.width,
        (alone + apart * math.sqrt(grid.width)) ** 2,
    )
    return squared / 2


def _protected(
    rows: Rows,
    plan: Plan,
    grid: Grid,
    key: Key,
    noise: Callable[[float, int, np.random.Generator], NDArray[np.int64]],
    price: Callable[[int], Event],
) -> Protected:
    flips = discrete.signs(rows.shape[1], key / "rotation")
    half, mask = 1 << (plan.bits - 1), (1 << plan.bits) - 1

    def encode(row: NDArray[np.floating], own: Key) -> Words:
        draw = discrete.stream(own)
        turned = discrete.rotated(_clipped(row, plan.norm) * (1 / grid.grain), flips)
        whole = rounded(turned, grid.l2, draw) + noise(grid.std, grid.width, draw)
        return (whole & mask).astype(np.uint32)

    def decode(total: Words, count: int) -> NDArray[np.float64]:
        centered = ((total.astype(np.int64) + half) & mask) - half
        return discrete.unrotated(centered.astype(np.float64) * grid.grain, flips)

    def events(stayed: int) -> tuple[Event, ...]:
        honest = plan.honest(stayed)
        return (price(honest) if plan.noise and honest > 0 else Event("open"),)

    encoding = Encoding(plan.bits, grid.width, encode, decode, events)
    return Protected(shortened(rows, plan.norm), plan.norm, encoding=encoding)


def rounded(
    turned: NDArray[np.float64], longest: float, draw: np.random.Generator
) -> NDArray[np.int64]:
    """Round up or down at random, without bias but for the bound: anew until it is kept.

    Args:
        turned: Numbers, ``[width]``.
        longest: Euclidean length that what comes back does not exceed.
        draw: Where from.

    Source:
        Kairouz, Liu and Steinke 2021, arXiv:2102.06387, algorithm 1 (conditional randomized
        rounding).
    """
    while True:
        found = np.floor(turned + draw.random(len(turned)))
        if float(found @ found) <= longest**2:
            return found.astype(np.int64)


def _clipped(row: NDArray[np.floating], norm: float) -> NDArray[np.float64]:
    """Shorten a row that arrives too long: who lies is no exception."""
    long = row.astype(np.float64)
    largest = max(float(np.abs(long).max(initial=0)), np.finfo(np.float64).tiny)
    length = largest * float(np.linalg.norm(long / largest))
    return long if length <= norm else long * (norm / length)


def _planned(
    norm: float, noise: float, bits: int, clients: int, dropping: float, corrupt: float,
    spread: float, beta: float,
) -> Plan | None:  # fmt: skip
    """Check the knobs; there is no plan where nothing is promised."""
    if not norm > 0:
        raise ValueError(f"privacy.norm must be above 0, got {norm}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"privacy.noise must be 0 or more, got {noise}")
    if not 2 <= bits <= 32:
        raise ValueError(f"privacy.bits must be 2 to 32, got {bits}")
    if clients < 1:
        raise ValueError(f"privacy.clients must be 1 or more, got {clients}")
    for name, share in {"dropping": dropping, "corrupt": corrupt, "beta": beta}.items():
        if not 0 <= share < 1:
            raise ValueError(f"privacy.{name} must be a share in [0, 1), got {share}")
    if not 0 < spread < math.inf:
        raise ValueError(f"privacy.spread must be above 0, got {spread}")
    if math.isinf(norm):
        if noise:
            raise ValueError("privacy.norm must be finite where privacy.noise is not 0, got inf")
        return None
    return Plan(norm, noise, bits, clients, dropping, corrupt, spread, beta)
