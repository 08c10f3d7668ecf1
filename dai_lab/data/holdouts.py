"""What clients hold out of their own examples, to be judged by."""

from __future__ import annotations

import torch
from torch import Tensor

from dai_lab.core import Key, Shards
from dai_lab.data.partitions import Sizes, offsets, places


def split(shards: Shards, *, holdout: float, key: Key) -> tuple[Shards, Shards]:
    """Hold out a fraction of every client's own examples, to judge models on its own data.

    Args:
        shards: Who holds what.
        holdout: Fraction in 0 <= holdout < 1; each client holds out this share of its
            examples, rounded down, and 0 holds out nothing.
        key: Decides which.

    Returns:
        What is left to train on, and what is held out; both have as many clients.

    Raises:
        ValueError: ``holdout`` is out of range.
    """
    if not 0 <= holdout < 1:
        raise ValueError(f"federation.holdout must be at least 0 and below 1, got {holdout}")
    sizes = shards.sizes.cpu()
    owner = torch.arange(len(shards)).repeat_interleave(sizes)
    # 0.29 * 100 is a hair below 29 in floating point, and 29 is what was asked for.
    quota = (sizes.double() * holdout + 1e-9).long()
    held = places(owner, sizes, key) < quota[owner]
    held = held.to(shards.indices.device)
    return _only(shards, ~held, sizes - quota), _only(shards, held, quota)


def _only(shards: Shards, chosen: Tensor, sizes: Sizes) -> Shards:
    """Keep the chosen positions, of which each client has ``sizes``."""
    return Shards(shards.indices[chosen], offsets(sizes).to(shards.offsets.device))
