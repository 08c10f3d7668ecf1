"""Group fairness of a classifier, all of it from one small table of counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Int, Int64
from numpy.typing import NDArray
from torch import Tensor

Counts: TypeAlias = Int64[Tensor, "groups classes answers"]
"""Examples of each group by true class and answer; the last answer is none at all."""

GAPS: dict[str, tuple[str, ...]] = {
    "demographic_parity_difference": ("selection_rate",),
    "demographic_parity_ratio": ("selection_rate",),
    "equalized_odds_difference": ("true_positive_rate", "false_positive_rate"),
    "equalized_odds_ratio": ("true_positive_rate", "false_positive_rate"),
    "equal_opportunity_difference": ("true_positive_rate",),
    "predictive_parity_difference": ("precision",),
    "accuracy_difference": ("accuracy",),
    "error_rate_ratio": ("error_rate",),
}
"""Which rates each measure compares; of two rates, the one that differs more counts."""

RATES: dict[str, tuple[str, str]] = {
    "selection_rate": ("10100", "11111"),
    "true_positive_rate": ("10000", "11000"),
    "false_positive_rate": ("00100", "00111"),
    "precision": ("10000", "10100"),
    "accuracy": ("10010", "11111"),
    "error_rate": ("01101", "11111"),
}
"""Which of the five outcomes of a group each rate counts, and among which."""

_COUNTED, _OF = (
    np.array([[*pair[which]] for pair in RATES.values()], float).T.copy() for which in (0, 1)
)


def cells(
    predictions: Int[Tensor, "examples"],
    targets: Int[Tensor, "examples"],
    groups: Int[Tensor, "examples"],
    *,
    count: int,
    classes: int,
) -> Counts:
    """Count the examples of every group by their true class and the answer they got.

    Every measure that depends on answers alone is computed from this table, which stays on the
    device of the predictions.

    Args:
        predictions: Answer to each example. One outside ``0..classes - 1``, such as -1 where
            the model said NaN, is no answer: it is kept in a column of its own, behind the
            classes, and so is wrong whatever the truth and favorable to nobody.
        targets: True class of each example, in ``0..classes - 1``.
        groups: Group of each example, in ``0..count - 1``.
        count: Number of groups.
        classes: Number of classes.

    Raises:
        ValueError: A target or a group out of range.
    """
    groups, targets, answers = groups.long(), targets.long(), predictions.long()
    for name, values, most in (("groups", groups, count), ("targets", targets, classes)):
        if not _within(values, most):
            raise ValueError(
                f"fairness: {name} must be in 0..{most - 1}, "
                f"got {int(values.min())}..{int(values.max())}"
            )
    if not _within(answers, classes):
        answers = answers.where((answers >= 0) & (answers < classes), classes)
    # In place, and by NumPy on a CPU: many examples are counted after every round.
    place = (groups * classes).add_(targets).mul_(classes + 1).add_(answers)
    size = count * classes * (classes + 1)
    if place.is_cpu:
        table = torch.from_numpy(np.bincount(place.numpy(), minlength=size))
    else:
        table = torch.bincount(place, minlength=size)
    return table.reshape(count, classes, classes + 1)


def _within(values: Int[Tensor, "_"], most: int) -> bool:
    """Tell whether all values are in ``0..most - 1``."""
    if not len(values):
        return True
    low, high = values.aminmax()
    return int(low) >= 0 and int(high) < most


def group_fairness(
    counts: Counts, *, favorable: int = 1, minimum: int = 1
) -> dict[str, float | int | None]:
    """Say how differently a classifier treats groups: gaps of their rates, 0 if it does not.

    A difference is the highest rate of a group less the lowest, a ratio the lowest over the
    highest; names and definitions are fairlearn's. With more than two classes the favorable one
    stands against the rest, and accuracy is over all classes. (The difference of error rates is
    that of accuracies, so it has no entry.)

    | measure | gap of |
    |---|---|
    | ``demographic_parity_*`` | favorable answers among all |
    | ``equal_opportunity_difference`` | favorable answers among those whose truth is favorable |
    | ``equalized_odds_*`` | the same, and among the others: whichever gap is worse |
    | ``predictive_parity_difference`` | favorable truths among favorable answers (precision) |
    | ``accuracy_difference``, ``error_rate_ratio`` | right, and wrong, answers among all |

    Except in degenerate cases no classifier closes all of these gaps at once (Chouldechova 2017;
    Kleinberg et al. 2016), and a gap measured on few examples is too large: ``gaps`` tells by
    how much.

    Args:
        counts: What ``cells`` counted.
        favorable: Class that people hope to be given.
        minimum: Examples below which a group takes no part; 1 leaves out only empty groups.

    Returns:
        One number for each measure, ``None`` where it does not exist: a rate that a group does
        not have (no favorable truths, say) takes no part, fewer than two groups have no gap, and
        0 of 0 is no ratio. Then ``worst_group_accuracy``, ``worst_group`` (its number, the first
        if several are as bad), ``groups_measured`` and ``groups_too_small``.

    Raises:
        ValueError: ``favorable`` is no class, or ``minimum`` is below 1.

    Source:
        Dwork et al. 2012, arXiv:1104.3913, section 3 (statistical parity); Hardt et al. 2016,
        arXiv:1610.02413, section 2 (equalized odds, equal opportunity); Chouldechova 2017,
        arXiv:1610.07524, section 2 (predictive parity); Kleinberg et al. 2016, arXiv:1609.05807.
    """
    table = outcomes(counts, favorable, minimum)
    measured = [sum(outcome) >= minimum for outcome in table.tolist()]
    found = rates(table)
    # Few numbers, and asked every round: plain ones are quicker than arrays.
    accuracies = zip(found["accuracy"].tolist(), measured, strict=True)
    known = [(value, group) for group, (value, there) in enumerate(accuracies) if there]
    least, worst = min(known) if known else (None, None)
    return {
        **gaps_of(found, measured),
        "worst_group_accuracy": least,
        "worst_group": worst,
        "groups_measured": len(known),
        "groups_too_small": len(measured) - len(known),
    }


def outcomes(counts: Counts, favorable: int, minimum: int) -> NDArray[np.float64]:
    """Reduce the table to what the rates need: five outcomes a group.

    They are: favorable truth and answer, favorable truth only, favorable answer only, neither
    but right, neither and wrong.
    """
    classes = counts.shape[1]
    if not 0 <= favorable < classes:
        raise ValueError(f"fairness.favorable must be a class in 0..{classes - 1}, got {favorable}")
    if minimum < 1:
        raise ValueError(f"fairness.minimum must be at least 1, got {minimum}")
    found = []
    for group in counts.tolist():  # few numbers: quicker so than as arrays
        hit = group[favorable][favorable]
        missed = sum(group[favorable]) - hit
        wrongly = sum(answers[favorable] for answers in group) - hit
        right = sum(answers[truth] for truth, answers in enumerate(group)) - hit
        wrong = sum(map(sum, group)) - hit - missed - wrongly - right
        found.append([hit, missed, wrongly, right, wrong])
    return np.array(found, float).reshape(-1, 5)


def rates(table: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Rates of every group from its five outcomes (the last axis); NaN where one has no base."""
    with np.errstate(invalid="ignore"):
        found = (table @ _COUNTED) / (table @ _OF)
    return dict(zip(RATES, np.moveaxis(found, -1, 0), strict=True))


def gaps_of(
    found: dict[str, NDArray[np.float64]], measured: Sequence[bool]
) -> dict[str, float | None]:
    """Compare the rates of the measured groups that have each; ``None`` where there is no gap."""
    ends: dict[str, tuple[float, float]] = {}
    for rate, values in found.items():
        known = [one for one in compress(values.tolist(), measured) if one == one]
        if len(known) > 1:
            ends[rate] = min(known), max(known)
    gaps: dict[str, float | None] = dict.fromkeys(GAPS)
    for name, compared in GAPS.items():
        if not all(rate in ends for rate in compared):
            continue
        if not name.endswith("ratio"):
            gaps[name] = max(ends[rate][1] - ends[rate][0] for rate in compared)
        elif all(ends[rate][1] > 0 for rate in compared):
            gaps[name] = min(ends[rate][0] / ends[rate][1] for rate in compared)
    return gaps
