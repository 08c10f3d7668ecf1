"""A few entries of each row, the others zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dai_lab.compression.plain import finite, whole_bytes
from dai_lab.core import Key, Rows, Sent, State

SEED = 8
"""Bytes of a seed."""


def top_k(
    rows: Rows,
    *,
    clients: Sequence[int],
    state: State,
    shapes: Sequence[Sequence[int]],
    key: Key,
    share: float = 0.01,
) -> Sent:
    """Send each row's entries of largest magnitude; of equal ones, the first.

    Biased: what is small is never sent, unless ``error_feedback`` lets it add up.

    Args:
        rows: What clients mean to send; NaN counts as largest, beside infinity.
        clients: Unused.
        state: Unused.
        shapes: Unused; the largest are those of the whole row.
        key: Unused; nothing is drawn.
        share: Entries to send as a share of all, in (0, 1]; rounded, but at least one entry.

    Raises:
        ValueError: A share out of range.

    Source:
        Stich et al. 2018, arXiv:1809.07599, section 2 (top-k).
    """
    width = rows.shape[1]
    count = _count(share, width)
    sizes = rows.abs().nan_to_num_(nan=torch.inf, posinf=torch.inf)
    least = sizes.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    kept = sizes >= least
    # Entries that tie at zero are zero whether sent or not; other ties are rare.
    crowded = (kept.sum(dim=1) > count) & (least[:, 0] > 0)
    for row in crowded.nonzero().flatten().tolist():
        spare = kept[row].sum() - count
        equal = (sizes[row] == least[row]).nonzero().flatten()
        kept[row, equal[len(equal) - spare :]] = False
    position = (width - 1).bit_length()
    cost = count * rows.itemsize + whole_bytes(count * position)
    return Sent(torch.where(kept, rows, 0), cost * len(rows))


def random_k(
    rows: Rows,
    *,
    clients: Sequence[int],
    state: State,
    shapes: Sequence[Sequence[int]],
    key: Key,
    share: float = 0.1,
    unbiased: bool = True,
) -> Sent:
    """Send entries at positions both sides draw from one seed.

    Args:
        rows: What clients mean to send; of a row with NaN or infinity every entry that is sent
            is NaN, for the positions drawn may miss the ones that are not finite.
        clients: Who sends each row; everyone draws positions of its own.
        state: Unused.
        shapes: Unused.
        key: Where seeds are drawn.
        share: Entries to send as a share of all, in (0, 1]; rounded, but at least one entry.
        unbiased: Whether to multiply what is sent by ``d / k``, which makes it right on average;
            with ``error_feedback`` it must stay as it is, or the memory grows without end.

    Raises:
        ValueError: A share out of range.

    Source:
        Stich et al. 2018, arXiv:1809.07599, section 2 (rand-k); Konečný et al. 2016,
        arXiv:1610.05492, sections 2 and 3 (a seed sent instead of positions; unbiased scaling).
    """
    width = rows.shape[1]
    count = _count(share, width)
    drawn = torch.empty((len(rows), count), dtype=torch.long)
    for row, client in enumerate(clients):
        drawn[row] = torch.randperm(width, generator=(key / client).stream())[:count]
    drawn = drawn.to(rows.device)
    values = rows.gather(1, drawn) * (width / count if unbiased else 1.0)
    values[~finite(rows)] = torch.nan
    sent = torch.zeros_like(rows).scatter_(1, drawn, values)
    return Sent(sent, (count * rows.itemsize + SEED) * len(rows))


def _count(share: float, width: int) -> int:
    if not 0 < share <= 1:
        raise ValueError(f"compression.share must be above 0 and at most 1, got {share}")
    return max(1, round(share * width))
