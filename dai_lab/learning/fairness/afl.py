"""Agnostic federated learning: good for whatever mixture of the clients comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.core import Server as Optimizer
from dai_lab.learning.descent import Descent, rate_of
from dai_lab.learning.fairness.minimax import simplex
from dai_lab.learning.fairness.survey import FEW, client_losses, parted, weighed
from dai_lab.learning.schedules import constant
from dai_lab.learning.servers import above_zero, fedavg
from dai_lab.learning.training import descend, plans_of

MIXTURE = "server/mixture"
"""Where the server keeps what each client counts for."""


def afl(
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
    """Count each client as the worst mixture for the model has it.

    A client tells its loss, in a place of its own: the server must know whose it is, whatever
    hides the updates. Needs ``server=afl``. A small client tells numbers above 1, up to its loss
    times the mean client's examples over its own: a secure sum that clips entries needs
    ``secagg.clip`` as large.

    Args:
        task: The model and who holds which examples.
        state: Holds ``server/mixture``, what each registered client counts for.
        start: Parameters to start from ``[params]``.
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
        proximal: How strongly a client is pulled back to where it started.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Mohri, Sivek and Suresh 2019, arXiv:1902.00146, section 4 (stochastic AFL), with a
        client's epochs for its one gradient.
    """
    rule = Descent(rate_of(rate, schedule, round), momentum, weight_decay, clip, proximal)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    found = descend(task, start, cohort, plans, rule, key=key, compute=compute)
    clients = len(task.shards)
    sizes = task.shards.sizes.double()
    mixture = state.memory.get(MIXTURE, sizes / sizes.sum()).double().cpu()
    # The server weighs by examples, so a client divides by its own; the mean one is 1.
    inverse = torch.where(sizes > 0, sizes.mean() / sizes.clamp_min(1), 0.0)[list(cohort)]
    factors = mixture[list(cohort)] * clients * inverse
    losses = client_losses(task, start, cohort).cpu() * inverse
    places = torch.zeros((2, len(cohort), clients), dtype=torch.float64)
    at = torch.arange(len(cohort)), torch.tensor(list(cohort), dtype=torch.long)
    places[0][at], places[1][at] = inverse, losses
    found = replace(found, memory={**found.memory, MIXTURE: mixture.to(found.rows)})
    return weighed(found, factors, *places)


def afl_server(
    state: State, update: Vector, *, ascent: float = 0.1, then: Optimizer = fedavg
) -> State:
    """Move the model by the mixture's mean update, and the mixture towards larger losses.

    Args:
        state: The model before the round; remembers ``server/mixture``.
        update: Means of updates times factors, of factors, of who is there, and of losses.
        ascent: Size of a step of the mixture, above 0.
        then: What moves the model.

    Raises:
        ValueError: A step out of range, or an update that ``local=afl`` did not send.

    Source:
        Mohri, Sivek and Suresh 2019, arXiv:1902.00146, figure 3.
    """
    above_zero("ascent", ascent)
    move, rest = parted("afl", state, update)
    there, lost = rest[1:].double().chunk(2)
    present = there > FEW / len(there)
    losses = torch.where(present, lost / there.clamp_min(FEW / len(there)), 0.0)
    before = state.memory[MIXTURE].to(losses)
    after = then(state, move / rest[0]) if float(rest[0]) > 0 else state
    return after.remember({MIXTURE: simplex(before + ascent * losses).to(update)})
