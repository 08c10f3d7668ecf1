"""What a client does between hearing from the server and answering."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.descent import Descent, rate_of
from dai_lab.learning.schedules import constant
from dai_lab.learning.training import descend, plans_of


def sgd(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
    epochs: int = 1,
    batch_size: int = 32,
    rate: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    clip: float | None = None,
    proximal: float = 0.0,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Train every client for some epochs of SGD and return how far each one moved.

    Args:
        task: The model and who holds which examples.
        state: Unused; local SGD remembers nothing from round to round.
        start: Parameters to start from, shared ``[params]`` or each its own ``[cohort, params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        epochs: Passes over a client's examples, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.
        momentum: Heavy-ball momentum in [0, 1), forgotten between rounds.
        weight_decay: Coupled L2 penalty, as in ``torch.optim.SGD``.
        clip: L2 norm to which each batch's gradient is clipped, or ``None``.
        proximal: FedProx's mu: how strongly a client is pulled back to where it started.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1; for ``proximal`` Li et al. 2020,
        arXiv:1812.06127, equation 2.
    """
    rule = Descent(rate_of(rate, schedule, round), momentum, weight_decay, clip, proximal)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    return descend(task, start, cohort, plans, rule, key=key, compute=compute)
