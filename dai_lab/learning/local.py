"""What a client does between hearing from the server and answering."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning import chain as chains
from dai_lab.learning.batches import Plan, epochs_of, side_by_side
from dai_lab.learning.descent import (
    Descent,
    abreast,
    add,
    at_least,
    drawing,
    fetch,
    held_by,
    rate_of,
    share_of,
    take_step,
)
from dai_lab.learning.methods import Method, choose
from dai_lab.learning.schedules import constant


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
    at_least("epochs", epochs, 1)
    at_least("batch_size", batch_size, 0)
    method = choose(task.model, compute, rank=task.data.inputs.dim() - 1)
    plans = [
        epochs_of(
            task.shards[client],
            key=key / "client" / client / "batches",
            epochs=epochs,
            batch_size=batch_size,
        )
        for client in cohort
    ]
    if method.name == "compiled" and plans:
        rows, losses = _compiled(method, task, start, plans, rule, compute.threads)
    else:
        rows = start.new_zeros((len(cohort), task.model.params))
        losses = torch.zeros(len(cohort))
        for members in abreast([len(plan.lengths) for plan in plans], method.group):
            if not plans[members[0]].lengths:
                break  # the longest come first: nobody is left who holds an example
            here = start[members] if start.dim() == 2 else start.expand(len(members), -1)
            with drawing(method, key, cohort[members[0]], start.device):
                moved, seen = _train(method, task, here, [plans[at] for at in members], rule)
            rows[members] = moved - here
            losses[members] = seen
    return Updates(rows, held_by(task, cohort), losses)


def _compiled(
    method: Method,
    task: Task,
    start: Vector | Rows,
    plans: Sequence[Plan],
    rule: Descent,
    threads: int,
) -> tuple[Rows, Float[Tensor, "_"]]:
    """Hand the whole cohort to the compiled trainer; return updates and mean losses."""
    # Imported here because numba takes a second, which only those who use it should pay.
    from dai_lab.learning import compiled

    assert method.chain is not None
    classes = task.model.shapes[-1][0]
    if not 0 <= int(task.data.targets.min()) <= int(task.data.targets.max()) < classes:
        raise ValueError(f"data: targets must be in 0..{classes - 1}")  # as memory, not as numbers
    linear = [layer for layer in method.chain.layers if layer.kind == "linear"]
    shapes = [task.model.shapes[layer.first] for layer in linear]
    lengths = [length for plan in plans for length in plan.lengths]
    firsts = torch.tensor([0, *(len(plan.lengths) for plan in plans)]).cumsum(0)
    rows = torch.empty((len(plans), task.model.params))
    losses = torch.zeros(len(plans), dtype=torch.float64)
    compiled.train(
        task.data.inputs.flatten(1).contiguous().numpy(),
        task.data.targets.numpy(),
        torch.cat([plan.order for plan in plans]).numpy(),
        torch.tensor([0, *lengths]).cumsum(0).numpy(),
        firsts.numpy(),
        np.array([shapes[0][1], *(shape[0] for shape in shapes)]),
        np.array([layer.bias for layer in linear]),
        start.reshape(-1, task.model.params).contiguous().numpy(),
        rows.numpy(),
        losses.numpy(),
        rate=rule.rate,
        momentum=rule.momentum,
        weight_decay=rule.weight_decay,
        clip=rule.clip,
        proximal=rule.proximal,
        threads=threads,
    )
    looks = torch.tensor([max(len(plan.order), 1) for plan in plans])
    return rows, (losses / looks).float()


def _train(
    method: Method, task: Task, start: Rows, plans: Sequence[Plan], rule: Descent
) -> tuple[Rows, Float[Tensor, "_"]]:
    """Train a group of clients, longest first, and return parameters and mean losses."""
    blocks = method.load(start)
    anchor = [block.clone() for block in blocks] if rule.proximal else []
    velocity = [torch.zeros_like(block) for block in blocks] if rule.momentum else []
    total = torch.zeros(len(start), device=start.device)
    examples, counts = side_by_side(plans)
    for step in range(examples.shape[1]):
        active = int((counts[:, step] > 0).sum())
        here, pull, push = ([block[:active] for block in of] for of in (blocks, anchor, velocity))
        counted = counts[:active, step]
        most = int(counted.max())
        inputs, targets = fetch(task, examples[:active, step, :most])
        if method.chain is not None and not rule.momentum and rule.clip is None:
            shrink = 1 - rule.rate * (rule.weight_decay + rule.proximal)
            losses = chains.descend(
                method.chain, here, here, inputs, targets, alpha=-rule.rate, beta=shrink
            )
            if rule.proximal:
                add(here, pull, rule.rate * rule.proximal)
            total[:active] += losses.sum(1)
            continue
        share = None
        if int(counted.min()) != most:
            share = share_of(counted, most).to(inputs.device)
        slopes, losses = method.slopes(here, inputs, targets, share)
        take_step(here, slopes, push, pull, rule)
        if share is not None:
            losses = losses * share * counted.unsqueeze(1).to(inputs.device)
        total[:active] += losses.sum(1)
    return method.unload(blocks), total.cpu() / counts.sum(1).clamp_min(1)
