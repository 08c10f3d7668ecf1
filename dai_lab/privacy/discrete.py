"""Noise on whole numbers, and the rotation that makes every number of a row small."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dai_lab.core import Key

BATCH = 2**16
"""Candidates that are drawn at a time and stay in cache."""

WIDE = 2.0**16
"""Standard deviation from which the two kinds of noise differ by less than 64-bit numbers tell."""


def stream(key: Key) -> np.random.Generator:
    """Open a key's stream for whole numbers.

    Streams are for experiments: PCG64 can be told from noise and a key names 56 bits, so a real
    client would draw the same distributions from its operating system.
    """
    return np.random.default_rng(key.number())


def discrete_gaussian(std: float, count: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Draw whole numbers ``x`` with probabilities proportional to ``exp(-x^2 / (2 std^2))``.

    The distribution is exact up to the 53 bits of the floating-point numbers that decide what is
    kept; its own standard deviation is ``std`` or less.

    Args:
        std: The parameter, 0 or more; at 0 all are 0.
        count: How many.
        draw: Where from.

    Source:
        Canonne, Kamath and Steinke 2020, arXiv:2004.00010, algorithm 3 (rejection from discrete
        Laplace).
    """
    found = np.zeros(count, np.int64)
    if not std > 0:
        return found
    scale = math.floor(std) + 1
    filled = 0
    while filled < count:
        size = min(BATCH, 2 * (count - filled) + 16)
        # The floor of an exponential is geometric; with a sign, and one zero, discrete Laplace.
        far = np.floor(scale * draw.standard_exponential(size))
        minus = draw.random(size, np.float32) < 0.5
        # An exponential is above a number x, which is 0 or more, with probability exp(-x).
        kept = draw.standard_exponential(size) > (far - std**2 / scale) ** 2 / (2 * std**2)
        kept &= ~minus | (far > 0)
        some = np.where(minus, -far, far)[kept][: count - filled]
        found[filled : filled + len(some)] = some
        filled += len(some)
    return found


def skellam_noise(std: float, count: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Draw differences of two Poisson numbers; sums of such are such again.

    Args:
        std: Standard deviation, 0 or more. From ``WIDE`` on draws are discrete Gaussian ones, which
            are nearer to the truth there than Poisson numbers of 64-bit floats.
        count: How many.
        draw: Where from.

    Source:
        Agarwal, Kairouz and Liu 2021, arXiv:2110.04995, section 2.
    """
    if std >= WIDE:
        return discrete_gaussian(std, count, draw)
    return draw.poisson(std**2 / 2, count) - draw.poisson(std**2 / 2, count)


def signs(count: int, key: Key) -> NDArray[np.int8]:
    """Draw the public signs that a round's rotation flips."""
    found: NDArray[np.int8] = 2 * stream(key).integers(0, 2, count, np.int8) - 1
    return found


def width(params: int) -> int:
    """Return how many numbers a row becomes: the next power of two."""
    return 1 << max(0, params - 1).bit_length()


def rotated(row: NDArray[np.floating], flips: NDArray[np.int8]) -> NDArray[np.float64]:
    """Flip signs and turn a row by the Walsh-Hadamard matrix, so that its length is everywhere.

    Args:
        row: Numbers, ``[params]``.
        flips: Signs, ``[params]``; zeros that fill the row up need none.

    Returns:
        ``[width]`` numbers, as long together as the row, after ``width log width`` additions.

    Source:
        Kairouz, Liu and Steinke 2021, arXiv:2102.06387, algorithm 1 (flattening).
    """
    from dai_lab.privacy import kernels

    found = np.zeros(width(len(row)))
    np.multiply(row, flips, out=found[: len(row)])
    kernels.hadamard(found)
    found *= 1 / math.sqrt(len(found))
    return found


def unrotated(turned: NDArray[np.float64], flips: NDArray[np.int8]) -> NDArray[np.float64]:
    """Turn back what :func:`rotated` turned, and cut off what filled it up."""
    from dai_lab.privacy import kernels

    found = turned * (1 / math.sqrt(len(turned)))
    kernels.hadamard(found)
    cut: NDArray[np.float64] = found[: len(flips)] * flips
    return cut
