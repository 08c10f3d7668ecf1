"""Whom the server waits for."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dai_lab.core import Arrivals, Key


def everyone(finish: Float[Tensor, "_"], staleness: Int[Tensor, "_"], *, key: Key) -> Arrivals:
    """Wait for the last client of the cohort.

    Args:
        finish: Seconds from now at which each client would answer.
        staleness: Unused; nobody is stale.
        key: Unused; nothing is drawn.
    """
    taken = torch.ones(len(finish), dtype=torch.bool)
    until = float(finish.max()) if len(finish) else 0.0
    return Arrivals(taken, torch.ones(len(finish)), until)
