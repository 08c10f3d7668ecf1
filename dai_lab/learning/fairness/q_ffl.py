"""q-FFL: clients that fare worse count more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.descent import Descent, rate_of
from dai_lab.learning.fairness.survey import client_losses, weighed
from dai_lab.learning.schedules import constant
from dai_lab.learning.training import descend, plans_of


def q_ffl(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
    q: float = 1.0,
    epochs: int = 1,
    batch_size: int = 32,
    rate: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    clip: float | None = None,
    proximal: float = 0.0,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Count each client's update by its loss to the power q, for accuracy that varies less.

    Needs ``server=shared_out``, which divides by the sum of the paper's ``h``; both are divided by
    L here, the inverse of the learning rate, so that q = 0 is federated averaging. Losses above 1
    make numbers above 1: a secure sum that clips needs a larger ``secagg.clip``.

    Args:
        task: The model and who holds which examples.
        state: Unused.
        start: Parameters to start from ``[params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        q: How much a larger loss counts, 0 or more.
        epochs: Passes over a client's examples, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.
        momentum: Heavy-ball momentum in [0, 1), forgotten between rounds.
        weight_decay: Coupled L2 penalty.
        clip: L2 norm to which each batch's gradient is clipped, or ``None``.
        proximal: How strongly a client is pulled back to where it started.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Li et al. 2020, arXiv:1905.10497, algorithm 2 (q-FedAvg).
    """
    if not q >= 0:
        raise ValueError(f"local.q must be 0 or more, got {q}")
    rule = Descent(rate_of(rate, schedule, round), momentum, weight_decay, clip, proximal)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    found = descend(task, start, cohort, plans, rule, key=key, compute=compute)
    losses = client_losses(task, start, cohort).clamp_min(1e-10)
    holds = (task.shards.sizes[list(cohort)] > 0).to(losses)  # who has nothing counts for nothing
    power = losses**q * holds
    # The paper's h over L: F^q + q F^(q-1) |L (w - w_k)|^2 / L.
    squares = found.rows.double().square().sum(1).to(losses) / rule.rate
    bound = power + q * losses ** (q - 1) * squares * holds
    moved = weighed(found, bound)
    moved.rows[:, : task.model.params] = found.rows * power.to(found.rows).unsqueeze(1)
    return moved
