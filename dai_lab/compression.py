"""What arrives of rows that were compressed on their way."""

from __future__ import annotations

from collections.abc import Sequence

from dai_lab.core import Key, Rows, Sent, State


def dense(
    rows: Rows,
    *,
    clients: Sequence[int],
    state: State,
    shapes: Sequence[Sequence[int]],
    key: Key,
) -> Sent:
    """Send every number as it is.

    Args:
        rows: What clients mean to send.
        clients: Unused.
        state: Unused.
        shapes: Unused.
        key: Unused.
    """
    return Sent(rows, rows.nbytes)
