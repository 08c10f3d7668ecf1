"""Local adaptive optimizers, begun anew every round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.descent import Descent, rate_of
from dai_lab.learning.schedules import constant
from dai_lab.learning.training import descend, plans_of


def adam(
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
    rate: float = 0.001,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Train every client by Adam with decoupled weight decay (AdamW).

    Args:
        task: The model and who holds which examples.
        state: Unused; moments are forgotten between rounds.
        start: Parameters to start from, shared ``[params]`` or each its own ``[cohort, params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        epochs: Passes over a client's examples, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.
        beta1: What is kept of the mean gradient each step, in [0, 1).
        beta2: What is kept of the mean square each step, in [0, 1).
        epsilon: Added to the root of the mean square, above 0.
        weight_decay: Share of the weights, times the rate, that goes each step.
        clip: L2 norm to which each batch's gradient is clipped, or ``None``.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Wang et al. 2021, arXiv:2106.02305 (local adaptivity, restarted every round); Loshchilov
        and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    if not 0 <= beta1 < 1:
        raise ValueError(f"local.beta1 must be in [0, 1), got {beta1}")
    rule = Descent(
        rate_of(rate, schedule, round), beta1, weight_decay, clip, 0.0, "adam", beta2, epsilon
    )
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    return descend(task, start, cohort, plans, rule, key=key, compute=compute)


def adagrad(
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
    rate: float = 0.01,
    epsilon: float = 1e-10,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Train every client by Adagrad.

    Args:
        task: The model and who holds which examples.
        state: Unused; sums are forgotten between rounds.
        start: Parameters to start from, shared ``[params]`` or each its own ``[cohort, params]``.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        epochs: Passes over a client's examples, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.
        epsilon: Added to the root of the sum of squares, above 0.
        weight_decay: Coupled L2 penalty.
        clip: L2 norm to which each batch's gradient is clipped, or ``None``.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Wang et al. 2021, arXiv:2106.02305; Duchi, Hazan and Singer 2011 (diagonal Adagrad).
    """
    rule = Descent(
        rate_of(rate, schedule, round), 0.0, weight_decay, clip, 0.0, "adagrad", 0.0, epsilon
    )
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    return descend(task, start, cohort, plans, rule, key=key, compute=compute)
