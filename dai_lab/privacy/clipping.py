"""Rows whose length is bounded: what one client can do to a sum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Key, Protected, Rows, State

SMALLEST = 1e-15
"""Length below which squares of entries may vanish."""


def none(rows: Rows, *, state: State, key: Key) -> Protected:
    """Send rows as they were computed; nothing is promised.

    Args:
        rows: What clients computed.
        state: Unused.
        key: Unused.
    """
    return Protected(rows)


def clip(rows: Rows, *, state: State, key: Key, norm: float = 1.0) -> Protected:
    """Shorten every row that is longer than ``norm``; a bound, not yet privacy.

    No noise is added, so this promises nobody anything by itself: it bounds what one client
    can do to the sum, which is what noise would be measured against.

    Args:
        rows: What clients computed.
        state: Unused.
        key: Unused; clipping is deterministic.
        norm: See :func:`shortened`.

    Raises:
        ValueError: A bound that is not above 0.

    Source:
        Abadi et al. 2016, arXiv:1607.00133, section 3.1; McMahan et al. 2018,
        arXiv:1710.06963, section 2 (whole updates, as here).
    """
    return Protected(shortened(rows, norm))


def lengths_of(rows: Rows) -> Float[Tensor, "_"]:
    """Return the Euclidean length of every row."""
    found: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return found


def shortened(rows: Rows, norm: float, lengths: Float[Tensor, "_"] | None = None) -> Rows:
    """Shorten every row that is longer than ``norm``.

    Args:
        rows: One that holds NaN or infinity has no length and comes back as NaN.
        norm: Largest Euclidean length of a row, above 0; ``inf`` clips nothing.
        lengths: Those of ``rows``, where they are known: to take them is a third of the work.

    Raises:
        ValueError: A bound that is not above 0.
    """
    if not norm > 0:
        raise ValueError(f"privacy.norm must be above 0, got {norm}")
    lengths = (lengths_of(rows) if lengths is None else lengths).unsqueeze(1)
    if bool(((lengths > SMALLEST) & lengths.isfinite()).all()):
        factors = (norm / lengths).clamp_max(1.0)
        return rows if bool((factors == 1).all()) else rows * factors
    # Dividing by the largest entry first keeps squares of huge entries from overflowing.
    largest = rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    directions = rows / largest
    lengths = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    return torch.where(lengths * largest <= norm, rows, directions * (norm / lengths))
