"""What compression leaves out is not lost but late."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dai_lab.compression.plain import finite
from dai_lab.core import Compression, Key, Rows, Sent, State

RESIDUAL = "clients/residual"


def error_feedback(
    rows: Rows,
    *,
    clients: Sequence[int],
    state: State,
    shapes: Sequence[Sequence[int]],
    key: Key,
    then: Compression,
) -> Sent:
    """Let every client remember what was left out, and add it to what it sends next.

    A client keeps one residual as wide as its row, whatever the row holds. If what it means to
    send, or what arrives of it, is not finite, the residual stays what it was before that round.

    Args:
        rows: What clients mean to send, before what they still owe.
        clients: Who sends each row.
        state: Holds what each client owes, ``clients/residual``.
        shapes: Passed on.
        key: Passed on, as a stream of its own.
        then: How to compress; its error must be smaller than what it is given (``top_k``,
            ``sign``, ``power_sgd``, ``random_k`` with ``unbiased=false``), or residuals grow.

    Raises:
        ValueError: Error feedback of error feedback, which would remember everything twice.

    Source:
        Seide et al. 2014, Interspeech (1-bit SGD); Stich et al. 2018, arXiv:1809.07599,
        algorithm 1; Karimireddy et al. 2019, arXiv:1901.09847, algorithm 2.
    """
    owed = state.recall(RESIDUAL, clients, torch.zeros_like(rows[:1]))
    meant = rows + owed
    sent = then(meant, clients=clients, state=state, shapes=shapes, key=key / "then")
    if RESIDUAL in sent.learned:
        raise ValueError("compression.then is error_feedback already: one memory is enough")
    left = meant - sent.rows
    lost = ~finite(left)
    left[lost] = owed[lost]
    return Sent(sent.rows, sent.bytes, {**sent.learned, RESIDUAL: left})
