"""Shamir's secret sharing over the field of 2^31 - 1, many secrets at once.

Whoever holds fewer shares than the threshold learns nothing; time is not hidden, for shares are
computed where their secrets are known anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dai_lab.secagg.keys import Randomness

PRIME = 2**31 - 1

LIMB, LIMBS = 30, 9
"""Bits of a limb, and limbs of a secret of 32 bytes."""

Limbs = NDArray[np.uint32]


def limbs(secret: bytes) -> Limbs:
    """Cut a secret of 32 bytes into field elements, ``[9]``, lowest first."""
    if len(secret) != 32:
        raise ValueError(f"shamir: a secret must be 32 bytes, got {len(secret)}")
    value = int.from_bytes(secret, "little")
    return np.array([value >> LIMB * at & (2**LIMB - 1) for at in range(LIMBS)], np.uint32)


def joined(parts: Limbs) -> bytes:
    """Put a secret together again.

    Raises:
        ValueError: Field elements that come from no secret.
    """
    if len(parts) != LIMBS or (parts >> LIMB).any():
        raise ValueError("shamir: these are no limbs of a secret")
    value = sum(int(part) << LIMB * at for at, part in enumerate(parts))
    if value >> 256:
        raise ValueError("shamir: these are no limbs of a secret")
    return value.to_bytes(32, "little")


def share(
    secrets: Limbs, *, threshold: int, points: NDArray[np.int64], randomness: Randomness
) -> Limbs:
    """Share field elements so that any ``threshold`` of the shares give them back.

    Args:
        secrets: Below ``PRIME``, ``[width]``.
        threshold: 1 to the number of points.
        points: Where shares are taken, distinct, in 1..PRIME - 1, ``[k]``.
        randomness: Where coefficients are drawn, uniformly over the field.

    Returns:
        For each point a share of each secret, ``[k, width]``.

    Raises:
        ValueError: A threshold or a point out of range, or no field element.

    Source:
        Shamir 1979, How to share a secret, section 2.
    """
    if not 1 <= threshold <= len(points):
        raise ValueError(f"shamir: threshold must be in 1..{len(points)}, got {threshold}")
    _check(points, secrets)
    width = len(secrets)
    drawn = elements(width * (threshold - 1), randomness).reshape(threshold - 1, width)
    ladder = np.vstack([secrets[None].astype(np.uint64), drawn])
    from dai_lab.secagg import kernels

    found: Limbs = kernels.evaluated(ladder, points.astype(np.uint64))
    return found


def elements(count: int, randomness: Randomness) -> NDArray[np.uint64]:
    """Draw field elements, ``[count]``; the one word of 31 bits that is none is drawn again."""
    found = np.frombuffer(randomness(4 * count), "<u4") & np.uint32(PRIME)
    while (bad := np.flatnonzero(found == PRIME)).size:
        found[bad] = np.frombuffer(randomness(4 * bad.size), "<u4") & np.uint32(PRIME)
    return found.astype(np.uint64)


def powers(points: Sequence[int], degree: int) -> NDArray[np.uint64]:
    """Return each point to the powers from 0 to ``degree - 1``, ``[points, degree]``."""
    rows = [[pow(one, power, PRIME) for power in range(degree)] for one in points]
    return np.array(rows, np.uint64).reshape(len(points), degree)


def weights_at_zero(points: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return what each share counts for in the secret: Lagrange's polynomials at 0."""
    _check(points, np.zeros(0, np.uint32))
    from dai_lab.secagg import kernels

    found: NDArray[np.uint64] = kernels.weighed(points.astype(np.uint64))
    return found


def combine(points: NDArray[np.int64], shares: Limbs) -> Limbs:
    """Put secrets together from as many shares as the threshold, ``[t, width]``."""
    found: Limbs = combine_many(points, shares[None])[0]
    return found


def combine_many(points: NDArray[np.int64], shares: Limbs) -> Limbs:
    """Put the secrets of many owners together, whose shares come from the same points.

    Args:
        points: Where the shares were taken, distinct, ``[t]``.
        shares: Of each owner, ``[owners, t, width]``, below ``PRIME``.

    Raises:
        ValueError: Another number of points, or no field elements.
    """
    if shares.shape[1] != len(points):
        raise ValueError(f"shamir: {shares.shape[1]} shares at {len(points)} points")
    _check(points, shares)
    from dai_lab.secagg import kernels

    found: Limbs = kernels.mixed(kernels.weighed(points.astype(np.uint64)), shares)
    return found


def _check(points: NDArray[Any], elements: Limbs) -> None:
    if len({*points.tolist()}) < len(points) or ((points < 1) | (points >= PRIME)).any():
        raise ValueError(f"shamir: points must be distinct and in 1..{PRIME - 1}")
    if (elements >= PRIME).any():
        raise ValueError(f"shamir: field elements must be below {PRIME}")
