"""Runs in step: the clients of several runs train in one batch, as if they were one cohort.

A small network leaves a GPU idle between one launch and the next, however many clients of a run go
side by side. Runs that differ in nothing that training needs, such as seeds, can share the launch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor

from dai_lab.core import (
    Compute,
    Examples,
    Key,
    LocalTraining,
    Rows,
    Shards,
    State,
    Task,
    Training,
    Updates,
    Vector,
)


@dataclass
class Call:
    """A run's cohort that is about to train."""

    task: Task
    state: State
    start: Vector | Rows
    cohort: tuple[int, ...]
    key: Key
    round: int
    found: Updates | None = None
    alone: bool = False
    """Nobody is in the same round with the same data, or together something was wrong."""


class Abreast:
    """A rendezvous for runs that differ in nothing that training needs, each in a thread.

    Every run waits until all that have not ended want to train; whoever comes last trains those
    that are in the same round and hold the same data. Rows are those of training alone, up to
    the rounding of larger batches.
    """

    def __init__(self, runs: int) -> None:
        self._left = runs
        self._turn = threading.Condition()
        self._waiting: list[Call] = []
        self._data: list[Examples] = []
        self._local: Callable[..., Updates] | None = None

    @contextmanager
    def engine(self, local: LocalTraining, task: Task, *, compute: Compute) -> Iterator[Training]:
        """Train a run's cohorts with those of the others.

        Args:
            local: What clients do: ``sgd`` or ``distributed_sgd`` with the same knobs in all runs,
                which ask for nothing but examples, a start, and what clients remember.
            task: What they learn, and who holds which examples.
            compute: Where and how gradients are computed.
        """
        with self._turn:  # what holds the same is the same data set, known by its place
            data = next((one for one in self._data if _equal(one, task.data)), task.data)
            self._data.append(data)
        try:
            yield partial(self._train, local, replace(task, data=data), compute)
        finally:
            with self._turn:
                del self._data[next(at for at, one in enumerate(self._data) if one is data)]

    def leave(self) -> None:
        """Say that a run has ended, however it did, so that nobody waits for it."""
        with self._turn:
            self._left -= 1
            self._play()

    def _train(
        self,
        local: LocalTraining,
        task: Task,
        compute: Compute,
        state: State,
        start: Vector | Rows,
        cohort: Sequence[int],
        *,
        key: Key,
        round: int,
    ) -> Updates:
        call = Call(task, state, start, tuple(cohort), key, round)
        with self._turn:
            self._waiting.append(call)
            self._local = partial(local, compute=compute)
            self._play()
            while call.found is None and not call.alone:
                self._turn.wait()
        if call.found is None:
            return local(task, state, start, cohort, key=key, round=round, compute=compute)
        return call.found

    def _play(self) -> None:
        """Train all who wait, if everybody does."""
        if self._local is None or not self._waiting or len(self._waiting) < self._left:
            return
        calls, self._waiting = self._waiting, []
        for _, group in groupby(sorted(calls, key=_alike), key=_alike):
            some = list(group)
            if len(some) == 1 or not _at_once(self._local, some):
                for one in some:
                    one.alone = True
        self._turn.notify_all()


def _alike(call: Call) -> tuple[int, int]:
    return call.round, id(call.task.data)


def _equal(one: Examples, other: Examples) -> bool:
    if one.attributes.keys() != other.attributes.keys():
        return False
    pairs = [(one.inputs, other.inputs), (one.targets, other.targets)]
    pairs += [(one.attributes[name], other.attributes[name]) for name in one.attributes]
    return all(a is b or torch.equal(a, b) for a, b in pairs)


def _at_once(local: Callable[..., Updates], calls: Sequence[Call]) -> bool:
    """Train the cohorts of several runs as one, unless something is wrong with one of them."""
    task = calls[0].task
    lists = [call.task.shards[client] for call in calls for client in call.cohort]
    keys = [call.key / "client" / client for call in calls for client in call.cohort]
    starts = [
        call.start if call.start.dim() == 2 else call.start.expand(len(call.cohort), -1)
        for call in calls
    ]
    try:
        found = local(
            replace(task, shards=Shards.of(lists)),
            Memories(calls[0].state.params, calls=tuple(calls)),
            torch.cat(starts),
            range(len(lists)),
            key=Apart(calls[0].key.seed, own=tuple(keys)),
            round=calls[0].round,
        )
    except Exception:
        return False  # each run will meet with its own error, if it has one
    edges = accumulate((len(call.cohort) for call in calls), initial=0)
    for call, (first, last) in zip(calls, pairwise(edges), strict=True):
        part = slice(first, last)
        # Copied: torch counts what is written to any part as written to all.
        call.found = Updates(
            found.rows[part].clone(),
            found.weights[part].clone(),
            found.losses[part].clone(),
            found.looks[part].clone(),
            {name: rows[part].clone() for name, rows in found.learned.items()},
        )
    return True


@dataclass(frozen=True)
class Apart(Key):
    """A key below which every client draws where it draws in its own run."""

    own: tuple[Key, ...] = ()

    def __truediv__(self, part: str | int) -> Key:
        """Step to ``"client"``, and from there to a client's own key."""
        if not self.path and part == "client":
            return replace(self, path=("client",))
        if self.path and isinstance(part, int):
            return self.own[part]
        raise LookupError(part)


@dataclass(frozen=True)
class Memories(State):
    """A state in which every client remembers what it remembers in its own run."""

    calls: tuple[Call, ...] = ()

    def recall(self, name: str, clients: Sequence[int], otherwise: Tensor) -> Tensor:
        """Return what all clients remember; only all are ever asked."""
        assert list(clients) == list(range(sum(len(call.cohort) for call in self.calls)))
        return torch.cat([call.state.recall(name, call.cohort, otherwise) for call in self.calls])
