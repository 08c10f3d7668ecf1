"""What clients' devices can do."""

from __future__ import annotations

from dai_lab.core import Key


def untimed(clients: int, *, key: Key) -> None:
    """Simulate no time: nobody is slow, nobody fails.

    Args:
        clients: Registered clients.
        key: Unused; nothing is drawn.
    """
