"""Shadow models: many models of one kind, each trained on its own half of a pool of examples.

They are the clients of one cohort, so whatever trains clients side by side trains them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dai_lab.core import (
    Compute,
    Examples,
    Key,
    LocalTraining,
    Model,
    Rows,
    Shards,
    State,
    Task,
    Vector,
)

BATCH = 1024
"""Examples shown to a model at a time."""


@dataclass(frozen=True)
class Shadows:
    """Models, and which examples each was trained on."""

    rows: Rows
    """Parameters, one model a row."""
    members: Bool[Tensor, "_ examples"]
    """Whether a model was trained on an example. Rows ``2 j`` and ``2 j + 1`` are opposites."""

    def __len__(self) -> int:
        return len(self.rows)


def halves(count: int, examples: int, *, key: Key) -> Bool[Tensor, "count examples"]:
    """Deal a pool to ``count`` models in pairs: what one of a pair is trained on, its twin is not.

    Every example is thus in exactly half of the models, and stays so if a pair is left out. An
    auditor who leaves out a pair learns nothing from how often an example is in the others.

    Args:
        count: Models; even, and at least 2.
        examples: Size of the pool, at least 2; the first of a pair takes the larger half.
        key: Where the halves are drawn.

    Raises:
        ValueError: An odd number of models, or a pool that has no two halves.
    """
    if count < 2 or count % 2:
        raise ValueError(f"shadows.count must be even and at least 2, got {count}")
    if examples < 2:
        raise ValueError(f"shadows: a pool of {examples} examples has no two halves")
    members = torch.zeros((count, examples), dtype=torch.bool)
    for pair in range(0, count, 2):
        order = torch.randperm(examples, generator=(key / "halves" / pair).stream())
        members[pair, order[: (examples + 1) // 2]] = True
        members[pair + 1] = ~members[pair]
    return members


def shadows(
    local: LocalTraining,
    model: Model,
    examples: Examples,
    *,
    count: int,
    key: Key,
    compute: Compute,
    rounds: int = 1,
    start: Vector | Rows | None = None,
) -> Shadows:
    """Train ``count`` models side by side, each on its own random half of ``examples``.

    Args:
        local: Trains them; one that remembers something from round to round forgets it here.
        model: What is trained.
        examples: The pool.
        count: Models, an even number.
        key: Where halves, and orders of examples, are drawn.
        compute: Where and how gradients are computed.
        rounds: How often ``local`` is run, each time from where it stopped; 1 or more.
        start: Parameters to start from, shared ``[params]`` or each its own ``[count, params]``;
            the model's initial ones unless given.

    Raises:
        ValueError: A knob is out of range, or ``start`` has another number of rows.

    Source:
        Shokri et al. 2017, arXiv:1610.05820, section V-C (shadow models); Carlini et al. 2022,
        arXiv:2112.03570, section VI-A (every example in half of the models).
    """
    if rounds < 1:
        raise ValueError(f"shadows.rounds must be at least 1, got {rounds}")
    members = halves(count, len(examples), key=key)
    rows = model.initial if start is None else start
    if rows.dim() == 2 and len(rows) != count:
        raise ValueError(f"shadows: start has {len(rows)} rows for count={count} models")
    rows = rows.expand(count, -1)
    task = Task(model, examples, Shards.of([held.nonzero().squeeze(1) for held in members]))
    for round in range(1, rounds + 1):
        place = key / "round" / round
        state = State(model.initial)
        updates = local(task, state, rows, range(count), key=place, round=round, compute=compute)
        rows = rows + updates.rows
    return Shadows(rows, members)


def losses(model: Model, rows: Rows, examples: Examples) -> Float[Tensor, "_ examples"]:
    """Charge every model of ``rows`` for every example.

    Args:
        model: What the rows are parameters of.
        rows: One model a row.
        examples: Members or not.
    """
    return _shown(model, rows, examples, model.loss)


def confidences(model: Model, rows: Rows, examples: Examples) -> Float[Tensor, "_ examples"]:
    """Say how sure every model is of every example's class, as log-odds.

    ``log p - log(1 - p)`` of the right class, taken from the network's outputs so that a
    probability that rounds to 1 does not end at infinity. Over models it is close to normal.

    Args:
        model: A classifier with two or more outputs.
        rows: One model a row.
        examples: Members or not.

    Raises:
        ValueError: A model without classes.

    Source:
        Carlini et al. 2022, arXiv:2112.03570, section IV-A.
    """
    return _shown(model, rows, examples, log_odds)


def log_odds(outputs: Tensor, targets: Tensor) -> Float[Tensor, "batch"]:
    """Return the log-odds of each example's class.

    Args:
        outputs: A network's outputs before softmax, ``[batch, classes]``.
        targets: The right classes ``[batch]``.

    Raises:
        ValueError: Fewer than two outputs an example.
    """
    if outputs.dim() != 2 or outputs.shape[1] < 2:
        raise ValueError(f"confidences need classes, and outputs are {list(outputs.shape)}")
    right = outputs.gather(1, targets.unsqueeze(1))
    others = outputs.scatter(1, targets.unsqueeze(1), -torch.inf)
    return right.squeeze(1) - others.logsumexp(1)


def _shown(
    model: Model, rows: Rows, examples: Examples, judge: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, "_ examples"]:
    seen = rows.new_empty((len(rows), len(examples)))
    with torch.no_grad():
        for at, row in enumerate(rows):
            for first in range(0, len(examples), BATCH):
                place = slice(first, first + BATCH)
                outputs = model(row, examples.inputs[place])
                seen[at, place] = judge(outputs, examples.targets[place])
    return seen
