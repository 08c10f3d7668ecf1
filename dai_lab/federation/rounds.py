"""The order of a round, and a run of rounds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Key, Rows, Shards, State, Task, TooFew, Trace, Updates, Vector
from dai_lab.federation.founding import Federation
from dai_lab.federation.judging import judge
from dai_lab.learning import fedavg
from dai_lab.privacy import clip

NOTHING = {
    "hostile": 0,
    "rows_changed": 0,
    "rows_not_finite": 0,
    "visible_rows": 0,
    "train_loss": None,
    "update_norm": 0.0,
    "bytes_up": 0,
    "bytes_down": 0,
}
"""The record of a round nobody joined."""


@dataclass(frozen=True)
class Played:
    """A finished round: what to write down, where to go on from, and what took how long."""

    record: dict[str, Any]
    state: State
    seconds: dict[str, float]


def play(
    us: Federation, key: Key, *, rounds: int, state: State | None = None, done: int = 0
) -> Iterator[Played]:
    """Play on from round ``done`` to round ``rounds``, yielding after each."""
    stage = {"federated": _together, "centralized": _pooled, "local_only": _alone}[us.frame]
    state = State(us.task.model.initial) if state is None else state
    sent = {"bytes_up": 0, "bytes_down": 0}
    for name in sent:
        if f"federation/{name}" in state.memory:
            sent[name] = int(state.memory[f"federation/{name}"])
    for number in range(done + 1, rounds + 1):
        clock = _Clock()
        state, record = stage(us, state, number, key / "round" / number, clock)
        for name in sent:
            sent[name] += record.pop(name)
        state = state.remember(
            {f"federation/{name}": torch.tensor(value) for name, value in sent.items()}
        )
        with clock("evaluate"):
            if number % us.every == 0 or number == rounds:
                record |= judge(us, state)
        yield Played({"round": number, **record, **sent}, state, clock.seconds)


class _Clock:
    """Wall-clock seconds of each stage of a round."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        before = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - before
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


def _trained(
    us: Federation,
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: tuple[int, ...],
    number: int,
    key: Key,
) -> Updates:
    """Have the engine train a cohort, each client from its own row of ``start`` if it has one."""
    places = {client: at for at, client in enumerate(cohort)}

    def train(some: Sequence[int]) -> Updates:
        begin = start if start.dim() == 1 else start[[places[client] for client in some]]
        return us.local(
            task, state, begin, some, key=key / "local", round=number, compute=us.compute
        )

    return us.engine(train, cohort)


def _together(
    us: Federation, state: State, number: int, key: Key, clock: _Clock
) -> tuple[State, dict[str, Any]]:
    """Sample, train, protect, attack, clip, conceal, aggregate, step: a federated round."""
    with clock("cohort"):
        cohort = us.cohort(len(us.task.shards), key=key / "cohort")
    if not cohort or not int(us.task.shards.sizes[list(cohort)].sum()):
        return state, {"cohort": len(cohort), **NOTHING}
    try:
        return _carried_out(us, state, number, key, clock, cohort)
    except TooFew as few:
        if number == 1:
            raise
        # A small cohort drawn by chance must not end a long run for good.
        return state, {"cohort": len(cohort), **NOTHING, "skipped": str(few)}


def _carried_out(
    us: Federation, state: State, number: int, key: Key, clock: _Clock, cohort: tuple[int, ...]
) -> tuple[State, dict[str, Any]]:
    """Play a round whose cohort is known."""
    with clock("train"):
        updates = _trained(us, us.task, state, state.params, cohort, number, key)
    with clock("protect"):
        lying = torch.tensor([client in us.hostile for client in cohort])
        liars, changed = tuple(c for c in cohort if c in us.hostile), 0
        honest = us.privacy(updates.rows[~lying] if liars else updates.rows, key=key / "privacy")
        rows = honest
        if liars:
            own = us.privacy(updates.rows[lying], key=key / "privacy" / "hostile")
            lies = us.attack(honest, own=own, key=key / "attack")
            same = torch.isclose(lies, own, rtol=0, atol=0, equal_nan=True)
            changed = int((~same).any(dim=1).sum())
            rows = torch.empty_like(updates.rows)
            rows[lying], rows[~lying] = lies, honest
        if us.clip is not None:
            rows = clip(rows, norm=us.clip, key=key / "clip")
        weights = updates.weights.to(rows.device)
        visible = us.secagg(rows, weights, clients=cohort, key=key / "secagg")
    with clock("aggregate"):
        update = us.aggregator(visible)
        after = us.server(state.remember(updates.memory), update)
    record: dict[str, Any] = {
        "cohort": len(cohort),
        "hostile": len(liars),
        "rows_changed": changed,
        "rows_not_finite": int((~rows.sum(1).isfinite()).sum()),
        "visible_rows": len(visible.rows),
        "train_loss": _mean(updates.losses, updates.weights * ~lying),
        "update_norm": float(update.norm()),
        "bytes_up": rows.nbytes,
        "bytes_down": state.params.nbytes * len(cohort),
    }
    with clock("watch"):
        if us.watch:
            trace = Trace(
                number,
                key,
                state,
                after,
                cohort,
                liars,
                rows,
                weights,
                visible,
                update,
            )
            for name, watcher in us.watch.items():
                found = watcher(trace)
                record |= {f"{name}/{entry}": value for entry, value in found.items()}
    return after, record


def _pooled(
    us: Federation, state: State, number: int, key: Key, clock: _Clock
) -> tuple[State, dict[str, Any]]:
    """One client that holds everybody's training examples takes the round alone."""
    pooled = Shards.of([us.task.shards.indices])
    with clock("train"):
        task = replace(us.task, shards=pooled)
        updates = _trained(us, task, state, state.params, (0,), number, key)
    after = fedavg(state.remember(updates.memory), updates.rows[0])
    record = {
        "cohort": 1,
        "train_loss": _mean(updates.losses, updates.weights),
        "bytes_up": 0,
        "bytes_down": 0,
    }
    return after, record


def _alone(
    us: Federation, state: State, number: int, key: Key, clock: _Clock
) -> tuple[State, dict[str, Any]]:
    """Every client of the cohort trains on; nothing leaves it."""
    cohort = us.cohort(len(us.task.shards), key=key / "cohort")
    own = state.recall("local/params", cohort, state.params)
    with clock("train"):
        updates = _trained(us, us.task, state, own, cohort, number, key)
    record = {
        "cohort": len(cohort),
        "train_loss": _mean(updates.losses, updates.weights),
        "bytes_up": 0,
        "bytes_down": 0,
    }
    learned = state.keep("local/params", cohort, own + updates.rows)
    return state.remember({**updates.memory, **learned}), record


def _mean(values: Float[Tensor, "_"], weights: Float[Tensor, "_"]) -> float | None:
    """Mean over clients by their examples; ``None`` where nobody has any."""
    total = float(weights.sum())
    return float((values * weights.to(values.device)).sum()) / total if total else None
