"""One gradient a client at a common point, as the Byzantine literature trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.balance import refuse_penalty
from dai_lab.learning.batches import one_batch, side_by_side
from dai_lab.learning.descent import (
    Descent,
    abreast,
    at_least,
    clipped,
    drawing,
    fetch,
    held_by,
    rate_of,
    share_of,
)
from dai_lab.learning.methods import choose
from dai_lab.learning.schedules import constant

EXAMPLES_A_PASS = 2048
"""Examples of all clients together in one pass of distributed SGD; bounds the activations."""


def distributed_sgd(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
    batch_size: int = 32,
    rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Compute one stochastic gradient a client at the common point, averaged by worker momentum.

    The row is ``-rate * m`` with ``m <- momentum * m + (1 - momentum) * gradient`` kept by the
    client, as the Byzantine literature runs it; the server adds the aggregate as it is.

    Args:
        task: The model and who holds which examples.
        state: Holds every client's momentum from its last round, as ``clients/momentum``.
        start: The common point ``[params]``, or each client's own ``[cohort, params]``.
        cohort: Clients that take part.
        key: Where each client's batch is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        batch_size: Examples drawn without replacement; 0 takes all.
        rate: Learning rate, above 0.
        momentum: Worker momentum in [0, 1); 0 keeps no memory.
        weight_decay: L2 penalty added to the gradient.
        clip: L2 norm to which each gradient is clipped before momentum, or ``None``.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Karimireddy, He and Jaggi 2021, arXiv:2012.10333, algorithm 2.
    """
    refuse_penalty("distributed_sgd", task)
    rule = Descent(rate_of(rate, schedule, round), momentum, weight_decay, clip)
    at_least("batch_size", batch_size, 0)
    method = choose(task.model, compute, rank=task.data.inputs.dim() - 1)
    plans = [
        one_batch(
            task.shards[client],
            key=key / "client" / client / "batches",
            batch_size=batch_size,
        )
        for client in cohort
    ]
    # Rows are large. Where nothing is remembered, each is written once, as it is sent.
    gain = 1 - rule.momentum if rule.momentum else -rule.rate
    if rule.momentum:
        nothing = start.new_zeros(task.model.params)
        slopes = state.recall("clients/momentum", cohort, nothing)
    else:
        slopes = start.new_empty((len(cohort), task.model.params))
    losses = torch.zeros(len(cohort))
    largest = max((len(plan.order) for plan in plans), default=0)
    per_pass = max(1, EXAMPLES_A_PASS // max(largest, 1))
    apart = start.dim() == 2
    if method.name == "vmap" and apart:
        per_pass = min(per_pass, method.group)
    elif apart or method.name == "flat":
        per_pass = 1  # nothing is shared: every client stands elsewhere, or draws for itself
    for members in abreast([len(plan.lengths) for plan in plans], per_pass):
        examples, counts = side_by_side([plans[at] for at in members])
        if counts.numel() == 0:
            slopes[members] = slopes[members] * rule.momentum if rule.momentum else 0.0
            continue
        inputs, targets = fetch(task, examples[:, 0])
        share = share_of(counts[:, 0], examples.shape[2]).to(inputs.device)
        blocks = method.load(start[members] if apart else start.unsqueeze(0))
        with drawing(method, key, cohort[members[0]], start.device):
            in_order = members == [*range(members[0], members[-1] + 1)]
            if rule.clip is None and in_order and method.chain is not None:
                into = slopes[members[0] : members[-1] + 1]
                seen = method.add_slopes_at_one_point(
                    blocks,
                    inputs,
                    targets,
                    share,
                    into=into,
                    alpha=gain,
                    beta=rule.momentum,
                )
            else:
                stacked = apart and method.name == "vmap"
                slopes_of = method.slopes if stacked else method.slopes_at_one_point
                found, seen = slopes_of(blocks, inputs, targets, share)
                if rule.clip is not None:
                    found = clipped(found, rule.clip)
                fresh = gain * method.unload(found)
                if rule.momentum:
                    fresh += rule.momentum * slopes[members]
                slopes[members] = fresh
        losses[members] = (seen * share).sum(1).float().cpu()
    if rule.weight_decay:
        holds = torch.tensor([bool(plan.lengths) for plan in plans]).to(start).unsqueeze(1)
        slopes.add_(holds * start, alpha=gain * rule.weight_decay)
    looks = torch.tensor([float(len(plan.order)) for plan in plans])
    held = held_by(task, cohort)
    if not rule.momentum:
        return Updates(slopes, held, losses, looks)
    return Updates(-rule.rate * slopes, held, losses, looks, {"clients/momentum": slopes})
