"""A run of rounds, in the federation and in the two frames it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from dai_lab.core import Key, Shards, State, Task, Training, Updates
from dai_lab.federation.canaries import verdicts
from dai_lab.federation.clock import Clock
from dai_lab.federation.founding import Federation
from dai_lab.federation.hostile import poisoned
from dai_lab.federation.judging import judge
from dai_lab.federation.private import STOPPED, Budget
from dai_lab.federation.stages import learn, mean, together
from dai_lab.federation.verdicts import with_server
from dai_lab.learning import fedavg
from dai_lab.privacy import charged

TOTALS = {
    "bytes_up": torch.int64,
    "bytes_down": torch.int64,
    "flops": torch.float64,
    "seconds": torch.float64,
}
"""What a run adds up round by round."""


@dataclass(frozen=True)
class Played:
    """A finished round: what to write down, where to go on from, and what took how long."""

    record: dict[str, Any]
    state: State
    seconds: dict[str, float]
    last: bool = False
    """Whether the run ends here, be it early."""


def play(
    us: Federation, key: Key, *, rounds: int, state: State | None = None, done: int = 0
) -> Iterator[Played]:
    """Play on from round ``done`` to round ``rounds``, yielding after each."""
    stage = {"federated": together, "centralized": _pooled, "local_only": _alone}[us.frame]
    state = State(us.task.model.initial) if state is None else state
    if STOPPED in state.memory:
        return
    budget = Budget(us, rounds)
    spent = {
        name: state.memory.get(f"federation/{name}", torch.zeros((), dtype=kind)).item()
        for name, kind in TOTALS.items()
    }
    with ExitStack() as stack:
        train: Training | None = None
        for number in range(done + 1, rounds + 1):
            clock, here = Clock(), key / "round" / number
            anew = bool(us.renew) and (number - 1) % us.renew == 0
            if train is None or anew:
                with clock("poison"):
                    us, state = _corrupted(us, state, number, key, again=not anew)
                stack.close()
                engine = us.engine(us.local, _task(us), compute=us.compute)
                train = stack.enter_context(engine)
            before = state
            state, record = stage(us, train, state, number, here, clock)
            last = number == rounds
            with clock("account"):
                if budget.exceeded(state.memory):
                    # Nothing of it was published; whoever asks for more learns that much.
                    state, last, record = before, True, {**record, "withheld": True}
                    state = state.remember({STOPPED: torch.tensor(True)})
                elif not last and budget.reached(before.memory, state.memory):
                    state, last = state.remember({STOPPED: torch.tensor(True)}), True
                if STOPPED in state.memory:
                    record[STOPPED] = True
                record |= budget.record(state.memory, number, last=last)
            for name in spent:
                spent[name] += record.pop(name)
            state = state.remember(
                {
                    f"federation/{name}": torch.tensor(value, dtype=TOTALS[name])
                    for name, value in spent.items()
                }
            )
            totals = {name: spent[name] for name in ("bytes_up", "bytes_down", "flops")}
            if us.profiles is not None:
                totals["simulated_seconds"] = spent["seconds"]
            with clock("evaluate"):
                if number % us.every == 0 or last:
                    record |= judge(us, state, here / "judge")
                if last:
                    record |= verdicts(us, state, here)
            yield Played({"round": number, **record, **totals}, state, clock.seconds, last)
            if last:
                return


def _corrupted(
    us: Federation, state: State, number: int, key: Key, *, again: bool
) -> tuple[Federation, State]:
    """Let hostile clients, if there are any, do to their examples what they do in this round."""
    if us.frame != "federated":
        return us, state
    if us.renew:
        first = number - (number - 1) % us.renew
        return poisoned(us, state, key / "poison" / first, again=again)
    # Done once, it is done with the first model, also by a run that goes on from a later one.
    begun = replace(state, params=us.task.model.initial)
    us, after = poisoned(us, begun, key / "poison", again=False)
    return us, replace(after, params=state.params)


def _task(us: Federation) -> Task:
    """Say who holds what in this frame."""
    if us.frame == "centralized":
        return replace(us.task, shards=Shards.of([us.task.shards.indices]))
    if len(us.root) and us.frame == "federated":
        return replace(us.task, shards=with_server(us))
    return us.task


def _pooled(
    us: Federation, train: Training, state: State, number: int, key: Key, clock: Clock
) -> tuple[State, dict[str, Any]]:
    """One client that holds everybody's training examples takes the round alone."""
    with clock("train"):
        updates = train(state, state.params, (0,), key=key / "local", round=number)
    _plain(us, updates)
    after = fedavg(_owing(learn(state, (0,), updates), updates, (0,), number), updates.rows[0])
    return after, _unsent(us, updates, 1)


def _alone(
    us: Federation, train: Training, state: State, number: int, key: Key, clock: Clock
) -> tuple[State, dict[str, Any]]:
    """Every client of the cohort trains on; nothing leaves it."""
    cohort = us.cohort(us.task.shards.sizes, now=0.0, key=key / "cohort")
    own = state.recall("local/params", cohort, state.params)
    with clock("train"):
        updates = train(state, own, cohort, key=key / "local", round=number)
    _plain(us, updates)
    learned = state.keep("local/params", cohort, own + updates.rows)
    state = _owing(learn(state, cohort, updates), updates, cohort, number)
    return state.remember(learned), _unsent(us, updates, len(cohort))


def _owing(state: State, updates: Updates, cohort: Sequence[int], number: int) -> State:
    """Remember what clients' own training gave away of their records."""
    owed = [
        (event, [client])
        for client, events in zip(cohort, updates.events, strict=False)
        for event in events
    ]
    return state.remember(charged(state.memory, owed, round=number)) if owed else state


def _plain(us: Federation, updates: Updates) -> None:
    """Refuse rows that only a server made for them can read."""
    if updates.rows.shape[1] != us.task.model.params:
        raise ValueError(
            f"frame={us.frame} has no server, and local sends rows of {updates.rows.shape[1]} "
            f"numbers for {us.task.model.params} parameters: choose local=sgd or frame=federated"
        )


def _unsent(us: Federation, updates: Updates, cohort: int) -> dict[str, Any]:
    """Record a round in which nothing was sent to anyone."""
    return {
        "cohort": cohort,
        "train_loss": mean(updates.losses, updates.weights),
        "bytes_up": 0,
        "bytes_down": 0,
        "flops": us.work * float(updates.looks.sum()),
        "seconds": 0.0,
    }
