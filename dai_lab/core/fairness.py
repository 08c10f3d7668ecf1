"""Whom a model may treat differently without a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dai_lab.core.data import Dataset, Examples


@dataclass(frozen=True)
class Sensitive:
    """What divides people into groups, and which answer they hope for.

    A group is one value of an attribute, or, of several attributes, one value of each. What an
    example is of (``class``) counts as an attribute too.
    """

    attributes: tuple[str, ...]
    sizes: tuple[int, ...]
    """How many values each attribute has."""
    favorable: int = 1
    """Class that people hope to be given."""
    minimum: int = 30
    """Examples below which a group is too small for its rate to say anything."""
    penalty: float = 0.0
    """What a step of training is charged for a gap within its batch; 0 is no regularizer."""
    penalizes: str = "odds"
    """Gaps in the mean score of ``odds`` (within each class), of ``opportunity`` (within the
    favorable class) or of ``parity`` (in all)."""

    def __post_init__(self) -> None:
        if not self.penalty >= 0:
            raise ValueError(f"fairness.penalty must be 0 or more, got {self.penalty}")
        if self.penalizes not in ("odds", "opportunity", "parity"):
            raise ValueError(
                f"fairness.penalizes must be odds, opportunity or parity, got {self.penalizes!r}"
            )
        if self.minimum < 1:
            raise ValueError(f"fairness.minimum must be at least 1, got {self.minimum}")

    @classmethod
    def in_data(
        cls, data: Dataset, attribute: str, favorable: int = 1, **knobs: object
    ) -> Sensitive:
        """Find the groups of a data set, such as by ``sex`` or by ``sex+race``.

        Raises:
            ValueError: The data know no such attribute, or have no such class.
        """
        words = tuple(word.strip() for word in attribute.split("+"))
        known = sorted({*data.train.attributes, "class"})
        if strange := [word for word in words if word not in known]:
            has = f"one of {', '.join(known)}, or several joined by +"
            raise ValueError(f"fairness.attribute must be {has}, got {strange[0]!r}")
        if not data.classes:
            raise ValueError(f"fairness.attribute needs classes, and {data.card.name} has none")
        if not 0 <= favorable < data.classes:
            raise ValueError(
                f"fairness.favorable must be a class in 0..{data.classes - 1}, got {favorable}"
            )
        parts = [one for one in (data.train, data.test) if len(one)]
        sizes = tuple(1 + max(int(column(one, word).max()) for one in parts) for word in words)
        return cls(words, sizes, favorable, **knobs)  # type: ignore[arg-type]

    @property
    def count(self) -> int:
        """Number of groups, whether or not somebody is in each."""
        return prod(self.sizes)

    def of(self, examples: Examples, which: Int[Tensor, "_"] | None = None) -> Int[Tensor, "_"]:
        """Say which group each example is in, from 0; the first attribute changes slowest.

        Args:
            examples: With these attributes.
            which: Places of the examples to ask about; all unless given.
        """
        groups: Tensor | None = None
        for word, size in zip(self.attributes, self.sizes, strict=True):
            known = column(examples, word)
            known = known.long() if which is None else known[which].long()
            groups = known if groups is None else groups * size + known
        assert groups is not None
        return groups

    def names(self, data: Dataset) -> tuple[str, ...]:
        """Name every group in the data's own words."""
        names = [""]
        for word, size in zip(self.attributes, self.sizes, strict=True):
            named = list(data.names.get("classes" if word == "class" else word) or [])[:size]
            known = [*named, *(f"{word} {value}" for value in range(len(named), size))]
            names = [f"{one}, {value}" if one else str(value) for one in names for value in known]
        return tuple(names)


def column(examples: Examples, word: str) -> Int[Tensor, "examples"]:
    """Return an attribute of examples, or what they are of."""
    known = examples.attributes.get(word)
    return examples.targets if known is None else known


@dataclass(frozen=True)
class Evidence:
    """What clients know of a model from the examples they trained it on, client after client."""

    scores: Float[Tensor, "examples"]
    """Probability of the favorable class, in 0..1; NaN counts for nothing."""
    favorable: Bool[Tensor, "examples"]
    """Whether that is the truth."""
    groups: Int[Tensor, "examples"]
    count: int
    """Number of groups."""
    sizes: Int[Tensor, "clients"]
    """How many of these examples each client holds."""
    reveal: Callable[[Float[Tensor, "clients cells"]], Float[Tensor, "cells"]]
    """Sums one row of counts a client as the federation does it, such as behind a secure sum."""


Decide: TypeAlias = Callable[
    [Float[Tensor, "people"], Int[Tensor, "people"]], Bool[Tensor, "people"]
]
"""From scores and groups to who is given the favorable answer."""
