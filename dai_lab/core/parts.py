"""What a part must take and return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from dai_lab.core.data import Dataset, Examples, Partition
from dai_lab.core.fairness import Decide, Evidence
from dai_lab.core.keys import Key
from dai_lab.core.model import Rows, Vector
from dai_lab.core.privacy import Encoding, Protected
from dai_lab.core.round import (
    Aggregate,
    Arrivals,
    Compute,
    Context,
    Profiles,
    Record,
    Sent,
    State,
    Task,
    Trace,
    Updates,
    Visible,
)
from dai_lab.core.threat import Lies, Plot, Poisoned, Sight


@runtime_checkable
class Partitioner(Protocol):
    """From a data set to who holds what."""

    def __call__(self, data: Dataset, *, clients: int, key: Key) -> Partition:
        """Deal ``data.train`` to ``clients`` clients; every example goes to at most one."""


@runtime_checkable
class Cohort(Protocol):
    """From all registered clients to those who take part in a round."""

    def __call__(self, sizes: Int[Tensor, "clients"], *, now: float, key: Key) -> tuple[int, ...]:
        """Return distinct client numbers in ascending order.

        ``sizes`` are the examples every registered client holds, ``now`` simulated seconds.
        """


@runtime_checkable
class LocalTraining(Protocol):
    """From a state to one row per client of the cohort."""

    def __call__(
        self,
        task: Task,
        state: State,
        start: Vector | Rows,
        cohort: Sequence[int],
        *,
        key: Key,
        round: int,
        compute: Compute,
    ) -> Updates:
        """Train every client of the cohort from ``start`` (shared, or a row for each)."""


@runtime_checkable
class Privacy(Protocol):
    """From the rows honest clients computed to those they send, and what is promised of them."""

    def __call__(self, rows: Rows, *, state: State, key: Key) -> Protected:
        """Return as many rows as came in.

        Called apart for honest and hostile clients of a round; what is promised depends on
        ``state`` and knobs alone, never on ``rows``.
        """


@runtime_checkable
class Attack(Protocol):
    """From what hostile clients know to what they send."""

    def __call__(self, own: Rows, sight: Sight) -> Lies:
        """Return a row for each of ``own``, the rows the hostile have computed."""


@runtime_checkable
class Poison(Protocol):
    """From the examples hostile clients hold to those they train on."""

    def __call__(self, held: Examples, plot: Plot) -> Poisoned:
        """Return as many examples as came in, in their order; leave ``held`` as it is.

        Called once with what all of the hostile hold, and once with the test set, to show what
        the finished model should get wrong: examples that come back changed are counted by how
        many of them are answered as the attacker wants.
        """


@runtime_checkable
class SecureAggregation(Protocol):
    """From the rows clients send to what the server may see."""

    def __call__(
        self,
        sent: Rows,
        weights: Float[Tensor, "_"],
        *,
        clients: tuple[int, ...],
        key: Key,
        rehearsal: bool = False,
        encoding: Encoding | None = None,
    ) -> Visible:
        """Return at least one row; in a rehearsal the same one, by any shorter way there is.

        With an ``encoding`` a row of the result is the mean, over its members, of what
        ``decode`` makes of their sum modulo ``2 ** bits``.
        """


@runtime_checkable
class Aggregator(Protocol):
    """From the visible rows to one update."""

    def __call__(self, visible: Visible, context: Context) -> Aggregate:
        """Return the update the server will apply, and a verdict on every visible row."""


@runtime_checkable
class Ledger(Protocol):
    """From what happens in a round to what nobody can deny afterwards."""

    def sent(
        self, round: int, clients: Sequence[int], rows: Rows, weights: Float[Tensor, "_"]
    ) -> None:
        """Take what clients send, before anything of it is revealed."""

    def revealed(
        self, round: int, clients: Sequence[int], visible: Visible, found: Aggregate
    ) -> None:
        """Take what the server saw of it, and what it made of that."""


@runtime_checkable
class Server(Protocol):
    """From a state and an update to the next state."""

    def __call__(self, state: State, update: Vector) -> State:
        """Return the next state; leave ``state`` as it is."""


@runtime_checkable
class Decision(Protocol):
    """From a model's scores to what people are answered."""

    def __call__(self, ask: Callable[[], Evidence], *, key: Key) -> Decide | None:
        """Return how to decide; ``None`` gives everybody the class with the highest score.

        ``ask`` has clients score what they trained on, which costs a pass over their data.
        """


@runtime_checkable
class Watcher(Protocol):
    """From a finished round to numbers about it."""

    def __call__(self, trace: Trace) -> Record:
        """Return entries to add to the round's record."""


@runtime_checkable
class Tracker(Protocol):
    """Somewhere results go, one record at a time."""

    def __call__(self, record: Record) -> None:
        """Take one record."""


@runtime_checkable
class Training(Protocol):
    """Local training bound to its task, wherever it runs."""

    def __call__(
        self,
        state: State,
        start: Vector | Rows,
        cohort: Sequence[int],
        *,
        key: Key,
        round: int,
    ) -> Updates:
        """Return one row per client, in the cohort's order."""


@runtime_checkable
class Engine(Protocol):
    """From local training to where it runs; what it holds is let go at the end of the context."""

    def __call__(
        self, local: LocalTraining, task: Task, *, compute: Compute
    ) -> AbstractContextManager[Training]:
        """Open whatever clients will run on."""


@runtime_checkable
class Personal(Protocol):
    """From what the federation learned to a model of each client's own."""

    def __call__(
        self,
        task: Task,
        state: State,
        clients: Sequence[int],
        *,
        key: Key,
        compute: Compute,
    ) -> Rows | None:
        """Return parameters, one client a row; ``None`` where all use the common model."""


@runtime_checkable
class Devices(Protocol):
    """From registered clients to what their devices can do."""

    def __call__(self, clients: int, *, key: Key) -> Profiles | None:
        """Return a profile of every client; ``None`` where time is not simulated."""


@runtime_checkable
class Pace(Protocol):
    """From the times at which clients would answer to those the server waits for."""

    def __call__(
        self,
        finish: Float[Tensor, "_"],
        staleness: Int[Tensor, "_"],
        *,
        key: Key,
    ) -> Arrivals:
        """Choose among clients that answer ``finish`` seconds from now.

        ``staleness`` counts the server's steps since each of them was given its model.
        """


@runtime_checkable
class Compression(Protocol):
    """From the rows clients mean to send to what arrives of them."""

    def __call__(
        self,
        rows: Rows,
        *,
        clients: Sequence[int],
        state: State,
        shapes: Sequence[Sequence[int]],
        key: Key,
    ) -> Sent:
        """Return as many rows as came in.

        ``shapes`` are those of the parameters, in order; a row may hold more than them.
        """
