"""Local training that promises something about every single record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dai_lab.core import Compute, Event, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.balance import refuse_penalty
from dai_lab.learning.descent import Descent, at_least, held_by, rate_of
from dai_lab.learning.local import sgd
from dai_lab.learning.methods import choose
from dai_lab.learning.private_steps import Clipped, clipping, refuse_mixing, sampler_for
from dai_lab.learning.schedules import constant


@dataclass(frozen=True)
class Lot:
    """How many of a client's examples a step takes, by chance, and how often."""

    held: int
    batch: int
    """Examples a step is expected to take; it is divided by them, not by those it got."""
    steps: int

    @property
    def rate(self) -> float:
        """Probability that a step takes an example."""
        return self.batch / self.held


def dp_sgd(
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
    norm: float = 1.0,
    noise: float = 1.0,
    keep: bool = False,
    sampler: str = "auto",
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Train every client by DP-SGD: clip each example's gradient and add noise to every sum.

    A step takes each of the client's examples with probability ``batch_size`` over all it holds,
    adds up their gradients, none longer than ``norm``, and noise of standard deviation
    ``norm * noise``, and divides by ``batch_size``, whoever came. What it gives away is in
    ``Updates.events``; that says nothing of ``losses``, ``looks`` and ``weights``, which are for
    whoever studies the run. Noise comes from the experiment's key, so that a run repeats: whoever
    knows the seed can take it off again.

    With ``norm`` infinite, ``noise`` 0 and nothing to keep this is ``sgd`` bit for bit, which
    deals batches instead of drawing them.

    Args:
        task: The model and who holds which examples.
        state: Holds every client's momentum from its last round, if ``keep``.
        start: Parameters to start from, shared ``[params]`` or each its own ``[cohort, params]``.
        cohort: Clients to train.
        key: Where each client's batches and noise are drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where gradients are computed; how is for ``sampler`` to say.
        epochs: How often a step is expected to take each example, rounded up to whole steps.
        batch_size: Examples that a step is expected to take; 0, or more than there are, takes all.
        rate: Learning rate, above 0.
        momentum: Heavy-ball momentum in [0, 1).
        weight_decay: Coupled L2 penalty, added after the noise.
        norm: L2 norm to which each example's gradient is clipped, above 0; infinite for none.
        noise: Standard deviation of the noise over ``norm``, 0 or more.
        keep: Whether a client goes on with its momentum in its next round, or begins anew.
        sampler: ``auto``, ``hooks``, ``functorch``, ``ew``, ``fast``, ``ghost`` or ``chain``; see
            ``learning.private_steps``.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range, or a network or loss that mixes examples.

    Source:
        Abadi et al. 2016, arXiv:1607.00133, algorithm 1; Yousefpour et al. 2021,
        arXiv:2109.12298 (Opacus).
    """
    refuse_penalty("dp_sgd", task)
    rule = Descent(rate_of(rate, schedule, round), momentum, weight_decay)
    at_least("epochs", epochs, 1)
    at_least("batch_size", batch_size, 0)
    if not norm > 0:
        raise ValueError(f"local.norm must be above 0, got {norm}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"local.noise must be 0 or more, got {noise}")
    if norm == math.inf and noise:
        raise ValueError(
            f"local.noise={noise} is measured in norms: give local.norm a number, or noise 0"
        )
    rank = task.data.inputs.dim() - 1
    name = sampler_for(sampler, task.model, rank=rank)
    if compute.precision != "float32":
        raise ValueError(f"compute.precision={compute.precision} is not for local=dp_sgd")
    if norm == math.inf and not keep:
        return sgd(
            task,
            state,
            start,
            cohort,
            key=key,
            round=round,
            compute=compute,
            epochs=epochs,
            batch_size=batch_size,
            rate=rate,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule=schedule,
        )
    here = task.model.initial.to(start, copy=True)
    draws = choose(task.model, Compute(compute.device), rank=rank).draws
    few = task.data.some(torch.arange(min(3, len(task.data)), device=task.data.inputs.device))
    refuse_mixing(name, task.model, here, few, draws=draws)
    clipped, size = clipping(name, task.model, here, norm=norm, example=task.data.inputs[:1])
    rows = start.new_zeros((len(cohort), task.model.params))
    paces = torch.zeros_like(rows)
    if keep:
        paces = state.recall("clients/momentum", cohort, torch.zeros_like(here))
    deviation = norm * noise if noise else 0.0
    losses, looks = torch.zeros(len(cohort)), torch.zeros(len(cohort))
    events: list[tuple[Event, ...]] = []
    for at, client in enumerate(cohort):
        held = task.shards[client].cpu()
        if not len(held):
            events.append(())
            continue
        batch = min(batch_size, len(held)) if batch_size else len(held)
        lot = Lot(len(held), batch, epochs * math.ceil(len(held) / batch))
        place = key / "client" / client
        begin = start if start.dim() == 1 else start[at]
        here.copy_(begin)
        with (place / "dropout").seeded(here.device) if draws else nullcontext():
            seen, looks[at] = _train(
                clipped, size, task, held, lot, rule, here, paces[at], place, deviation
            )
        rows[at] = here - begin
        losses[at] = seen / max(float(looks[at]), 1.0)
        events.append(promised(lot, norm=norm, noise=noise))
    learned: Mapping[str, Tensor] = {"clients/momentum": paces} if keep and momentum else {}
    return Updates(rows, held_by(task, cohort), losses, looks, learned, events=events)


def promised(lot: Lot, *, norm: float, noise: float) -> tuple[Event, ...]:
    """Say what a client's steps give away of its records."""
    if norm == math.inf:
        return ()
    if not noise:
        return (Event("open", unit="record"),)
    return (Event("gaussian", (noise,), rate=lot.rate, unit="record", times=lot.steps),)


def _train(
    clipped: Clipped,
    size: int,
    task: Task,
    held: Int[Tensor, "held"],
    lot: Lot,
    rule: Descent,
    here: Vector,
    pace: Vector,
    place: Key,
    deviation: float,
) -> tuple[float, int]:
    """Move ``here`` and its momentum ``pace`` in place; return the sum and the number of losses."""
    chance, dice = (place / "poisson").stream(), (place / "noise").stream()
    cost, looks = 0.0, 0
    for _ in range(lot.steps):
        taken = held[torch.rand(lot.held, generator=chance, dtype=torch.float64) < lot.rate]
        slope = torch.zeros_like(here)
        # Whoever came goes through a few at a time; nobody may have come at all.
        for some in taken.to(task.data.inputs.device).split(size) if len(taken) else ():
            total, _, losses = clipped(task.data.inputs[some], task.data.targets[some])
            slope += total
            cost += float(losses.sum())
        if deviation:
            drawn = torch.randn(len(here), generator=dice, dtype=here.dtype)
            slope.add_(drawn.to(here.device), alpha=deviation)
        slope.div_(lot.batch)
        if rule.weight_decay:
            slope.add_(here, alpha=rule.weight_decay)
        pace.mul_(rule.momentum).add_(slope)
        here.add_(pace, alpha=-rule.rate)
        looks += len(taken)
    return cost, looks
