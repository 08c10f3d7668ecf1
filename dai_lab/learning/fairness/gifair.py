"""GIFAIR-FL: the spread of losses between groups of clients costs something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.descent import Descent, rate_of
from dai_lab.learning.fairness.survey import FEW, SURVEY, client_losses, groups_in
from dai_lab.learning.schedules import constant
from dai_lab.learning.training import descend, plans_of


def gifair(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
    strength: float = 0.1,
    groups: str = "majority",
    scale: float = 1.0,
    epochs: int = 1,
    batch_size: int = 32,
    rate: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    clip: float | None = None,
    proximal: float = 0.0,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Count clients more whose group of clients has larger losses than other groups.

    A client's loss counts ``1 + strength * r / (p |A|)``: r is how many groups of clients fare
    better than its own less how many fare worse, p its share of all examples and |A| the clients
    in its group. Above the paper's bound on the strength that would be below 0, and counts 0.
    Each client tells the server its loss in its group's place; needs ``server=surveyed``. The
    losses of groups are known one round late. A small client tells numbers above 1, up to the mean
    client's examples over its own: a secure sum that clips needs ``secagg.clip`` as large, or
    ``scale`` as small.

    Args:
        task: The model, who holds which examples, and which groups of people there are.
        state: Holds ``server/survey``.
        start: Parameters to start from ``[params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        strength: The paper's lambda, 0 or more.
        groups: Who is in a group: clients most of whose people are of one group (``majority``),
            or each client for itself (``clients``), which is the paper's individual fairness.
        scale: Factor on what is told beside the update, above 0.
        epochs: Passes over a client's examples, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.
        momentum: Heavy-ball momentum in [0, 1), forgotten between rounds.
        weight_decay: Coupled L2 penalty.
        clip: L2 norm to which each batch's gradient is clipped, or ``None``.
        proximal: How strongly a client is pulled back to where it started.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range, or ``fairness.attribute`` is null.

    Source:
        Yue, Nouiehed and Al Kontar 2021, arXiv:2108.02741 (GIFAIR-FL), the objective; groups by
        majority are ours, as the paper's are given.
    """
    if not strength >= 0:
        raise ValueError(f"local.strength must be 0 or more, got {strength}")
    if groups not in ("majority", "clients"):
        raise ValueError(f"local.groups must be majority or clients, got {groups!r}")
    if not scale > 0:
        raise ValueError(f"local.scale must be above 0, got {scale}")
    rule = Descent(rate_of(rate, schedule, round), momentum, weight_decay, clip, proximal)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    clients, sizes = len(task.shards), task.shards.sizes.double()
    if groups == "clients":
        count, mine = clients, torch.tensor(list(cohort), dtype=torch.long)
    else:
        count, mine = groups_in("gifair", task).count, majorities(task, cohort)
    weights = None
    if SURVEY in state.memory:
        lost, there = state.memory[SURVEY].double().cpu().view(2, count) / scale
        ranks = ranked(lost, there)[mine]
        spans = sizes[list(cohort)] / sizes.sum() * there[mine] * clients
        factors = (1 + strength * ranks / spans.clamp_min(FEW)).clamp_min(0)
        weights = task.data.inputs.new_ones(len(task.data))
        for client, factor in zip(cohort, factors.tolist(), strict=True):
            weights[task.shards[client].to(weights.device)] = factor
    found = descend(task, start, cohort, plans, rule, key=key, compute=compute, weights=weights)
    inverse = torch.where(sizes > 0, sizes.mean() / sizes.clamp_min(1), 0.0)[list(cohort)]
    told = torch.zeros((len(cohort), 2, count), dtype=torch.float64)
    at = torch.arange(len(cohort))
    told[at, 0, mine] = client_losses(task, start, cohort).cpu() * inverse * scale
    told[at, 1, mine] = inverse * scale
    return replace(found, rows=torch.cat([found.rows, told.flatten(1).to(found.rows)], dim=1))


def ranked(
    lost: Float[Tensor, "groups"], there: Float[Tensor, "groups"]
) -> Float[Tensor, "groups"]:
    """Say how many groups fare better than each, less how many fare worse; absent ones count not.

    Args:
        lost: Sums of clients' losses.
        there: Numbers of clients, on the same scale.
    """
    known = there > FEW
    means = lost / there.clamp_min(FEW)
    signs = (means.unsqueeze(1) - means.unsqueeze(0)).sign()
    return (signs * known.unsqueeze(0)).sum(1) * known


def majorities(task: Task, cohort: Sequence[int]) -> Int[Tensor, "clients"]:
    """Say to which group most of each client's people belong; the first, of several."""
    sensitive = groups_in("gifair", task)
    people = sensitive.of(task.data).cpu()
    most = [
        int(people[task.shards[client]].bincount(minlength=sensitive.count).argmax())
        for client in cohort
    ]
    return torch.tensor(most, dtype=torch.long)
