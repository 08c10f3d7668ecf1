"""Data that nobody poisons."""

from __future__ import annotations

from dai_lab.core import Examples, Plot, Poisoned


def unpoisoned(held: Examples, plot: Plot) -> Poisoned:
    """Train on what is held.

    Args:
        held: Examples, kept as they are.
        plot: Unused.
    """
    return Poisoned(held)
