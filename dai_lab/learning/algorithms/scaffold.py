"""SCAFFOLD: control variates against client drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.descent import Descent, rate_of
from dai_lab.learning.schedules import constant
from dai_lab.learning.servers import above_zero, joined_by, of_width
from dai_lab.learning.training import descend, plans_of, steps_of


def scaffold(
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
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Correct every step by the difference of the server's and the client's own control.

    A row is how far the client moved, and beside it how far its control did: ``[2 * params]``.
    Needs ``server=scaffold``.

    Args:
        task: The model and who holds which examples.
        state: Holds ``server/control`` and each client's ``clients/control``.
        start: Parameters to start from, shared ``[params]`` or each its own ``[cohort, params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        epochs: Passes over a client's examples, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.
        weight_decay: Coupled L2 penalty.
        clip: L2 norm to which each corrected gradient is clipped, or ``None``.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1, option II for the controls.
    """
    rule = Descent(rate_of(rate, schedule, round), 0.0, weight_decay, clip)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    zero = torch.zeros_like(task.model.initial)
    server = state.memory.get("server/control", zero)
    own = state.recall("clients/control", cohort, zero)
    found = descend(task, start, cohort, plans, rule, key=key, compute=compute, tilt=server - own)
    length = rule.rate * steps_of(plans).to(own).unsqueeze(1)
    moved = -server - found.rows / length.clamp_min(1e-30)
    moved = torch.where(length > 0, moved, 0.0)  # who did not move learned nothing
    return replace(
        found,
        rows=torch.cat([found.rows, moved], dim=1),
        learned={"clients/control": own + moved},
    )


def scaffold_server(
    state: State, update: Vector, *, rate: float = 1.0, weighted: bool = True
) -> State:
    """Move the model by the mean move, and the control by its share of all clients.

    Args:
        state: The model before the round; remembers ``server/control``.
        update: Mean moves of models and controls ``[2 * params]``.
        rate: Share of the model's update to take, above 0.
        weighted: Whether the mean counts clients by their examples, as ``aggregator.weighted``;
            the paper's counts all the same.

    Raises:
        ValueError: A rate out of range, or an update that ``local=scaffold`` did not send.

    Source:
        Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1, lines 16 and 17.
    """
    above_zero("rate", rate)
    of_width("scaffold", update, 2 * len(state.params))
    model, control = update.split(len(state.params))
    before = state.memory.get("server/control", torch.zeros_like(control))
    joined = joined_by(state, weighted).to(control)
    return State(state.params + rate * model, state.memory).remember(
        {"server/control": before + joined * control}
    )
