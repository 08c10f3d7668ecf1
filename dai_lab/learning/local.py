"""What a client does between hearing from the server and answering."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning import chain as chains
from dai_lab.learning.batches import Plan, epochs_of, one_batch, side_by_side
from dai_lab.learning.chain import Blocks
from dai_lab.learning.methods import Method, choose
from dai_lab.learning.schedules import constant


@dataclass(frozen=True)
class Descent:
    """The knobs of one step of local SGD, checked."""

    rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = None
    proximal: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"local.momentum must be in [0, 1), got {self.momentum}")
        if not self.weight_decay >= 0:
            raise ValueError(f"local.weight_decay must be 0 or more, got {self.weight_decay}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"local.clip must be above 0 or null, got {self.clip}")
        if not self.proximal >= 0:
            raise ValueError(f"local.proximal must be 0 or more, got {self.proximal}")


def _rate(rate: float, schedule: Callable[[int], float], round: int) -> float:
    """The learning rate of a round."""
    if not rate > 0:
        raise ValueError(f"local.rate must be above 0, got {rate}")
    factor = schedule(round)
    if not factor >= 0:
        raise ValueError(f"local.schedule must stay at 0 or more, gives {factor} in round {round}")
    return rate * factor


def _whole(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"local.{name} must be {least} or more, got {value}")


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
    rule = Descent(_rate(rate, schedule, round), momentum, weight_decay, clip, proximal)
    _whole("epochs", epochs, 1)
    _whole("batch_size", batch_size, 0)
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
        for members in _abreast([len(plan.lengths) for plan in plans], method.group):
            if not plans[members[0]].lengths:
                break  # the longest come first: nobody is left who holds an example
            here = start[members] if start.dim() == 2 else start.expand(len(members), -1)
            with _drawing(method, key, cohort[members[0]], start.device):
                moved, seen = _train(method, task, here, [plans[at] for at in members], rule)
            rows[members] = moved - here
            losses[members] = seen
    return Updates(rows, _held(task, cohort), losses)


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
    rule = Descent(_rate(rate, schedule, round), momentum, weight_decay, clip)
    _whole("batch_size", batch_size, 0)
    method = choose(task.model, compute, rank=task.data.inputs.dim() - 1)
    plans = [
        one_batch(
            task.shards[client],
            key=key / "client" / client / "batches",
            batch_size=batch_size,
        )
        for client in cohort
    ]
    slopes = start.new_zeros((len(cohort), task.model.params))
    losses = torch.zeros(len(cohort))
    largest = max((len(plan.order) for plan in plans), default=0)
    per_pass = max(1, EXAMPLES_A_PASS // max(largest, 1))
    if start.dim() == 2 or method.name == "flat":
        per_pass = 1  # nothing is shared: every client stands elsewhere, or draws for itself
    for members in _abreast([len(plan.lengths) for plan in plans], per_pass):
        examples, counts = side_by_side([plans[at] for at in members])
        if counts.numel() == 0:
            break
        inputs, targets = _fetch(task, examples[:, 0])
        share = _share(counts[:, 0], examples.shape[2]).to(inputs.device)
        blocks = method.load(start.unsqueeze(0) if start.dim() == 1 else start[members])
        with _drawing(method, key, cohort[members[0]], start.device):
            found, seen = method.slopes_at_one_point(blocks, inputs, targets, share)
        if rule.clip is not None:
            found = _clipped(found, rule.clip)
        slopes[members] = method.unload(found)
        losses[members] = (seen * share).sum(1).float().cpu()
    holds = torch.tensor([bool(plan.lengths) for plan in plans]).to(start).unsqueeze(1)
    slopes += rule.weight_decay * holds * start
    memory: Mapping[str, Tensor] = {}
    if rule.momentum:
        before = state.recall("clients/momentum", cohort, slopes.new_zeros(task.model.params))
        slopes = rule.momentum * before + (1 - rule.momentum) * slopes
        memory = state.keep("clients/momentum", cohort, slopes)
    return Updates(-rule.rate * slopes, _held(task, cohort), losses, memory)


EXAMPLES_A_PASS = 2048
"""Examples of all clients together in one pass of distributed SGD; bounds the activations."""


def _drawing(
    method: Method, key: Key, client: int, device: torch.device
) -> AbstractContextManager[None]:
    """Let a module that draws (dropout) draw from the client's own stream."""
    if method.name != "flat":
        return nullcontext()  # the others take no module that draws
    return (key / "client" / client / "dropout").seeded(device)


def _held(task: Task, cohort: Sequence[int]) -> Float[Tensor, "_"]:
    """Examples behind each row."""
    return task.shards.sizes[list(cohort)].to(torch.float32)


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


def _abreast(steps: Sequence[int], group: int) -> Iterator[list[int]]:
    """Deal clients to groups of similar length, longest first; equal ones keep their order."""
    order = sorted(range(len(steps)), key=lambda at: -steps[at])
    for first in range(0, len(order), group):
        yield order[first : first + group]


def _fetch(task: Task, examples: Tensor) -> tuple[Tensor, Tensor]:
    """Collect inputs ``[G, B, *S]`` and targets ``[G, B]`` from the one copy of the data."""
    at = examples.flatten().to(task.data.inputs.device)
    inputs = task.data.inputs.index_select(0, at).unflatten(0, examples.shape)
    return inputs, task.data.targets.index_select(0, at).view(examples.shape)


def _share(counts: Tensor, batch: int) -> Tensor:
    """What each example counts for in its client's mean: ``[G, batch]``, padding nothing."""
    real = torch.arange(batch) < counts.unsqueeze(1)
    return real / counts.clamp_min(1).unsqueeze(1)


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
        inputs, targets = _fetch(task, examples[:active, step, :most])
        if method.chain is not None and not rule.momentum and rule.clip is None:
            shrink = 1 - rule.rate * (rule.weight_decay + rule.proximal)
            losses = chains.descend(
                method.chain, here, here, inputs, targets, alpha=-rule.rate, beta=shrink
            )
            if rule.proximal:
                _add(here, pull, rule.rate * rule.proximal)
            total[:active] += losses.sum(1)
            continue
        share = None
        if int(counted.min()) != most:
            share = _share(counted, most).to(inputs.device)
        slopes, losses = method.slopes(here, inputs, targets, share)
        _step(here, slopes, push, pull, rule)
        if share is not None:
            losses = losses * share * counted.unsqueeze(1).to(inputs.device)
        total[:active] += losses.sum(1)
    return method.unload(blocks), total.cpu() / counts.sum(1).clamp_min(1)


def _add(blocks: Blocks, others: Blocks, factor: float) -> None:
    torch._foreach_add_(blocks, others, alpha=factor)


def _clipped(slopes: Blocks, bound: float) -> Blocks:
    """Scale each client's gradient to at most ``bound`` in L2 norm."""
    squares = torch.stack([slope.flatten(1).square().sum(1) for slope in slopes]).sum(0)
    factors = (bound / squares.sqrt().clamp_min(1e-12)).clamp_max(1)
    return [slope * factors.view(-1, *[1] * (slope.dim() - 1)) for slope in slopes]


def _step(blocks: Blocks, slopes: Blocks, velocity: Blocks, anchor: Blocks, rule: Descent) -> None:
    """One step of SGD in place; the penalties go where ``torch.optim.SGD`` users put them."""
    if rule.proximal:
        _add(slopes, blocks, rule.proximal)
        _add(slopes, anchor, -rule.proximal)
    if rule.clip is not None:
        slopes = _clipped(slopes, rule.clip)
    if rule.weight_decay:
        _add(slopes, blocks, rule.weight_decay)
    if rule.momentum:
        torch._foreach_mul_(velocity, rule.momentum)
        _add(velocity, slopes, 1.0)
        slopes = velocity
    _add(blocks, slopes, -rule.rate)
