"""FedFB: the server turns up whatever group and class the model serves worse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.core import Server as Optimizer
from dai_lab.learning.descent import Descent, rate_of
from dai_lab.learning.fairness.survey import FEW, SURVEY, groups_in, heard, parted, survey, told
from dai_lab.learning.schedules import constant
from dai_lab.learning.servers import above_zero, fedavg
from dai_lab.learning.training import descend, plans_of

WEIGHTS, ROUNDS = "server/weights", "server/rounds"
"""Where the server keeps what an example of each group counts for, unfavored and favored."""


def fedfb(
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
    """Weigh each example by what the server says of its group and class.

    Needs ``server=fedfb``, which learns the weights from what clients count; in the first round
    all are 1.

    Args:
        task: The model, who holds which examples, and which groups to compare.
        state: Holds ``server/weights``.
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
        Zeng, Chen and Lee 2021, arXiv:2110.15545 (FedFB), after Roh et al. 2021,
        arXiv:2012.01696 (FairBatch).
    """
    sensitive = groups_in("fedfb", task)
    rule = Descent(rate_of(rate, schedule, round), momentum, weight_decay, clip, proximal)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    weights = None
    if WEIGHTS in state.memory:
        table = state.memory[WEIGHTS].view(sensitive.count, 2).to(task.data.inputs)
        hopes = (task.data.targets == sensitive.favorable).long()
        weights = table[sensitive.of(task.data), hopes]
    found = descend(task, start, cohort, plans, rule, key=key, compute=compute, weights=weights)
    return told(found, survey(task, start, cohort, sensitive), scale=scale)


def fedfb_server(
    state: State,
    update: Vector,
    *,
    equal: str = "odds",
    favorable: int = 1,
    alpha: float = 0.05,
    then: Optimizer = fedavg,
) -> State:
    """Move the model, and weigh more the groups and classes it serves worse.

    The step of round t is ``alpha / sqrt(t)``. For ``parity`` weights move by the difference of
    each group's surrogate selection rate from that of the first group there is. For
    ``opportunity`` and ``odds`` the share of each group within a class moves by how far its mean
    loss is above the groups' middle, all of these scaled to one length. With two groups that is
    the sign of the difference or, for ``odds``, the two classes' differences scaled to length 1,
    as published.

    Args:
        state: The model before the round; remembers ``server/survey``, ``server/weights`` and
            ``server/rounds``.
        update: Means of clients' updates and of what they counted.
        equal: What should be the same for all groups: ``odds``, ``opportunity`` or ``parity``.
        favorable: Class that people hope to be given.
        alpha: Size of the first step, in shares of all examples, above 0.
        then: What moves the model.

    Raises:
        ValueError: A knob out of range, or an update that ``local=fedfb`` did not send.

    Source:
        Zeng, Chen and Lee 2021, arXiv:2110.15545; the authors' code for ``parity`` (where it adds
        a constant once a client, and caps every group as the first, this does neither).
    """
    above_zero("alpha", alpha)
    if equal not in ("odds", "opportunity", "parity"):
        raise ValueError(f"server.equal must be odds, opportunity or parity, got {equal!r}")
    move, columns = parted("fedfb", state, update)
    held, losses = _hoped(heard(state, columns).told[..., :2].clamp_min(0), favorable)
    before = state.memory.get(WEIGHTS, torch.ones(held.numel())).to(held).view(-1, 2)
    done = int(state.memory.get(ROUNDS, torch.tensor(0))) + 1
    step = alpha / math.sqrt(done)
    turn = _by_parity if equal == "parity" else _by_losses
    chosen = [1] if equal == "opportunity" else [0, 1]
    weights = turn(before, held, losses, step, chosen)
    return then(state, move).remember(
        {
            SURVEY: columns,
            WEIGHTS: weights.flatten().to(update),
            ROUNDS: torch.tensor(done),
        }
    )


Table = Float[Tensor, "groups kinds"]
"""A number for each group, of those not hoped for (0) and hoped for (1)."""


def _hoped(told: Float[Tensor, "groups classes 2"], favorable: int) -> tuple[Table, Table]:
    """Return shares of all examples, and shares times mean losses."""
    hoped = told[:, favorable]
    both = torch.stack([told.sum(1) - hoped, hoped], dim=1)
    total = both[..., 0].sum().clamp_min(FEW)
    return both[..., 0] / total, both[..., 1] / total


def _by_parity(before: Table, held: Table, losses: Table, step: float, _: list[int]) -> Table:
    there, sizes = held.sum(1) > FEW, held.sum(1).clamp_min(FEW)
    # With 0-1 losses this is the group's selection rate.
    rates = (losses[:, 0] - losses[:, 1] + held[:, 1]) / sizes
    first = int(there.int().argmax())
    moves = torch.where(there, rates - rates[first], 0.0)
    moves[first] = -moves.sum()
    unfavored = (before[:, 0] + step * moves / sizes).clamp(0, 2)
    return torch.stack([unfavored, 2 - unfavored], dim=1)


def _by_losses(before: Table, held: Table, losses: Table, step: float, chosen: list[int]) -> Table:
    there = held > FEW
    means = torch.where(there, losses / held.clamp_min(FEW), 0.0)
    middle = means.sum(0) / there.sum(0).clamp_min(1)
    apart = torch.where(there, means - middle, 0.0)[:, chosen]
    length = apart.norm().clamp_min(FEW) / math.sqrt(2)
    weights = before.clone()
    shares = held[:, chosen]
    moved = before[:, chosen] * shares + step * apart / length
    moved = moved.clamp_min(0)
    # A class keeps its share of all examples.
    moved = moved * shares.sum(0) / moved.sum(0).clamp_min(FEW)
    found = moved / shares.clamp_min(FEW)
    weights[:, chosen] = torch.where(there[:, chosen], found, before[:, chosen])
    return weights
