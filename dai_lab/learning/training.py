"""Steps of descent for a whole cohort: what every algorithm's clients do in the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Compute, Key, Rows, Task, Updates, Vector
from dai_lab.learning import chain as chains
from dai_lab.learning.balance import Balance
from dai_lab.learning.batches import Plan, epochs_of, side_by_side
from dai_lab.learning.descent import (
    Descent,
    Memory,
    abreast,
    add,
    at_least,
    drawing,
    fetch,
    held_by,
    share_of,
)
from dai_lab.learning.methods import Method, choose


def plans_of(
    task: Task, cohort: Sequence[int], *, key: Key, epochs: int, batch_size: int
) -> list[Plan]:
    """Draw the order in which each client of a cohort looks at its examples."""
    at_least("epochs", epochs, 1)
    at_least("batch_size", batch_size, 0)
    return [
        epochs_of(
            task.shards[client],
            key=key / "client" / client / "batches",
            epochs=epochs,
            batch_size=batch_size,
        )
        for client in cohort
    ]


def looks_of(plans: Sequence[Plan]) -> Float[Tensor, "_"]:
    """Count the gradients of examples that each plan asks for."""
    return torch.tensor([float(len(plan.order)) for plan in plans])


def steps_of(plans: Sequence[Plan]) -> Float[Tensor, "_"]:
    """Count the steps of each plan."""
    return torch.tensor([float(len(plan.lengths)) for plan in plans])


def descend(
    task: Task,
    start: Vector | Rows,
    cohort: Sequence[int],
    plans: Sequence[Plan],
    rule: Descent,
    *,
    key: Key,
    compute: Compute,
    anchor: Vector | Rows | None = None,
    tilt: Vector | Rows | None = None,
    weights: Float[Tensor, "examples"] | None = None,
) -> Updates:
    """Train a cohort by its plans and return how far each client moved.

    Where the task says so (``fairness.penalty``), every step is charged for gaps between groups
    of people in its batch.

    Args:
        task: The model and who holds which examples.
        start: Parameters to start from, shared ``[params]`` or each its own ``[cohort, params]``.
        cohort: Clients to train.
        plans: What each of them looks at, step by step.
        rule: What a step is.
        key: Where a module that draws (dropout) draws.
        compute: Where and how gradients are computed.
        anchor: Where ``rule.proximal`` pulls, shared or each its own; the start unless given.
        tilt: Added to every gradient, shared or each its own; nothing unless given.
        weights: What each of the task's examples counts for in the mean loss of its batch; 1
            unless given.
    """
    fair = Balance.of(task, weights)
    method = choose(task.model, compute, rank=task.data.inputs.dim() - 1)
    anchor = start if anchor is None else anchor
    if method.name == "compiled" and plans:
        rows, losses = _compiled(
            method, task, start, plans, rule, compute.threads, anchor, tilt, fair
        )
    else:
        rows = start.new_zeros((len(cohort), task.model.params))
        losses = torch.zeros(len(cohort))
        for members in abreast([len(plan.lengths) for plan in plans], method.group):
            if not plans[members[0]].lengths:
                break  # the longest come first: nobody is left who holds an example
            here, pull = _of(start, members), _of(anchor, members)
            push = None if tilt is None else _of(tilt, members)
            some = [plans[at] for at in members]
            with drawing(method, key, cohort[members[0]], start.device):
                moved, seen = _train(method, task, here, some, rule, pull, push, fair)
            rows[members] = moved - here
            losses[members] = seen
    return Updates(rows, held_by(task, cohort), losses, looks_of(plans))


def _of(vectors: Vector | Rows, members: Sequence[int]) -> Rows:
    return vectors[members] if vectors.dim() == 2 else vectors.expand(len(members), -1)


def _compiled(
    method: Method,
    task: Task,
    start: Vector | Rows,
    plans: Sequence[Plan],
    rule: Descent,
    threads: int,
    anchor: Vector | Rows,
    tilt: Vector | Rows | None,
    fair: Balance,
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
    none = torch.empty((0, task.model.params))
    compiled.train(
        task.data.inputs.flatten(1).contiguous().numpy(),
        task.data.targets.numpy(),
        torch.cat([plan.order for plan in plans]).numpy(),
        torch.tensor([0, *lengths]).cumsum(0).numpy(),
        firsts.numpy(),
        np.array([shapes[0][1], *(shape[0] for shape in shapes)]),
        np.array([layer.bias for layer in linear]),
        np.array([not (rule.frozen and rule.frozen[layer.first]) for layer in linear]),
        start.reshape(-1, task.model.params).contiguous().numpy(),
        anchor.reshape(-1, task.model.params).contiguous().numpy(),
        none.numpy() if tilt is None else tilt.reshape(-1, task.model.params).contiguous().numpy(),
        rows.numpy(),
        losses.numpy(),
        weights=None if fair.weights is None else fair.weights.numpy(),
        groups=None if fair.groups is None else fair.groups.numpy(),
        strata=fair.strata(classes).numpy(),
        favorable=fair.favorable,
        penalty=fair.penalty,
        rate=rule.rate,
        momentum=rule.momentum,
        weight_decay=rule.weight_decay,
        clip=rule.clip,
        proximal=rule.proximal,
        threads=threads,
        second=rule.second,
        beta2=rule.beta2,
        epsilon=rule.epsilon,
    )
    looks = torch.tensor([max(len(plan.order), 1) for plan in plans])
    return rows, (losses / looks).float()


def _train(
    method: Method,
    task: Task,
    start: Rows,
    plans: Sequence[Plan],
    rule: Descent,
    pull: Rows,
    push: Rows | None,
    fair: Balance,
) -> tuple[Rows, Float[Tensor, "_"]]:
    """Train a group of clients, longest first, and return parameters and mean losses."""
    blocks = method.load(start)
    anchor = method.load(pull) if rule.proximal else []
    tilt = [] if push is None else method.load(push)
    memory = Memory.of(rule, blocks)
    total = torch.zeros(len(start), device=start.device)
    examples, counts = side_by_side(plans)
    examples = examples.to(start.device)  # once, not step by step
    for step in range(examples.shape[1]):
        active = int((counts[:, step] > 0).sum())
        here, there, tilted = ([block[:active] for block in of] for of in (blocks, anchor, tilt))
        counted = counts[:active, step]
        most = int(counted.max())
        inputs, targets = fetch(task, examples[:active, step, :most])
        if method.chain is not None and rule.plain and not fair:
            shrink = 1 - rule.rate * (rule.weight_decay + rule.proximal)
            losses = chains.descend(
                method.chain, here, here, inputs, targets, alpha=-rule.rate, beta=shrink
            )
            if rule.proximal:
                add(here, there, rule.rate * rule.proximal)
            if tilt:
                add(here, tilted, -rule.rate)
            total[:active] += losses.sum(1)
            continue
        share = None
        if int(counted.min()) != most:
            share = share_of(counted, most).to(inputs.device)
        charge = None
        if fair:
            share = share_of(counted, most).to(inputs.device) if share is None else share
            share, charge = fair.at(examples[:active, step, :most], share, targets)
        slopes, losses = method.slopes(here, inputs, targets, share, charge)
        memory.step(here, list(slopes), there, tilted)
        if share is not None:
            losses = losses * share * counted.unsqueeze(1).to(inputs.device)
        total[:active] += losses.sum(1)
    return method.unload(blocks), total.cpu() / counts.sum(1).clamp_min(1)
