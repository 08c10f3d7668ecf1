"""Reweighing: as if groups and classes had nothing to do with each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Compute, Key, Rows, Sensitive, State, Task, Updates, Vector
from dai_lab.learning.descent import Descent, rate_of
from dai_lab.learning.fairness.survey import groups_in, known, survey, told
from dai_lab.learning.schedules import constant
from dai_lab.learning.training import descend, plans_of


def reweighing(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
    counts: str = "federated",
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
    """Weigh examples so that, in training, no class is more frequent in one group than in another.

    An example of group a and class y counts ``P(a) P(y) / P(a, y)``. By ``federated`` counts,
    which need ``server=surveyed`` and are all 1 in the first round, or by each client's own
    (``local``), with ``server=fedavg``.

    Args:
        task: The model, who holds which examples, and which groups to compare.
        state: Holds ``server/survey``, what was counted in the round before.
        start: Parameters to start from, shared ``[params]``; with ``local`` counts also each its
            own ``[cohort, params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        counts: ``federated`` or ``local``.
        scale: Factor on what is told beside the update; see :func:`told`.
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
        Kamiran and Calders 2012, "Data preprocessing techniques for classification without
        discrimination", section 4.3; local and global in a federation: Abay et al. 2020,
        arXiv:2012.02447, section 4.
    """
    sensitive = groups_in("reweighing", task)
    if counts not in ("federated", "local"):
        raise ValueError(f"local.counts must be federated or local, got {counts!r}")
    rule = Descent(rate_of(rate, schedule, round), momentum, weight_decay, clip, proximal)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    before = known(state, sensitive) if counts == "federated" else None
    weights = (
        own_weights(task, cohort, sensitive)
        if counts == "local"
        else None
        if before is None
        else everyones_weights(task, before.held, sensitive)
    )
    found = descend(task, start, cohort, plans, rule, key=key, compute=compute, weights=weights)
    if counts == "local":
        return found
    return told(found, survey(task, start, cohort, sensitive), scale=scale)


def independent(held: Float[Tensor, "groups classes"]) -> Float[Tensor, "groups classes"]:
    """Weigh each cell by ``P(a) P(y) / P(a, y)``, 1 where nobody is."""
    total = held.sum().clamp_min(1e-12)
    groups, classes = held.sum(1, keepdim=True), held.sum(0, keepdim=True)
    return torch.where(held > 0, groups * classes / (held * total).clamp_min(1e-12), 1.0)


def everyones_weights(
    task: Task, held: Float[Tensor, "groups classes"], sensitive: Sensitive
) -> Float[Tensor, "examples"]:
    """Weigh every example of a task by what all clients hold together."""
    weights = independent(held).to(task.data.inputs)
    return weights[sensitive.of(task.data), task.data.targets]


def own_weights(
    task: Task, cohort: Sequence[int], sensitive: Sensitive
) -> Float[Tensor, "examples"]:
    """Weigh the examples of each client of a cohort by what it holds itself."""
    groups, targets = sensitive.of(task.data), task.data.targets
    classes = int(targets.max()) + 1
    weights = task.data.inputs.new_ones(len(targets))
    for client in cohort:
        mine = task.shards[client].to(targets.device)
        cell = groups[mine] * classes + targets[mine]
        held = cell.bincount(minlength=sensitive.count * classes).double()
        table = independent(held.view(-1, classes)).flatten()
        weights[mine] = table[cell].to(weights)
    return weights
