"""A model of each client's own, from what the federation learned together."""

from __future__ import annotations

from collections.abc import Sequence

from dai_lab.core import Compute, Key, State, Task


def common(task: Task, state: State, clients: Sequence[int], *, key: Key, compute: Compute) -> None:
    """Give every client the common model.

    Args:
        task: Unused.
        state: Unused.
        clients: Unused.
        key: Unused.
        compute: Unused.
    """
