"""Examples, and who holds which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Card:
    """Where a data set comes from and what may be done with it."""

    name: str
    source: str
    license: str
    sha256: str
    note: str = ""


@dataclass(frozen=True)
class Examples:
    """Inputs, what they should be mapped to, and who or what they are about."""

    inputs: Float[Tensor, "examples ..."]
    targets: Int[Tensor, "examples"] | Float[Tensor, "examples"]
    attributes: Mapping[str, Int[Tensor, "examples"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = {"targets": self.targets, **self.attributes}
        for name, column in columns.items():
            if len(column) != len(self.inputs):
                raise ValueError(
                    f"data: {name} has {len(column)} entries for {len(self.inputs)} inputs"
                )
        if not bool(torch.isfinite(self.inputs).all()):
            bad = (~torch.isfinite(self.inputs).reshape(len(self), -1).all(1)).sum()
            raise ValueError(f"data: {int(bad)} of {len(self)} inputs hold NaN or infinity")

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device | str) -> Examples:
        """Move everything to ``device``; nothing is copied if it is there already."""
        moved = {name: column.to(device) for name, column in self.attributes.items()}
        return Examples(self.inputs.to(device), self.targets.to(device), moved)

    def some(self, which: Int[Tensor, "_"]) -> Examples:
        """Copy the examples at these places, in this order."""
        columns = {name: column[which] for name, column in self.attributes.items()}
        return Examples(self.inputs[which], self.targets[which], columns)

    def followed_by(self, others: Examples) -> Examples:
        """Append examples about which as much is known."""
        columns = {
            name: torch.cat([column, others.attributes[name]])
            for name, column in self.attributes.items()
        }
        inputs, targets = (self.inputs, others.inputs), (self.targets, others.targets)
        return Examples(torch.cat(inputs), torch.cat(targets), columns)


@dataclass(frozen=True)
class Dataset:
    """Examples to learn from and to be judged by; ``classes=0`` means regression."""

    train: Examples
    test: Examples
    classes: int
    card: Card
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Readable names of classes (``"classes"``) and of each attribute's values."""

    def __post_init__(self) -> None:
        for part in (self.train, self.test) if self.classes else ():
            if (
                len(part)
                and not 0 <= int(part.targets.min()) <= int(part.targets.max()) < self.classes
            ):
                raise ValueError(f"data: targets must be in 0..{self.classes - 1}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, batch dimension left out."""
        return tuple(self.train.inputs.shape[1:])

    def to(self, device: torch.device | str) -> Dataset:
        """Move everything to ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


@dataclass(frozen=True)
class Shards:
    """Who holds which examples: client ``i`` holds ``shards[i]``; nothing is copied."""

    indices: Int[Tensor, "examples"]
    offsets: Int[Tensor, "clients_plus_one"]

    def __post_init__(self) -> None:
        starts_right = len(self.offsets) > 0 and int(self.offsets[0]) == 0
        if not starts_right or int(self.offsets[-1]) != len(self.indices):
            raise ValueError("shards: offsets must run from 0 to the number of indices")

    @classmethod
    def of(cls, lists: Sequence[Tensor]) -> Shards:
        """Build from one index list per client."""
        sizes = torch.tensor([0, *(len(one) for one in lists)])
        indices = torch.cat([torch.zeros(0, dtype=torch.long), *lists])
        return cls(indices, sizes.cumsum(0))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, client: int) -> Int[Tensor, "held"]:
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} of {len(self)}")
        return self.indices[self._bounds[client] : self._bounds[client + 1]]

    @cached_property
    def _bounds(self) -> list[int]:
        found: list[int] = self.offsets.tolist()
        return found

    @property
    def sizes(self) -> Int[Tensor, "clients"]:
        """Examples held by each client."""
        return self.offsets.diff()


@dataclass(frozen=True)
class Partition:
    """A data set dealt to clients; a feature skew may have changed its inputs."""

    data: Dataset
    shards: Shards
