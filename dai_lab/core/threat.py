"""What hostile clients know, what they send, and what they train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Int
from torch import Tensor

from dai_lab.core.data import Examples
from dai_lab.core.keys import Key
from dai_lab.core.model import Model, Rows, Vector
from dai_lab.core.round import Compute, Record, State


@runtime_checkable
class Retrain(Protocol):
    """Local training of the hostile clients of a round, as often as they like."""

    def __call__(
        self,
        start: Vector | Rows | None = None,
        *,
        clean: bool = False,
        stage: int = 0,
        **knobs: float | int,
    ) -> Rows:
        """Return one row a hostile client: how far it moves from ``start``.

        ``start`` is the common model unless given, ``clean`` trains on what they hold before they
        poisoned it, every ``stage`` draws its batches anew, and ``knobs`` are those of the local
        training, such as ``epochs=1``.
        """


@dataclass(frozen=True)
class Outcome:
    """What the server would make of a round in which the hostile send certain rows."""

    update: Vector
    kept: Bool[Tensor, "_"]
    """Which of their rows would have a share in it, alone or in a group."""


@dataclass(frozen=True)
class Sight:
    """What hostile clients know in a round; what their threat model hides is not in it."""

    honest: Rows
    """Rows the others send: all, or their mean as the only row, or, where they hear nothing, the
    rows the hostile would send themselves, which are all they can judge the others by."""
    key: Key = field(default_factory=lambda: Key(0))
    clients: tuple[int, ...] = ()
    """Who sends each of ``honest``; nobody in particular where they know only a mean."""
    others: int = 0
    """How many rows the honest send, known or not; 0: as many as ``honest``."""
    round: int = 1
    state: State | None = None
    """The model everybody was given, and what the attack remembers as ``attack/...``."""
    model: Model | None = None
    train: Retrain | None = None
    clean: Callable[[], Rows] | None = None
    """What the hostile would send had they not poisoned their data; ``None`` if they did not."""
    defense: Callable[[Rows], Outcome] | None = None
    """Runs the whole defense on what the hostile would send; only for who knows it. What the
    server draws is drawn anew, and its own examples are replaced by theirs."""
    compute: Compute = field(default_factory=Compute)

    @property
    def good(self) -> int:
        """Number of honest rows."""
        return self.others or len(self.honest)


@dataclass(frozen=True)
class Lies:
    """What hostile clients send."""

    rows: Rows
    """One for each of theirs."""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """What they need to remember, named ``attack/what``."""
    record: Record = field(default_factory=dict)
    """Further numbers for the round's record."""
    quiet: bool = False
    """Whether they mean to behave in this round."""


@dataclass(frozen=True)
class Plot:
    """What hostile clients know when they change the examples they hold."""

    key: Key
    classes: int
    owners: Int[Tensor, "examples"] | None = None
    """Which of the hostile holds each example, from 0; ``None`` where they show the finished
    model what they want it to get wrong."""
    victims: Examples | None = None
    """Examples they want misjudged, which they do not train on: the common test set."""
    model: Model | None = None
    params: Vector | None = None
    """The common model at the time."""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """What they remember of the last time, named ``poison/what``."""
    compute: Compute = field(default_factory=Compute)


@dataclass(frozen=True)
class Poisoned:
    """Examples as hostile clients changed them."""

    examples: Examples
    """As many as came in, in their order."""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
