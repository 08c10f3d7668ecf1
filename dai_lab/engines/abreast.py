"""Runs in step: the clients of several runs train in one batch, as if they were one cohort.

A small network leaves a GPU idle between one launch and the next, however many clients of a run go
side by side. Runs that differ in nothing that training needs, such as seeds, can share the launch.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from dai_lab.core import (
    Compute,
    Engine,
    Examples,
    Key,
    LocalTraining,
    Model,
    Rows,
    Shards,
    State,
    Task,
    Training,
    Updates,
    Vector,
)


@dataclass(frozen=True)
class Ground:
    """What several runs must have in common, beside their knobs, to train as one."""

    data: Examples
    model: Model
    compute: Compute


@dataclass
class Call:
    """A run's cohort that is about to train."""

    run: int
    ground: Ground
    local: Callable[..., Updates]
    task: Task
    state: State
    start: Vector | Rows
    cohort: tuple[int, ...]
    key: Key
    round: int
    found: Updates | None = None
    alone: bool = False
    """Nobody is in the same round on the same ground, or together something was wrong."""


class Abreast:
    """A rendezvous for runs that differ in nothing that training needs, each in a thread.

    Every run waits until all that have not ended want to train; whoever comes last trains those
    that are in the earliest round, and those of later rounds wait on. Rows are those of training
    alone, up to the rounding of larger batches.
    """

    def __init__(self, runs: int) -> None:
        self._left = runs
        self._over = False
        self._turn = threading.Condition()
        self._waiting: list[Call] = []
        self._grounds: list[Ground] = []

    def engine(self, run: int) -> Engine:
        """Give a run its engine.

        What clients do there is ``sgd`` or ``distributed_sgd``, with the same knobs in all runs:
        these ask for nothing but examples, a start, and what clients remember.
        """
        return partial(self._engine, run)

    @contextmanager
    def _engine(
        self, run: int, local: LocalTraining, task: Task, *, compute: Compute
    ) -> Iterator[Training]:
        fresh = Ground(task.data, task.model, compute)
        with self._turn:  # what is the same for training is the same ground, known by its place
            ground = next((one for one in self._grounds if _same(one, fresh)), fresh)
            self._grounds.append(ground)
        try:
            yield partial(self._train, run, ground, partial(local, compute=compute), task)
        finally:
            with self._turn:
                del self._grounds[[id(one) for one in self._grounds].index(id(ground))]

    def leave(self) -> None:
        """Say that a run has ended, however it did, so that nobody waits for it."""
        with self._turn:
            self._left -= 1
            self._play()

    def end(self) -> None:
        """Let everybody go on alone: some may never come."""
        with self._turn:
            self._over = True
            self._play()

    def _train(
        self,
        run: int,
        ground: Ground,
        local: Callable[..., Updates],
        task: Task,
        state: State,
        start: Vector | Rows,
        cohort: Sequence[int],
        *,
        key: Key,
        round: int,
    ) -> Updates:
        call = Call(run, ground, local, task, state, start, tuple(cohort), key, round)
        with self._turn:
            self._waiting.append(call)
            self._play()
            while call.found is None and not call.alone:
                self._turn.wait()
        if call.found is None:
            return local(task, state, start, cohort, key=key, round=round)
        return call.found

    def _play(self) -> None:
        """Train the earliest of those who wait, if everybody does."""
        if self._over or (self._waiting and len(self._waiting) >= self._left):
            earliest = min((call.round for call in self._waiting), default=0)
            calls = [call for call in self._waiting if self._over or call.round == earliest]
            self._waiting = [call for call in self._waiting if call not in calls]
            calls.sort(key=lambda call: call.run)
            try:
                for place in {} if self._over else {id(call.ground) for call in calls}:
                    some = [call for call in calls if id(call.ground) == place]
                    if len(some) > 1:
                        _at_once(some)
            finally:  # whatever happened, nobody is left waiting
                for call in calls:
                    call.alone = call.found is None
                self._turn.notify_all()


def _same(one: Ground, other: Ground) -> bool:
    """Tell whether data, settings and all that a network does not learn are equal."""
    if one.compute != other.compute:
        return False
    columns = [_columns(each) for each in (one, other)]
    return columns[0].keys() == columns[1].keys() and all(
        mine is theirs or (mine.device == theirs.device and torch.equal(mine, theirs))
        for mine, theirs in zip(columns[0].values(), columns[1].values(), strict=True)
    )


def _columns(ground: Ground) -> dict[str, Tensor]:
    data, module, names = ground.data, ground.model.module, set(ground.model.names)
    parts = [*module.named_buffers(), *module.named_parameters()]
    fixed = {f"model/{name}": each for name, each in sorted(parts) if name not in names}
    known = {f"attributes/{name}": data.attributes[name] for name in sorted(data.attributes)}
    return {"inputs": data.inputs, "targets": data.targets, **known, **fixed}


def _at_once(calls: Sequence[Call]) -> None:
    """Train the cohorts of several runs as one, unless something is wrong with one of them."""
    try:
        lists = [call.task.shards[client] for call in calls for client in call.cohort]
        keys = [call.key / "client" / client for call in calls for client in call.cohort]
        starts = [
            call.start if call.start.dim() == 2 else call.start.expand(len(call.cohort), -1)
            for call in calls
        ]
        found = calls[0].local(
            replace(calls[0].task, data=calls[0].ground.data, shards=Shards.of(lists)),
            Memories(calls[0].state.params, calls=tuple(calls)),
            torch.cat(starts),
            range(len(lists)),
            key=Apart(calls[0].key.seed, own=tuple(keys)),
            round=calls[0].round,
        )
        edges = accumulate((len(call.cohort) for call in calls), initial=0)
        parts = [_part(found, slice(first, last)) for first, last in pairwise(edges)]
    except Exception as error:
        # Each run will meet with its own error, if it has one; memory may lack only together.
        warnings.warn(
            f"abreast: {len(calls)} runs train alone, for together they end in "
            f"{type(error).__name__}: {error}".partition("\n")[0]
            + ": choose fewer abreast",
            stacklevel=2,
        )
        return
    for call, part in zip(calls, parts, strict=True):
        call.found = part


def _part(found: Updates, part: slice) -> Updates:
    # Copied: torch counts what is written to any part as written to all.
    return Updates(
        found.rows[part].clone(),
        found.weights[part].clone(),
        found.losses[part].clone(),
        found.looks[part].clone(),
        {name: rows[part].clone() for name, rows in found.learned.items()},
    )


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
