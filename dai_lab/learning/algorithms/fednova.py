"""FedNova: average directions, not distances, where clients take different numbers of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.descent import Descent, rate_of
from dai_lab.learning.schedules import constant
from dai_lab.learning.servers import above_zero, of_width
from dai_lab.learning.training import descend, plans_of, steps_of


def fednova(
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
    """Train as ``sgd``, and send the move for one step beside the number of steps it is worth.

    A row is ``[params + 1]``. Needs ``server=fednova``.

    Args:
        task: The model and who holds which examples.
        state: Unused; nothing is remembered from round to round.
        start: Parameters to start from, shared ``[params]`` or each its own ``[cohort, params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        epochs: Passes over a client's examples, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.
        momentum: Heavy-ball momentum in [0, 1), forgotten between rounds.
        weight_decay: Coupled L2 penalty.
        clip: L2 norm to which each batch's gradient is clipped, or ``None``.
        proximal: How strongly a client is pulled back to where it started; not with momentum.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Wang et al. 2020, arXiv:2007.07481, section 4: equation 7 and the norms of a in
        section 4.1.
    """
    if momentum and proximal:
        raise ValueError("local.momentum and local.proximal: fednova weighs steps of one kind")
    rule = Descent(rate_of(rate, schedule, round), momentum, weight_decay, clip, proximal)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    found = descend(task, start, cohort, plans, rule, key=key, compute=compute)
    worth = _worth(steps_of(plans).double(), rule).to(found.rows).unsqueeze(1)
    a_step = found.rows / worth.clamp_min(1)
    bytes_of_model = task.model.initial.nbytes
    return replace(found, rows=torch.cat([a_step, worth], dim=1), down=bytes_of_model)


def _worth(steps: Float[Tensor, "_"], rule: Descent) -> Float[Tensor, "_"]:
    """Say how many plain steps' gradients a client's move adds up: the L1 norm of its a."""
    if rule.momentum:
        beta = rule.momentum
        return (steps - beta * (1 - beta**steps) / (1 - beta)) / (1 - beta)
    # A pull that overshoots turns every other sign in a, but not in its norm.
    kept = abs(1 - rule.rate * rule.proximal)
    return steps if kept == 1 else (1 - kept**steps) / (1 - kept)


def fednova_server(state: State, update: Vector, *, rate: float = 1.0) -> State:
    """Take the mean step as often as clients stepped on average.

    Args:
        state: The model before the round.
        update: Mean step and mean number of steps ``[params + 1]``.
        rate: Share of the update to take, above 0.

    Raises:
        ValueError: A rate out of range, or an update that ``local=fednova`` did not send.

    Source:
        Wang et al. 2020, arXiv:2007.07481, equation 7.
    """
    above_zero("rate", rate)
    of_width("fednova", update, len(state.params) + 1)
    return State(state.params + rate * update[-1] * update[:-1], state.memory)
