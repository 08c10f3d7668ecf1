"""FedDyn: a regularizer that moves, so that clients and server agree on stationary points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.descent import Descent, rate_of
from dai_lab.learning.schedules import constant
from dai_lab.learning.servers import joined_by, of_width
from dai_lab.learning.training import descend, plans_of


def feddyn(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
    alpha: float = 0.01,
    epochs: int = 1,
    batch_size: int = 32,
    rate: float = 0.1,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Descend on the own loss, minus the slope left over last time, plus a pull to the start.

    Needs ``server=feddyn``, which takes its ``alpha`` from here.

    Args:
        task: The model and who holds which examples.
        state: Holds each client's ``clients/slope``.
        start: Parameters to start from, shared ``[params]`` or each its own ``[cohort, params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        alpha: Weight of the moving regularizer, 0 or more; 0 is ``sgd``.
        epochs: Passes over a client's examples, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.
        weight_decay: Coupled L2 penalty.
        clip: L2 norm to which each gradient, regularizer included, is clipped, or ``None``.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Acar et al. 2021, arXiv:2111.04263, algorithm 1.
    """
    if not alpha >= 0:
        raise ValueError(f"local.alpha must be 0 or more, got {alpha}")
    rule = Descent(rate_of(rate, schedule, round), 0.0, weight_decay, clip, proximal=alpha)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    slopes = state.recall("clients/slope", cohort, torch.zeros_like(task.model.initial))
    found = descend(task, start, cohort, plans, rule, key=key, compute=compute, tilt=-slopes)
    return replace(found, learned={"clients/slope": slopes - alpha * found.rows})


def feddyn_server(
    state: State, update: Vector, *, alpha: float = 0.01, weighted: bool = True
) -> State:
    """Average the models, and take off what the regularizers of all clients still pull.

    Args:
        state: The model before the round; remembers ``server/slope``.
        update: Mean move of the clients that took part.
        alpha: The clients' alpha.
        weighted: Whether the mean counts clients by their examples, as ``aggregator.weighted``;
            the paper's counts all the same.

    Raises:
        ValueError: An update of another width.

    Source:
        Acar et al. 2021, arXiv:2111.04263, algorithm 1.
    """
    of_width("feddyn", update, len(state.params))
    if not alpha:
        return State(state.params + update, state.memory)
    before = state.memory.get("server/slope", torch.zeros_like(update))
    joined = joined_by(state, weighted).to(update)
    slope = before - alpha * joined * update
    return State(state.params + update - slope / alpha, state.memory).remember(
        {"server/slope": slope}
    )
