"""IFCA: several common models; every client trains the one that fits it best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dai_lab.core import Compute, Key, Rows, State, Task, Updates, Vector
from dai_lab.learning.descent import Descent, at_least, rate_of
from dai_lab.learning.methods import predict
from dai_lab.learning.schedules import constant
from dai_lab.learning.servers import above_zero
from dai_lab.learning.training import descend, plans_of


def ifca(
    task: Task,
    state: State,
    start: Vector | Rows,
    cohort: Sequence[int],
    *,
    key: Key,
    round: int,
    compute: Compute,
    clusters: int = 3,
    epochs: int = 1,
    batch_size: int = 32,
    rate: float = 0.1,
    weight_decay: float = 0.0,
    clip: float | None = None,
    schedule: Callable[[int], float] = constant,
) -> Updates:
    """Find which common model loses least on one's examples, and train that one.

    A row holds a block for each cluster, ``[clusters * (params + 1)]``: the move and a 1 in the
    block of the chosen one, zeros elsewhere, so that a plain sum, even a secure one, is all the
    server needs. Needs ``server=ifca``; judge with ``personal=best_cluster``. The first models
    are the initial one with the entries of every weight shuffled.

    Args:
        task: The model and who holds which examples.
        state: Holds the models, ``server/clusters`` ``[clusters, params]``.
        start: Unused; the models are in the state.
        cohort: Clients to train.
        key: Where each client's order of examples, and at first the models, are drawn.
        round: Number of the round, from 1, for the schedule.
        compute: Where and how gradients are computed.
        clusters: Models to keep, 1 or more; 1 is ``sgd``.
        epochs: Passes over a client's examples, 1 or more.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.
        weight_decay: Coupled L2 penalty.
        clip: L2 norm to which each batch's gradient is clipped, or ``None``.
        schedule: From the round to a factor on the rate.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Ghosh et al. 2020, arXiv:2006.04088, algorithm 1 with model averaging.
    """
    at_least("clusters", clusters, 1)
    rule = Descent(rate_of(rate, schedule, round), 0.0, weight_decay, clip)
    models = state.memory.get("server/clusters")
    if models is None:
        models = _first(task, clusters, key / "clusters")
    chosen = _best(task, models, cohort)
    begin = models[chosen]
    plans = plans_of(task, cohort, key=key, epochs=epochs, batch_size=batch_size)
    found = descend(task, begin, cohort, plans, rule, key=key, compute=compute)
    marked = torch.cat([found.rows, torch.ones_like(found.rows[:, :1])], dim=1)
    rows = marked.new_zeros((len(cohort), clusters, marked.shape[1]))
    rows[torch.arange(len(cohort)), chosen] = marked
    size = task.model.initial.nbytes
    return replace(
        found,
        rows=rows.flatten(1),
        # A pass forward is a third of a gradient's work.
        looks=found.looks + clusters * found.weights / 3,
        memory={"server/clusters": models},
        up=size + 1,  # the number of the cluster fits a byte
        down=size * clusters,
    )


def ifca_server(state: State, update: Vector, *, rate: float = 1.0) -> State:
    """Move every model by the mean move of the clients that chose it.

    The model on which the whole federation is judged is the one most clients chose.

    Args:
        state: The models before the round, ``server/clusters``.
        update: Mean of the blocks clients sent ``[clusters * (params + 1)]``.
        rate: Share of each update to take, above 0.

    Raises:
        ValueError: A rate out of range, or an update that ``local=ifca`` did not send.

    Source:
        Ghosh et al. 2020, arXiv:2006.04088, algorithm 1.
    """
    above_zero("rate", rate)
    models = state.memory.get("server/clusters")
    if models is None or len(update) != models.numel() + len(models):
        raise ValueError("server=ifca takes what local=ifca sends: choose both")
    blocks = update.view(len(models), -1)
    share = blocks[:, -1:]
    moved = torch.where(share > 0, blocks[:, :-1] / share.clamp_min(1e-30), 0.0)
    after = models + rate * moved
    return State(after[int(share.argmax())], state.memory).remember({"server/clusters": after})


def best_cluster(
    task: Task, state: State, clients: Sequence[int], *, key: Key, compute: Compute
) -> Rows:
    """Give each client the common model that loses least on its training examples.

    Args:
        task: Who holds which examples.
        state: The models, ``server/clusters``.
        clients: Whose models.
        key: Unused; nothing is drawn.
        compute: Unused.
    """
    models = state.memory.get("server/clusters", state.params.unsqueeze(0))
    return models[_best(task, models, clients)]


def _best(
    task: Task, models: Float[Tensor, "clusters params"], clients: Sequence[int]
) -> Int[Tensor, "_"]:
    return torch.tensor([_least(task, models, client) for client in clients], dtype=torch.long)


def _least(task: Task, models: Float[Tensor, "clusters params"], client: int) -> int:
    held: Int[Tensor, "held"] = task.shards[client]
    inputs, targets = task.data.inputs[held], task.data.targets[held]
    losses = [
        float(task.model.loss(predict(task.model, one, inputs), targets).sum()) if len(held) else 0
        for one in models
    ]
    return min(range(len(losses)), key=losses.__getitem__)


def _first(task: Task, clusters: int, key: Key) -> Float[Tensor, "clusters params"]:
    models = task.model.initial.repeat(clusters, 1)
    for number in range(1, clusters):
        stream = (key / number).stream()
        for part in task.model.views(models[number]).values():
            order = torch.randperm(part.numel(), generator=stream)
            part.copy_(part.flatten()[order.to(part.device)].view_as(part))
    return models
