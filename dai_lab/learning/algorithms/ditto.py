"""Ditto: a model of one's own, on a leash to the common one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.descent import Descent, at_least, rate_of
from dai_lab.learning.schedules import constant
from dai_lab.learning.training import descend, plans_of


def ditto(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
    leash: float = 0.1,
    epochs: int = 1,
    own_epochs: int = 1,
    batch_size: int = 32,
    rate: float = 0.1,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Train the common model as ``sgd``, and beside it one's own, pulled to the common one.

    Only the common model's move is sent. Judge the own models with ``personal=remembered``.

    Args:
        task: The model and who holds which examples.
        state: Holds each client's own model, ``clients/personal``.
        start: The common model ``[params]``, or each client's own ``[cohort, params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        leash: The paper's lambda, 0 or more: how strongly the own model is pulled to the common
            one; 0 leaves it alone with its own examples.
        epochs: Passes over a client's examples for the common model, 1 or more.
        own_epochs: Passes for its own model, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate of both, above 0.
        weight_decay: Coupled L2 penalty.
        clip: L2 norm to which each gradient, pull included, is clipped, or ``None``.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Li et al. 2021, arXiv:2012.04221, algorithm 1.
    """
    if not leash >= 0:
        raise ValueError(f"local.leash must be 0 or more, got {leash}")
    at_least("own_epochs", own_epochs, 1)
    rule = Descent(rate_of(rate, schedule, round), 0.0, weight_decay, clip)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    found = descend(task, start, cohort, plans, rule, key=key, compute=compute)
    there = key / "personal"
    plans = plans_of(task, cohort, key=there, epochs=own_epochs, batch_size=batch_size)
    own = state.recall("clients/personal", cohort, task.model.initial)
    pulled = replace(rule, proximal=leash)
    moved = descend(task, own, cohort, plans, pulled, key=there, compute=compute, anchor=start)
    return replace(
        found,
        looks=found.looks + moved.looks,
        learned={"clients/personal": own + moved.rows},
    )
