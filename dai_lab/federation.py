"""A federation, the order of a round, and a run of rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dai_lab.core import (
    Aggregator,
    Attack,
    Cohort,
    Compute,
    Engine,
    Examples,
    Key,
    LocalTraining,
    Partitioner,
    Privacy,
    Record,
    Rows,
    SecureAggregation,
    Server,
    Shards,
    State,
    Task,
    TooFew,
    Trace,
    Updates,
    Vector,
    Watcher,
)
from dai_lab.data import split
from dai_lab.learning import choose, fedavg, predict
from dai_lab.metrics import accuracy, correct, mean_loss, per_client, spread
from dai_lab.models import create
from dai_lab.privacy import clip

FRAMES = ("federated", "centralized", "local_only")

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


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Who learns what from whom, and what happens at each stage of a round."""

    task: Task
    test: Examples
    holdout: Shards
    """Each client's own examples that it never trains on."""
    classes: int
    local: LocalTraining
    cohort: Cohort
    privacy: Privacy
    attack: Attack
    secagg: SecureAggregation
    aggregator: Aggregator
    server: Server
    engine: Engine
    watch: Mapping[str, Watcher] = field(default_factory=dict)
    frame: str = "federated"
    hostile: tuple[int, ...] = ()
    """Clients that lie."""
    clip: float | None = None
    every: int = 1
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if self.frame not in FRAMES:
            raise ValueError(f"frame must be one of {FRAMES}, got {self.frame!r}")
        if self.every < 1:
            raise ValueError(f"evaluation.every must be at least 1, got {self.every}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"federation.clip must be above 0 or null, got {self.clip}")


@dataclass(frozen=True)
class Played:
    """A finished round: what to write down, where to go on from, and what took how long."""

    record: dict[str, Any]
    state: State
    seconds: dict[str, float]


def found(
    *,
    data: Callable[[], Any],
    partition: Partitioner,
    model: Callable[..., Any],
    local: LocalTraining,
    cohort: Cohort,
    privacy: Privacy,
    attack: Attack,
    secagg: SecureAggregation,
    aggregator: Aggregator,
    server: Server,
    engine: Engine,
    watch: Mapping[str, Watcher],
    frame: str,
    clients: int,
    hostile: int,
    holdout: float,
    clip: float | None,
    every: int,
    compute: Compute,
    key: Key,
) -> Federation:
    """Load the data, deal it, draw the first model, and put the parts in their places.

    The frame ``centralized`` gives the same training examples to a single client and leaves
    everything else out: no attack, no secrecy, plain averaging. ``local_only`` leaves every
    client alone with its own examples.

    Raises:
        ValueError: A knob is out of range; the message names it.
    """
    dealt = partition(data(), clients=clients, key=key / "partition")
    held_by = len(dealt.shards)
    if not 0 <= hostile < held_by:
        raise ValueError(f"federation.hostile must be in 0..{held_by - 1}, got {hostile}")
    # Drawn, because a partition may give the first clients the cleanest or the oldest data.
    drawn = torch.randperm(held_by, generator=(key / "hostile").stream())[:hostile]
    kept, held_out = split(dealt.shards, holdout=holdout, key=key / "holdout")
    dataset = dealt.data.to(compute.device)
    network = create(model, shape=dataset.shape, classes=dataset.classes, key=key / "model")
    network = replace(network, initial=network.initial.to(compute.device))
    network.module.to(compute.device)
    us = Federation(
        task=Task(network, dataset.train, kept),
        test=dataset.test,
        holdout=held_out,
        classes=dataset.classes,
        local=local,
        cohort=cohort,
        privacy=privacy,
        attack=attack,
        secagg=secagg,
        aggregator=aggregator,
        server=server,
        engine=engine,
        watch=watch,
        frame=frame,
        hostile=tuple(drawn.sort().values.tolist()) if frame == "federated" else (),
        clip=clip,
        every=every,
        compute=compute,
    )
    return us


def choice(us: Federation) -> dict[str, Any]:
    """Say which method computes gradients, and how many clients go side by side."""
    method = choose(us.task.model, us.compute, rank=us.test.inputs.dim() - 1)
    return {"method": method.name, "group": method.group}


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
                record |= _judge(us, state)
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


def _judge(us: Federation, state: State) -> Record:
    """Measure the model on the test set, and on what each client held out.

    Clients that stay alone are measured each with its own model, those that ever trained.
    """
    model, held, test, data = us.task.model, us.holdout, us.test, us.task.data
    if us.frame == "local_only":
        own = state.memory.get("local/params", state.params.unsqueeze(0)[:0])
        lone = state.memory.get("local/params/of", torch.arange(0)).tolist()
        rows = own if len(own) else state.params.unsqueeze(0)  # untouched, all are still alike
        scores = [_score(us, predict(model, row, test.inputs), test.targets) for row in rows]
        record = {name: fmean(score[name] for score in scores) for name in scores[0]}
        held = Shards.of([held[client].cpu() for client in lone])
        parts = [predict(model, own[at], data.inputs[held[at]]) for at in range(len(lone))]
        outputs = torch.cat(parts) if parts else None
    else:
        record = _score(us, predict(model, state.params, test.inputs), test.targets)
        outputs = predict(model, state.params, data.inputs[held.indices])
    if outputs is None or not len(outputs) or not us.classes:
        return record
    in_order = Shards(torch.arange(len(outputs)), held.offsets)
    targets = data.targets[held.indices]
    spreads = spread(per_client(correct(outputs, targets), in_order))
    return record | {
        "client_accuracy": spreads["mean"],
        "client_accuracy_worst10": spreads["worst10"],
        "client_accuracy_variance": spreads["variance"],
    }


def _score(
    us: Federation,
    outputs: Float[Tensor, "examples ..."],
    targets: Int[Tensor, "examples"] | Float[Tensor, "examples"],
) -> dict[str, float]:
    found = {"test_loss": mean_loss(us.task.model.loss(outputs, targets))}
    if us.classes:
        found["test_accuracy"] = accuracy(correct(outputs, targets))
    return found
