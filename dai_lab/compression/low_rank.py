"""The matrices of a row as products of thin ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from dai_lab.compression.plain import finite
from dai_lab.core import Key, Rows, Sent, State


def power_sgd(
    rows: Rows,
    *,
    clients: Sequence[int],
    state: State,
    shapes: Sequence[Sequence[int]],
    key: Key,
    rank: int = 2,
) -> Sent:
    """Send every matrix as a product of rank ``rank``, found by one step of power iteration.

    A tensor of two or more dimensions is a matrix, its first dimension by all others; vectors,
    and whatever a row holds beside whole parameters, are sent as they are. The step starts from
    where the client's last one ended, so a matrix that changes little is approximated ever
    better, toward the best of its rank.

    The paper's workers average their factors, so that all hold one approximation of the mean
    gradient and one start. Here each client's row is approximated by itself, for the server to
    see it by itself: the mean of ``c`` rows may have rank ``c * rank``, and each client remembers
    a start of its own, as old as its last round. Biased: wrap it in ``error_feedback``.

    Args:
        rows: What clients mean to send; where one holds a NaN or an infinity, all its matrices
            arrive as NaN, and its client's start stays what it was.
        clients: Who sends each row.
        state: Holds the factors each client starts from, ``clients/factors``.
        shapes: Of the parameters, in order.
        key: Where a client's first start is drawn.
        rank: Columns of both factors, 1 or more; a matrix's shorter side is enough for all of it.

    Raises:
        ValueError: A rank out of range.

    Source:
        Vogels et al. 2019, arXiv:1905.13727, algorithm 1; the orthogonal factor stands on the
        matrix's shorter side, so that full rank is exact from any start.
    """
    if rank < 1:
        raise ValueError(f"compression.rank must be at least 1, got {rank}")
    matrices = list(_matrices(shapes, rows.shape[1]))
    lengths = [max(m, n) * min(rank, m, n) for _, m, n in matrices]
    drawn = rows.new_empty((len(rows), sum(lengths)))
    for row, client in enumerate(clients):
        drawn[row] = torch.randn(sum(lengths), generator=(key / client).stream(), dtype=rows.dtype)
    starts = state.recall("clients/factors", clients, drawn)
    lost = ~finite(rows)[:, None, None]
    sent, ends = rows.clone(), []
    numbers = rows.shape[1]
    for (at, m, n), start in zip(matrices, starts.split(lengths, dim=1), strict=True):
        there = slice(at, at + m * n)
        # Zeros teach nothing; what a factorization makes of NaN is anyone's guess.
        matrix = rows[:, there].unflatten(1, (m, n)).masked_fill(lost, 0.0)
        short = matrix if m <= n else matrix.mT
        start = start.unflatten(1, (max(m, n), -1))
        basis = torch.linalg.qr(short @ start).Q
        factor = short.mT @ basis
        product = basis @ factor.mT
        product = (product if m <= n else product.mT).masked_fill(lost, torch.nan)
        sent[:, there] = product.flatten(1)
        # Starts of about length 1 keep what they are multiplied with in range.
        size = factor.abs().amax(dim=(1, 2), keepdim=True)
        learned = torch.where((size > 0) & size.isfinite(), factor / size, start)
        ends.append(learned.flatten(1))
        numbers += min(rank, m, n) * (m + n) - m * n
    memory = {"clients/factors": torch.cat(ends, dim=1)} if ends else {}
    return Sent(sent, numbers * rows.itemsize * len(rows), memory)


def _matrices(shapes: Sequence[Sequence[int]], width: int) -> Iterator[tuple[int, int, int]]:
    """Give where each matrix begins in a row, and its sides; a row may end before the model."""
    at = 0
    for shape in shapes:
        size = math.prod(shape)
        if at + size > width:
            return
        if len(shape) > 1:
            yield at, shape[0], size // shape[0]
        at += size
