"""What clients and server agree on before the first byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.uint32] | NDArray[np.uint64]
"""Entries below ``2 ** modulus``, as words of 32 bits where those hold it, else of 64."""


@dataclass(frozen=True)
class Terms:
    """One session: one sum, whoever takes part.

    Raises:
        ValueError: A number out of range.
    """

    place: bytes
    """Names the session before there are keys, such as by run and round; never used twice."""
    width: int
    """Entries of the vectors."""
    modulus: int
    """Bits of each entry, 1 to 64: the sum must be below ``2 ** modulus``."""
    threshold: int
    """Clients of a neighborhood (each client's neighbors and itself) that must stay to the end."""
    corrupt: int = 0
    """Members of a neighborhood that may help the server without anybody learning a secret."""
    active: bool = False
    """Whether the server may tell clients different things: they sign who survived."""

    def __post_init__(self) -> None:
        if not 1 <= self.modulus <= 64:
            raise ValueError(f"terms: modulus must be 1 to 64 bits, got {self.modulus}")
        if self.width < 1 or self.threshold < 1 or self.corrupt < 0:
            raise ValueError("terms: width and threshold must be 1 or more, and corrupt 0 or more")

    @property
    def words(self) -> type[np.uint32] | type[np.uint64]:
        """The type that sums and masks are computed in."""
        return np.uint32 if self.modulus <= 32 else np.uint64

    def zeros(self) -> Vector:
        """Return a sum of nothing."""
        return cast(Vector, np.zeros(self.width, self.words))

    def reduced(self, vector: Vector) -> Vector:
        """Return the vector modulo ``2 ** modulus``; words are already a multiple of it."""
        if self.modulus in (32, 64):
            return vector
        return cast(Vector, vector & self.words((1 << self.modulus) - 1))

    def least(self, size: int) -> int:
        """Return the lowest safe threshold in a neighborhood of ``size``, the client included.

        Corrupt members give the server all their shares, the others one each. So the corrupt alone
        must not reach the threshold; nor, where a server may tell half of a neighborhood that a
        client survived and the rest that it did not, everybody together with both secrets.

        Source:
            Bell et al. 2020, ePrint 2020/704, sections 3.3 and 4.3; with a third corrupt, the two
            thirds of Bonawitz et al. 2017, ePrint 2017/281, theorem 6.5.
        """
        if self.active:
            return (size + self.corrupt) // 2 + 1
        return min(max(2, self.corrupt + 1), size) if self.corrupt < size else size + 1
