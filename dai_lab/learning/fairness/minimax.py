"""The worst-off group first: minimax and distributionally robust training over groups of people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.core import Server as Optimizer
from dai_lab.learning.descent import Descent, rate_of
from dai_lab.learning.fairness.survey import (
    FEW,
    SURVEY,
    groups_in,
    heard,
    known,
    parted,
    survey,
    told,
)
from dai_lab.learning.schedules import constant
from dai_lab.learning.servers import above_zero, fedavg
from dai_lab.learning.training import descend, plans_of

BURDENS = "server/burdens"
"""Where the server keeps what each group's loss counts for."""


def fedminmax(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
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
    """Weigh each group's loss by what the server says, to help the one that fares worst.

    An example counts its group's burden over its group's share of all examples. Needs
    ``server=fedminmax`` or ``group_dro``, which set the burdens; in the first round all count 1.

    Args:
        task: The model, who holds which examples, and which groups to compare.
        state: Holds ``server/survey`` and ``server/burdens``.
        start: Parameters to start from ``[params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        scale: Factor on what is told beside the update.
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
        Papadaki et al. 2022, arXiv:2201.08304, algorithm 1 (FedMinMax).
    """
    sensitive = groups_in("fedminmax", task)
    rule = Descent(rate_of(rate, schedule, round), momentum, weight_decay, clip, proximal)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    before, weights = known(state, sensitive), None
    if before is not None:
        share = before.held.sum(1)
        share = share / share.sum()
        burdens = state.memory[BURDENS].to(share)
        table = torch.where(share > FEW, burdens / share.clamp_min(FEW), 1.0)
        weights = table.to(task.data.inputs)[sensitive.of(task.data)]
    found = descend(task, start, cohort, plans, rule, key=key, compute=compute, weights=weights)
    return told(found, survey(task, start, cohort, sensitive), scale=scale)


def fedminmax_server(
    state: State, update: Vector, *, ascent: float = 0.1, then: Optimizer = fedavg
) -> State:
    """Move the model, and burden groups more the larger their loss, by projected ascent.

    Burdens start as the groups' shares of all examples, so that every example counts 1.

    Args:
        state: The model before the round; remembers ``server/survey`` and ``server/burdens``.
        update: Means of clients' updates and of what they counted.
        ascent: Size of a step of the burdens, above 0.
        then: What moves the model.

    Raises:
        ValueError: A step out of range, or an update that ``local=fedminmax`` did not send.

    Source:
        Papadaki et al. 2022, arXiv:2201.08304, algorithm 1 (FedMinMax).
    """
    after, losses, burdens = _heard("fedminmax", state, update, ascent, then)
    return after.remember({BURDENS: simplex(burdens + ascent * losses).to(update)})


def group_dro_server(
    state: State, update: Vector, *, ascent: float = 0.1, then: Optimizer = fedavg
) -> State:
    """Move the model, and burden groups more the larger their loss, by exponentiated ascent.

    Args:
        state: The model before the round; remembers ``server/survey`` and ``server/burdens``.
        update: Means of clients' updates and of what they counted.
        ascent: Size of a step of the burdens, above 0.
        then: What moves the model.

    Raises:
        ValueError: A step out of range, or an update that ``local=fedminmax`` did not send.

    Source:
        Sagawa et al. 2020, arXiv:1911.08731, algorithm 1 (group DRO), here once a round.
    """
    after, losses, burdens = _heard("group_dro", state, update, ascent, then)
    # Who was absent, or lost to noise, in the first round would otherwise count 0 forever.
    burdens = burdens.clamp_min(FEW)
    return after.remember({BURDENS: (burdens.log() + ascent * losses).softmax(0).to(update)})


def _heard(
    name: str, state: State, update: Vector, ascent: float, then: Optimizer
) -> tuple[State, Float[Tensor, "groups"], Float[Tensor, "groups"]]:
    """Return the state without new burdens, each group's loss, and the burdens before."""
    above_zero("ascent", ascent)
    move, columns = parted(name, state, update)
    found = heard(state, columns)
    share = found.held.sum(1)
    first = share / share.sum().clamp_min(FEW)
    burdens = state.memory.get(BURDENS, first).to(first)
    return then(state, move).remember({SURVEY: columns}), found.of_groups, burdens


def simplex(point: Float[Tensor, "_"]) -> Float[Tensor, "_"]:
    """Return the nearest point whose entries are 0 or more and sum to 1.

    Source:
        Duchi et al. 2008, "Efficient projections onto the l1-ball", figure 1.
    """
    falling = point.sort(descending=True).values
    excess = (falling.cumsum(0) - 1) / torch.arange(1, len(point) + 1).to(point)
    last = int((falling > excess).sum()) - 1
    return (point - excess[last]).clamp_min(0)
