"""What clients tell of the common model beside how they would change it: counts by group.

No example and no attribute leaves a client. Its row goes on with one number for each of four counts
in each group and class, as shares of what it holds; so whatever becomes of rows, be it a secure
sum, noise, or a lie, becomes of the counts. They are of the model a round began with: what the
server makes of them is known to clients one round later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Rows, Sensitive, State, Task, Updates, Vector
from dai_lab.core import Server as Optimizer
from dai_lab.learning.methods import predict
from dai_lab.learning.servers import fedavg

SURVEY = "server/survey"
"""Where the server keeps what the last round's clients told."""

GROUPS = "server/groups"
"""Where clients leave how many groups there are, which the server cannot know."""

KINDS = 4
"""Examples, the sum of their losses, favorable answers, and right answers."""

FEW = 1e-6
"""Share of all examples below which a noisy count says nothing."""


Counts: TypeAlias = Float[Tensor, "clients groups classes kinds"]
"""What each client of a cohort counts, as shares of what it holds."""


@dataclass(frozen=True)
class Survey:
    """Counts by group and class, as shares of all examples."""

    told: Float[Tensor, "groups classes kinds"]

    @property
    def held(self) -> Float[Tensor, "groups classes"]:
        """Share of all examples in each cell; noise may have made some negative."""
        return self.told[..., 0].clamp_min(0)

    @property
    def losses(self) -> Float[Tensor, "groups classes"]:
        """Mean loss in each cell, 0 where nobody is."""
        return self.told[..., 1].clamp_min(0) / self.held.clamp_min(FEW)

    @property
    def of_groups(self) -> Float[Tensor, "groups"]:
        """Mean loss of each group, 0 where nobody is."""
        return self.told[..., 1].sum(1).clamp_min(0) / self.held.sum(1).clamp_min(FEW)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float((self.told[..., 3].sum() / self.held.sum().clamp_min(FEW)).clamp(0, 1))

    def favored(self, favorable: int, among: str) -> Float[Tensor, "groups"]:
        """Share of each group that is answered favorably; NaN where nobody is.

        Args:
            favorable: The favorable class.
            among: ``parity``: all of a group; ``opportunity``: those whose class it is.
        """
        told = self.told if among == "parity" else self.told[:, favorable : favorable + 1]
        counts, hopes = told[..., 0].sum(1), told[..., 2].sum(1)
        return torch.where(counts > FEW, (hopes / counts.clamp_min(FEW)).clamp(0, 1), torch.nan)


def groups_in(name: str, task: Task) -> Sensitive:
    """Return who is compared with whom.

    Raises:
        ValueError: Nobody said.
    """
    if task.sensitive is None:
        raise ValueError(f"local={name} compares groups: set fairness.attribute, which is null")
    return task.sensitive


def survey(
    task: Task, params: Vector | Rows, cohort: Sequence[int], sensitive: Sensitive
) -> Counts:
    """Have each client of a cohort count how the common model does on what it trains on."""
    held, outputs = _answered(task, params, cohort)
    sizes = task.shards.sizes[list(cohort)].tolist()
    targets, classes = task.data.targets[held], outputs.shape[1]
    given = outputs.argmax(1)
    count = sensitive.count * classes
    held_by = torch.tensor(sizes, dtype=torch.long)
    owner = torch.arange(len(sizes)).repeat_interleave(held_by).to(held.device)
    cell = owner * count + sensitive.of(task.data, held) * classes + targets
    counted = [
        torch.ones_like(targets),
        task.model.loss(outputs, targets),
        given == sensitive.favorable,
        given == targets,
    ]
    told = torch.stack(
        [cell.bincount(weights=each.double(), minlength=len(sizes) * count) for each in counted],
        dim=-1,
    )
    told = told.view(len(sizes), sensitive.count, classes, KINDS)
    return told / held_by.clamp_min(1).to(told).view(-1, 1, 1, 1)


def known(state: State, sensitive: Sensitive, *, besides: int = 0) -> Survey | None:
    """Recall what was told in the last round; ``None`` in the first.

    Args:
        state: Holds ``server/survey``.
        sensitive: The groups.
        besides: Numbers that are told behind the counts.
    """
    columns = state.memory.get(SURVEY)
    if columns is None:
        return None
    counts = columns[: len(columns) - besides].double()
    return Survey(counts.view(sensitive.count, -1, KINDS))


def told(found: Updates, counts: Counts, *, scale: float) -> Updates:
    """Add to each client's row what it tells.

    Args:
        found: What clients learned.
        counts: What each counted.
        scale: Factor on what is told, above 0; where rows are clipped, less of it leaves more of
            a row to the model.
    """
    if not scale > 0:
        raise ValueError(f"local.scale must be above 0, got {scale}")
    columns = counts.flatten(1).to(found.rows) * scale
    groups = torch.tensor(counts.shape[1])
    return replace(
        found,
        rows=torch.cat([found.rows, columns], dim=1),
        memory={**found.memory, GROUPS: groups},
    )


def heard(state: State, columns: Float[Tensor, "_"]) -> Survey:
    """Read what clients told, as the server does."""
    return Survey(columns.double().view(int(state.memory[GROUPS]), -1, KINDS))


def weighed(found: Updates, factors: Float[Tensor, "_"], *others: Float[Tensor, "_ _"]) -> Updates:
    """Multiply each client's row by its factor, which goes along, as does what else is told."""
    column = factors.to(found.rows).unsqueeze(1)
    columns = [one.to(found.rows) for one in others]
    return replace(found, rows=torch.cat([found.rows * column, column, *columns], dim=1))


def surveyed(state: State, update: Vector, *, then: Optimizer = fedavg) -> State:
    """Move the model by the mean update, and keep what clients counted.

    Args:
        state: The model before the round; remembers ``server/survey``.
        update: The mean of clients' updates and, behind them, of what they counted.
        then: What moves the model.

    Raises:
        ValueError: Nothing was counted.
    """
    move, rest = parted("surveyed", state, update)
    return then(state, move).remember({SURVEY: rest})


def shared_out(state: State, update: Vector, *, then: Optimizer = fedavg) -> State:
    """Move the model by a mean in which clients weigh as they said, and keep what they counted.

    Args:
        state: The model before the round; remembers ``server/survey``.
        update: Means of updates times factors, of factors, and of what clients counted.
        then: What moves the model.

    Raises:
        ValueError: Nothing was said of factors.
    """
    move, rest = parted("shared_out", state, update)
    # However little that is: losses below 1 to a large power are next to nothing.
    after = then(state, move / rest[0]) if float(rest[0]) > 0 else state
    return after.remember({SURVEY: rest[1:]}) if len(rest) > 1 else after


def parted(
    name: str, state: State, update: Vector
) -> tuple[Float[Tensor, "_"], Float[Tensor, "_"]]:
    """Part the model's update from what clients told."""
    width = len(state.params)
    if len(update) <= width:
        raise ValueError(
            f"server={name} takes what clients tell behind their {width} numbers, and they tell "
            "nothing: choose the local training made for it, as +algorithm=... does"
        )
    return update[:width], update[width:]


def client_losses(
    task: Task, params: Vector | Rows, cohort: Sequence[int]
) -> Float[Tensor, "clients"]:
    """Return the mean loss of the common model on what each client trains on, 0 on nothing."""
    held, outputs = _answered(task, params, cohort)
    sizes = task.shards.sizes[list(cohort)]
    losses = task.model.loss(outputs, task.data.targets[held]).double()
    owner = torch.arange(len(sizes)).repeat_interleave(sizes).to(losses.device)
    sums = owner.bincount(weights=losses, minlength=len(sizes))
    return sums / sizes.clamp_min(1).to(sums)


def _answered(task: Task, params: Vector | Rows, cohort: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return what a cohort trains on, client after client, and the common model's outputs."""
    if params.dim() == 2:
        raise ValueError(
            "frame=local_only has no common model for clients to tell of: choose local=sgd, "
            "local=local_reweighing or frame=federated"
        )
    nothing = torch.zeros(0, dtype=torch.long)
    held = torch.cat([nothing, *(task.shards[client] for client in cohort)])
    held = held.to(task.data.inputs.device)
    return held, predict(task.model, params, task.data.inputs[held])
