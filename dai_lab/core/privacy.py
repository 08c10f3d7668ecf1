"""What is released about people, and what stands between them and it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from dai_lab.core.keys import Key
from dai_lab.core.model import Rows, Vector

Words: TypeAlias = NDArray[np.uint32] | NDArray[np.uint64]
"""Whole numbers from 0."""

MECHANISMS = ("gaussian", "laplace", "pure", "zcdp", "skellam", "open")
UNITS = ("client", "record")


@dataclass(frozen=True)
class Event:
    """One release about one client or one record, as an accountant prices it.

    What the numbers are, by ``mechanism``; neighbors differ by one unit that is there or not:

    - ``gaussian``: the noise's standard deviation over the L2 sensitivity;
    - ``laplace``: its scale over the L1 sensitivity;
    - ``pure``: epsilon;
    - ``zcdp``: rho of zero-concentrated privacy;
    - ``skellam``: the noise's variance, the squared L2 and the L1 sensitivity, on whole numbers;
    - ``open``: nothing; whatever there was to know is known.
    """

    mechanism: str
    numbers: tuple[float, ...] = ()
    rate: float = 1.0
    """Probability, by a coin of its own that nobody sees, that a unit takes part at all."""
    unit: str = "client"
    times: int = 1
    """How often this happens within a round."""

    def __post_init__(self) -> None:
        if self.mechanism not in MECHANISMS or self.unit not in UNITS:
            raise ValueError(f"event: no {self.mechanism} of a {self.unit}")
        if not 0 < self.rate <= 1 or any(math.isnan(one) for one in self.numbers):
            raise ValueError(f"event: rate {self.rate}, numbers {self.numbers}")


@dataclass(frozen=True)
class Encoding:
    """How rows become whole numbers that a secure sum adds, modulo ``2 ** bits``."""

    bits: int
    width: int
    """Whole numbers that stand for a row."""
    encode: Callable[[NDArray[np.floating], Key], Words]
    """From one row ``[params]`` to ``[width]`` numbers below ``2 ** bits``, with the client's own
    share of the noise in them."""
    decode: Callable[[Words, int], NDArray[np.float64]]
    """From the sum modulo ``2 ** bits`` and how many rows are in it to the sum of rows
    ``[params]``."""
    events: Callable[[int], tuple[Event, ...]]
    """What is released when so many clients stayed, each with its share of the noise."""


@dataclass(frozen=True)
class Noise:
    """What a server adds to a sum of rows."""

    vector: Vector
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """What it needs to remember, named ``privacy/what``."""


@dataclass(frozen=True)
class Protected:
    """Rows as honest clients send them, and what is promised about them."""

    rows: Rows
    bound: float = math.inf
    """Longest row an honest client sends; infinite where nothing is promised."""
    local: tuple[Event, ...] = ()
    """What a client's row gives away to whoever sees it alone."""
    central: tuple[Event, ...] = ()
    """What the sum gives away once ``noise`` is in it."""
    each: bool = False
    """Whether the server adds noise to the sum behind every row it sees, instead of to the sum of
    all."""
    noise: Callable[[int, Key], Noise] | None = None
    """Draws what the server adds to a sum of rows of so many numbers."""
    encoding: Encoding | None = None
    """How rows are noised and summed where the server must not see the sum without noise."""
    votes: Float[Tensor, "_"] | None = None
    """A number of each client's own, of which the server learns a noisy sum."""
    learn: Callable[[float, float, Key], Mapping[str, Tensor]] | None = None
    """From the sum of votes and their number to what the server remembers, noise and all."""
