"""Every entry of a row, in a few bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dai_lab.compression.plain import finite, whole_bytes
from dai_lab.core import Key, Rows, Sent, State

FINEST = 2**20
"""Levels up to which float32 still tells eighths of a level apart."""


def qsgd(
    rows: Rows,
    *,
    clients: Sequence[int],
    state: State,
    shapes: Sequence[Sequence[int]],
    key: Key,
    levels: int = 127,
) -> Sent:
    """Round each entry to a multiple of the row's norm over ``levels``, up or down by chance.

    Right on average, so it needs no ``error_feedback``. The squared error of a row is on average
    at most ``min(d / levels**2, sqrt(d) / levels)`` times its squared norm. A row is one bucket.

    Args:
        rows: What clients mean to send; one with NaN, infinity, or a norm beyond float32 arrives
            as NaN.
        clients: Who sends each row; everyone draws chances of its own.
        state: Unused.
        shapes: Unused; the norm is that of the whole row.
        key: Where the chances are drawn.
        levels: Steps from 0 to the norm, in 1..1048576; 127 fills 8 bits an entry.

    Raises:
        ValueError: Levels out of range.

    Source:
        Alistarh et al. 2017, arXiv:1610.02132, section 3.1 and lemma 3.1; levels are sent with a
        fixed number of bits each, not in the paper's Elias code.
    """
    if not 1 <= levels <= FINEST:
        raise ValueError(f"compression.levels must be in 1..{FINEST}, got {levels}")
    chances = torch.empty(rows.shape, dtype=rows.dtype)
    for row, client in enumerate(clients):
        torch.rand(rows.shape[1], generator=(key / client).stream(), out=chances[row])
    # In float64 squares neither overflow nor vanish, and no entry comes out above the norm.
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    norms = norms.to(rows.dtype)
    # Of a row of zeros, or one that is not finite, every entry is at level 0 of its norm.
    places = rows.abs().div_(norms).nan_to_num_(nan=0.0).mul_(levels)
    steps = places.floor()
    steps += chances.to(rows.device) < places.sub_(steps)
    sent = steps.copysign_(rows).mul_(norms / levels)
    bits = (2 * levels).bit_length()
    cost = rows.itemsize + whole_bytes(rows.shape[1] * bits)
    return Sent(sent, cost * len(rows))


def sign(
    rows: Rows,
    *,
    clients: Sequence[int],
    state: State,
    shapes: Sequence[Sequence[int]],
    key: Key,
    scaled: bool = True,
) -> Sent:
    """Send each entry's sign, and with it the row's mean magnitude.

    Biased: small entries arrive too large and large ones too small, unless ``error_feedback``
    makes up for it.

    Args:
        rows: What clients mean to send; 0 is sent as positive, as a bit has no middle. One with
            NaN or infinity arrives as NaN or infinities.
        clients: Unused.
        state: Unused.
        shapes: Unused; the mean is that of the whole row.
        key: Unused; nothing is drawn.
        scaled: Whether to send the mean magnitude, ``L1 norm / d``; without it rows arrive as
            1 and -1, for ``aggregator=majority_vote`` and a small ``server.rate``.

    Source:
        Karimireddy et al. 2019, arXiv:1901.09847, algorithm 1 (scaled, with feedback); Bernstein
        et al. 2018, arXiv:1802.04434, algorithm 1 (unscaled).
    """
    width = rows.shape[1]
    if scaled:
        # In float64 the sum of finite magnitudes cannot overflow.
        scale = rows.abs().mean(dim=1, keepdim=True, dtype=torch.float64).to(rows.dtype)
        cost = whole_bytes(width) + rows.itemsize
    else:
        scale = torch.where(finite(rows), 1.0, torch.nan).to(rows.dtype).unsqueeze(1)
        cost = whole_bytes(width + 1)
    return Sent(torch.where(rows >= 0, scale, -scale), cost * len(rows))
