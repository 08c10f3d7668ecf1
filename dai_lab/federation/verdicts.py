"""What an aggregator is told beside the rows, and what its verdict adds to the record."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dai_lab.core import Aggregate, Context, Key, Rows, Shards, State, Training, Vector, Visible
from dai_lab.federation.founding import Federation
from dai_lab.learning import predict
from dai_lab.metrics import accuracy, correct, mean_loss

NAMED = 1000
"""Visible rows up to which a record names clients; above, it only counts."""


def with_server(us: Federation) -> Shards:
    """Return who holds what, with the server as one more client behind the last."""
    held = us.task.shards
    end = torch.tensor([len(held.indices) + len(us.root)])
    return Shards(torch.cat([held.indices, us.root]), torch.cat([held.offsets, end]))


def known(
    us: Federation, train: Training, state: State, number: int, key: Key
) -> tuple[Context, Callable[[], float]]:
    """Return what the server knows in this round, and a way to ask what it computed for it.

    Where it has examples of its own, it trains on them as one more client would, from the same
    start; what a client would remember for its next round is forgotten.
    """
    if not len(us.root):
        return Context(key, state, us.task.model), float
    trained: list[tuple[Vector, float]] = []

    def root() -> Vector:
        if not trained:
            server = (len(us.task.shards),)
            found = train(state, state.params, server, key=key / "root", round=number)
            trained.append((found.rows[0], us.work * float(found.looks.sum())))
        return trained[0][0]

    context = Context(key, state, us.task.model, root, judge_on(us, us.root))
    return context, lambda: sum(spent for _, spent in trained)


def judge_on(
    us: Federation, examples: Int[Tensor, "_"]
) -> Callable[[Rows], tuple[Float[Tensor, "_"], Float[Tensor, "_"]]]:
    """Return a way to find models' losses and error rates on some training examples."""

    def judge(params: Rows) -> tuple[Float[Tensor, "_"], Float[Tensor, "_"]]:
        model, data = us.task.model, us.task.data
        inputs, targets = data.inputs[examples], data.targets[examples]
        outputs = [predict(model, one, inputs) for one in params]
        losses = [mean_loss(model.loss(one, targets)) for one in outputs]
        errors = losses
        if us.classes:
            errors = [1 - accuracy(correct(one, targets)) for one in outputs]
        return params.new_tensor(losses), params.new_tensor(errors)

    return judge


def verdict(visible: Visible, found: Aggregate, hostile: Collection[int]) -> dict[str, Any]:
    """Say who was seen, dropped and suspected, and how many of those are hostile.

    Rows are separated by commas; the clients behind a row that is a group by plus signs.
    """
    dropped = ~(found.shares != 0)
    lying = [any(one in hostile for one in members) for members in visible.members]
    caught = found.suspected.cpu() & torch.tensor(lying, dtype=torch.bool)
    record: dict[str, Any] = {
        "rows_dropped": int(dropped.sum()),
        "rows_suspected": int(found.suspected.sum()),
        "hostile_suspected": int(caught.sum()),
        **{f"aggregator/{name}": value for name, value in found.record.items()},
    }
    if visible.count <= NAMED:
        everyone = torch.ones_like(dropped)
        for name, which in ("seen", everyone), ("dropped", dropped), ("suspected", found.suspected):
            chosen = [visible.members[row] for row in which.nonzero().flatten().tolist()]
            record[f"clients_{name}"] = ",".join("+".join(map(str, members)) for members in chosen)
    return record
