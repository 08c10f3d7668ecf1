"""FedPer and FedRep: one body for all, a head for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dai_lab.core import Compute, Key, Model, Rows, State, Task, Updates, Vector
from dai_lab.learning.descent import Descent, at_least, rate_of
from dai_lab.learning.schedules import constant
from dai_lab.learning.servers import above_zero
from dai_lab.learning.training import descend, plans_of


def fedper(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
    head: int = 1,
    epochs: int = 1,
    batch_size: int = 32,
    rate: float = 0.1,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Train body and own head together, and send the body's move alone.

    A row holds the body's parameters and nothing else. Needs ``server=body``; judge with
    ``personal=own_head``.

    Args:
        task: The model and who holds which examples.
        state: Holds each client's head, ``clients/head``.
        start: The common model ``[params]``; its head is where new clients begin.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        head: Layers with weights, from the end, that each client keeps to itself, 1 or more.
        epochs: Passes over a client's examples, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.
        weight_decay: Coupled L2 penalty.
        clip: L2 norm to which each batch's gradient is clipped, or ``None``.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Arivazhagan et al. 2019, arXiv:1912.00818, algorithms 1 and 2.
    """
    rule = Descent(rate_of(rate, schedule, round), 0.0, weight_decay, clip)
    body, _ = _cut(task.model, head)
    begin = _with_heads(state, start, cohort, body)
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    found = descend(task, begin, cohort, plans, rule, key=key, compute=compute)
    return _sent(found, begin, body)


def fedrep(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
    head: int = 1,
    head_epochs: int = 1,
    epochs: int = 1,
    batch_size: int = 32,
    rate: float = 0.1,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Fit the own head to the common body, then the body to the head, and send the body's move.

    A row holds the body's parameters and nothing else. Needs ``server=body``; judge with
    ``personal=own_head``.

    Args:
        task: The model and who holds which examples.
        state: Holds each client's head, ``clients/head``.
        start: The common model ``[params]``; its head is where new clients begin.
        cohort: Clients to train.
        key: Where each client's order of examples is drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        head: Layers with weights, from the end, that each client keeps to itself, 1 or more.
        head_epochs: Passes over a client's examples with the body frozen, 1 or more.
        epochs: Passes with the head frozen, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.
        weight_decay: Coupled L2 penalty.
        clip: L2 norm to which each batch's gradient is clipped, or ``None``.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Collins et al. 2021, arXiv:2102.07078, algorithm 1.
    """
    at_least("head_epochs", head_epochs, 1)
    body, owned = _cut(task.model, head)
    plain = Descent(rate_of(rate, schedule, round), 0.0, weight_decay, clip)
    begin = _with_heads(state, start, cohort, body)
    there = key / "head"
    plans = plans_of(task, cohort, key=there, epochs=head_epochs, batch_size=batch_size)
    rule = replace(plain, frozen=tuple(not one for one in owned))
    first = descend(task, begin, cohort, plans, rule, key=there, compute=compute)
    fitted = begin + first.rows
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    rule = replace(plain, frozen=owned)
    found = descend(task, fitted, cohort, plans, rule, key=key, compute=compute)
    return replace(_sent(found, fitted, body), looks=first.looks + found.looks)


def body(state: State, update: Vector, *, rate: float = 1.0) -> State:
    """Move the part of the model that clients share; leave the head where it is.

    Args:
        state: The model before the round.
        update: Mean move of the first parameters, those of the body.
        rate: Share of the update to take, above 0.

    Raises:
        ValueError: A rate out of range, or an update that is no body's.

    Source:
        Arivazhagan et al. 2019, arXiv:1912.00818, algorithm 1.
    """
    above_zero("rate", rate)
    if not len(update) < len(state.params):
        raise ValueError(
            f"server=body moves a part of the model's {len(state.params)} parameters and gets "
            f"{len(update)}: choose local=fedper or local=fedrep"
        )
    params = state.params.clone()
    params[: len(update)] += rate * update
    return State(params, state.memory)


def own_head(
    task: Task, state: State, clients: Sequence[int], *, key: Key, compute: Compute
) -> Rows:
    """Put each client's own head on the common body.

    Args:
        task: Unused.
        state: The common model, and the heads in ``clients/head``; who has none yet takes the
            common model's.
        clients: Whose models.
        key: Unused; nothing is drawn.
        compute: Unused.
    """
    heads = state.memory.get("clients/head", state.params.unsqueeze(0)[:, :0])
    return _with_heads(state, state.params, clients, len(state.params) - heads.shape[1])


def _cut(model: Model, head: int) -> tuple[int, tuple[bool, ...]]:
    """Return how many parameters are the body's, and which tensors are the head's."""
    at_least("head", head, 1)
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in model.names))
    if head >= len(layers):
        raise ValueError(f"local.head must be below the model's {len(layers)} layers, got {head}")
    owned = tuple(name.rpartition(".")[0] in layers[-head:] for name in model.names)
    sizes = [shape.numel() for shape in model.shapes]
    return sum(size for size, own in zip(sizes, owned, strict=True) if not own), owned


def _with_heads(state: State, start: Vector | Rows, clients: Sequence[int], body: int) -> Rows:
    rows = (start.expand(len(clients), -1) if start.dim() == 1 else start).clone()
    rows[:, body:] = state.recall("clients/head", clients, state.params[body:])
    return rows


def _sent(found: Updates, begin: Rows, body: int) -> Updates:
    heads = begin[:, body:] + found.rows[:, body:]
    return replace(found, rows=found.rows[:, :body], learned={"clients/head": heads})
