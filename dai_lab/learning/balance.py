"""What examples count for, and what a step is charged for treating groups differently."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dai_lab.core import Task


@dataclass(frozen=True)
class Charge:
    """What gaps within a batch cost; see :func:`gap`."""

    cells: Float[Tensor, "... strata groups batch"]
    """Share of each example in the mean of its group among examples of its kind."""
    favorable: int
    penalty: float


@dataclass(frozen=True)
class Balance:
    """What every example of a task counts for, and which group it is in."""

    weights: Float[Tensor, "examples"] | None = None
    groups: Int[Tensor, "examples"] | None = None
    count: int = 0
    favorable: int = 1
    penalty: float = 0.0
    penalizes: str = "odds"

    @classmethod
    def of(cls, task: Task, weights: Float[Tensor, "examples"] | None) -> Balance:
        """Read a task; false where nothing is weighed and nothing charged."""
        knobs = task.sensitive
        if weights is not None:
            weights = weights.to(task.data.inputs)
        if knobs is None or not knobs.penalty:
            return cls(weights)
        groups = knobs.of(task.data)
        return cls(weights, groups, knobs.count, knobs.favorable, knobs.penalty, knobs.penalizes)

    def __bool__(self) -> bool:
        return self.weights is not None or self.groups is not None

    def strata(self, classes: int) -> Int[Tensor, "classes"]:
        """Say among which examples groups are compared: 0, 1, or -1 for those left out."""
        kinds = torch.full((classes,), -1 if self.penalizes == "opportunity" else 1)
        if self.penalizes == "parity":
            kinds.fill_(0)
        kinds[self.favorable] = 0
        return kinds

    def at(self, examples: Tensor, share: Tensor, targets: Tensor) -> tuple[Tensor, Charge | None]:
        """Weigh the examples of batches ``[G, B]``, and prepare what their gaps cost."""
        where = examples.to(share.device)
        if self.weights is not None:
            share = share * self.weights[where]
        if self.groups is None:
            return share, None
        classes = max(int(targets.max()), self.favorable) + 1
        kinds = self.strata(classes).to(share.device)[targets]
        groups = self.groups[where]
        strata, members = torch.arange(2, device=share.device), torch.arange(self.count)
        within = (kinds.unsqueeze(1) == strata.view(1, 2, 1)).unsqueeze(2)
        inside = (groups.unsqueeze(1) == members.to(share.device).view(1, -1, 1)).unsqueeze(1)
        cells = (within & inside & (share != 0).view(len(share), 1, 1, -1)).to(share)
        cells = cells / cells.sum(-1, keepdim=True).clamp_min(1)
        return share, Charge(cells, self.favorable, self.penalty)


def gap(
    outputs: Float[Tensor, "batch classes"],
    cells: Float[Tensor, "strata groups batch"],
    favorable: int,
) -> Float[Tensor, ""]:
    """Sum, over groups, the squared distance of the mean score from the middle of all groups.

    A score is the probability of the favorable class. Groups that a batch lacks count for
    nothing, so a batch with a single group costs nothing: batches must be large enough.

    Source:
        The convex penalties of Berk et al. 2017, arXiv:1706.02409, section 2 (group fairness), on
        mean scores, as the mean-difference constraints of Zafar et al. 2017, arXiv:1507.05259.
    """
    scores = outputs.softmax(-1)[..., favorable]
    means = cells @ scores
    present = (cells.sum(-1) > 0).to(means)
    middle = (means * present).sum(-1, keepdim=True) / present.sum(-1, keepdim=True).clamp_min(1)
    return ((means - middle).square() * present).sum()


def refuse_penalty(name: str, task: Task) -> None:
    """Refuse a regularizer where local training takes gradients of single examples."""
    if task.sensitive is not None and task.sensitive.penalty:
        raise ValueError(f"local={name} knows no fairness.penalty: set it to 0, or use local=sgd")
