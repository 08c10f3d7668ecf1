"""pFedMe: personalization by Moreau envelopes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.batches import Plan
from dai_lab.learning.descent import Descent, at_least, held_by, rate_of
from dai_lab.learning.schedules import constant
from dai_lab.learning.training import descend, looks_of, plans_of


def pfedme(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
    leash: float = 15.0,
    inner_steps: int = 5,
    own_rate: float = 0.05,
    epochs: int = 1,
    batch_size: int = 32,
    rate: float = 0.05,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """On every batch fit a model of one's own near the local one, then move the local one to it.

    The server's beta is ``server.rate`` of ``server=fedavg``. Judge the own models with
    ``personal=remembered``.

    Args:
        task: The model and who holds which examples.
        state: Unused; own models start from the common one every round, as in the authors' runs.
        start: The common model ``[params]``, or each client's own ``[cohort, params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        leash: The paper's lambda, above 0: how near the own model stays to the local one;
            ``rate * leash`` must stay below 1.
        inner_steps: The paper's K: steps on each batch to fit the own model, 1 or more.
        own_rate: Learning rate of those steps, above 0.
        epochs: Passes over a client's examples, 1 or more.
        batch_size: Examples a batch; 0 takes all of a client's examples.
        rate: The paper's eta, above 0: how far the local model moves towards the own one.
        schedule: From the round to a factor on both rates.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Dinh, Tran and Nguyen 2020, arXiv:2006.08848, algorithm 1.
    """
    eta = rate_of(rate, schedule, round)
    most = 1 / eta if eta else math.inf
    if not 0 < leash < most:
        raise ValueError(
            f"local.leash must be above 0 and below 1 / local.rate ({most:g}), got {leash}"
        )
    if not own_rate > 0:
        raise ValueError(f"local.own_rate must be above 0, got {own_rate}")
    at_least("inner_steps", inner_steps, 1)
    rule = Descent(rate_of(own_rate, schedule, round), proximal=leash)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    batches = [plan.steps() for plan in plans]
    begin = start.expand(len(cohort), -1) if start.dim() == 1 else start
    local, own = begin.clone(), begin.clone()
    losses = torch.zeros(len(cohort))
    for at in range(max(map(len, batches), default=0)):
        here = [client for client, mine in enumerate(batches) if at < len(mine)]
        again = [
            Plan(batches[one][at].repeat(inner_steps), (len(batches[one][at]),) * inner_steps)
            for one in here
        ]
        clients = [cohort[one] for one in here]
        there = key / "batch" / at
        fitted = descend(
            task, own[here], clients, again, rule, key=there, compute=compute, anchor=local[here]
        )
        own[here] += fitted.rows
        local[here] -= eta * leash * (local[here] - own[here])
        losses[here] += fitted.losses * looks_of(again)
    looks = inner_steps * looks_of(plans)
    return Updates(
        rows=local - begin,
        weights=held_by(task, cohort),
        losses=losses / looks.clamp_min(1),
        looks=looks,
        learned={"clients/personal": own},
    )
