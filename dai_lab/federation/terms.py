"""In what terms promises about people are priced, and what is planted to put them to the test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dai_lab.core import Dataset, Key, Shards


@dataclass(frozen=True)
class Accounting:
    """In what terms promises are priced, and how much may be given away."""

    delta: float = 1e-5
    """Probability that a promise may fail with."""
    epsilon: float | None = None
    """The budget: the run ends before it gives away more."""
    by: str = "pld"
    """``pld``, ``prv`` or ``rdp``."""
    amplified: bool | None = None
    """Whether secret sampling makes promises stronger; ``None``: where it does."""
    claimed: float | None = None
    """A rate the accountant is told instead of the true one, for an audit to find out."""

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ValueError(f"accounting.delta must be in (0, 1), got {self.delta}")
        if self.epsilon is not None and not self.epsilon > 0:
            raise ValueError(f"accounting.epsilon must be above 0 or null, got {self.epsilon}")
        if self.claimed is not None and not 0 < self.claimed <= 1:
            raise ValueError(f"accounting.claimed must be in (0, 1] or null, got {self.claimed}")


@dataclass(frozen=True)
class Audit:
    """Canaries: planted clients and records, each there or not by a coin, that are looked for."""

    clients: int = 0
    records: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if min(self.clients, self.records) < 0:
            raise ValueError("audit.clients and audit.records must be 0 or more")
        if not 0 < self.confidence < 1:
            raise ValueError(f"audit.confidence must be in (0, 1), got {self.confidence}")


@dataclass(frozen=True)
class Canaries:
    """Training examples with wrong labels, half of which nobody holds."""

    examples: Int[Tensor, "canaries"]
    included: Bool[Tensor, "canaries"]


def plant(
    data: Dataset, shards: Shards, count: int, key: Key
) -> tuple[Dataset, Shards, Canaries | None]:
    """Give some training examples wrong labels, and take half of those from whoever holds them.

    Raises:
        ValueError: More than there are examples, or labels that cannot be wrong.
    """
    if not count:
        return data, shards, None
    if data.classes < 2 or count > len(shards.indices):
        raise ValueError(
            f"audit.records must be at most {len(shards.indices)} labeled examples, got {count}"
        )
    stream = key.stream()
    places = torch.randperm(len(shards.indices), generator=stream)[:count]
    included = torch.rand(count, generator=stream) < 0.5
    chosen = shards.indices[places]
    shift = torch.randint(1, data.classes, (count,), generator=stream)
    targets = data.train.targets.clone()
    at = chosen.to(targets.device)
    targets[at] = (targets[at] + shift.to(targets.device)) % data.classes
    out = set(places[~included].tolist())
    ends = shards.offsets.tolist()
    lists = [
        shards.indices[[place for place in range(first, last) if place not in out]]
        for first, last in pairwise(ends)
    ]
    train = replace(data.train, targets=targets)
    return replace(data, train=train), Shards.of(lists), Canaries(chosen, included)
