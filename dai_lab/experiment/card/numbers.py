"""The numbers of a model card: each with its interval, from answers and what would be right."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from dai_lab.core import Key, Sensitive, Shards
from dai_lab.fairness import by_group, calibration, cells, gaps
from dai_lab.federation import Federation
from dai_lab.metrics import per_client

RESAMPLES, PERFECT = 1000, 200
"""How often examples are drawn for an interval, and labels from scores for what chance leaves."""

KEY = Key(0, ("card",))
"""Where intervals draw from: the same run gives the same card."""

Cell: TypeAlias = tuple[float, float, float] | None
"""A number with its 95 % interval; ``None`` where there is no such number."""


Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Group:
    """How a model does on some people."""

    size: int
    too_small: bool
    rates: Mapping[str, Cell]


@dataclass(frozen=True)
class OnTest:
    """How a model does on the test set."""

    loss: Cell
    accuracy: Cell = None
    frequent: Cell = None
    """Accuracy of giving everybody the class that is most frequent in training."""
    groups: Sequence[Group] = ()
    """Everybody, then each group in order; empty where there are none."""
    gaps: Mapping[str, Cell] = field(default_factory=dict)
    calibration: Sequence[tuple[Cell, float | None, float | None]] = ()
    """For each group: offset, error, and what chance alone keeps the error below."""


@dataclass(frozen=True)
class OnClients:
    """How a model does on what clients held out."""

    measured: int = 0
    """Clients that held something out."""
    even: Mapping[str, Cell] = field(default_factory=dict)
    gaps: Mapping[str, Cell] = field(default_factory=dict)


def on_test(us: Federation, outputs: Tensor, given: Int[Tensor, "_"]) -> OnTest:
    """Measure a model on the test set, over everybody and by group.

    Args:
        us: The test set, and the groups if there are any.
        outputs: Of the model.
        given: The answers that were made of them.
    """
    targets, sensitive = us.test.targets, us.task.sensitive
    loss = mean(us.task.model.loss(outputs, targets))
    if not us.classes:
        return OnTest(loss)
    favorable = sensitive.favorable if sensitive else 0
    trained = us.task.data.targets[us.task.shards.indices]
    common = torch.full_like(targets, int(trained.bincount().argmax()))
    whole, flat = (
        _groups(answers, targets, torch.zeros_like(targets), 1, favorable, 1, KEY / name)[0]
        for name, answers in (("all", given), ("frequent", common))
    )
    accuracy, frequent = (one.rates["accuracy"] for one in (whole, flat))
    if sensitive is None:
        return OnTest(loss, accuracy, frequent)
    groups, key = sensitive.of(us.test), KEY / "groups"
    each = _groups(given, targets, groups, sensitive.count, favorable, sensitive.minimum, key)
    return OnTest(
        loss,
        accuracy,
        frequent,
        groups=(whole, *each),
        gaps=_gaps(us, sensitive, given, targets, groups, KEY / "gaps"),
        calibration=_calibrated(outputs, targets, groups, sensitive, KEY / "calibration"),
    )


def on_clients(us: Federation, given: Int[Tensor, "_"]) -> OnClients:
    """Measure a model on what clients held out, over clients and by group.

    Args:
        us: Who held out which examples.
        given: Answers to these, client after client.
    """
    if not us.classes or not len(given):
        return OnClients()
    at = us.holdout.indices.to(us.task.data.targets.device)
    targets, sensitive = us.task.data.targets[at], us.task.sensitive
    even = evenness(given == targets, us.holdout)
    measured = int((us.holdout.sizes > 0).sum())
    if sensitive is None:
        return OnClients(measured, even)
    groups = sensitive.of(us.task.data)[at]
    return OnClients(
        measured, even, _gaps(us, sensitive, given, targets, groups, KEY / "client" / "gaps")
    )


def mean(values: Float[Tensor, "_"]) -> Cell:
    """Average numbers, give or take 1.96 standard errors."""
    if len(values) < 2 or not bool(values.isfinite().all()):
        return None
    exact = values.detach().cpu().double()
    value, error = float(exact.mean()), float(exact.std()) / len(exact) ** 0.5
    return value, value - 1.96 * error, value + 1.96 * error


def evenness(right: Bool[Tensor, "examples"], held: Shards) -> dict[str, Cell]:
    """Say how evenly clients fare, as surely as what each held out can tell.

    Few examples make clients look more different than they are, so the measured number may lie at
    the very end of its interval. That of ``worst10`` follows from intervals of all clients that
    hold at once, and that of the standard ``deviation`` over clients has all true deviations with
    which the measured accuracies are neither too far apart nor too close.

    Args:
        right: Whether each answer is right, client after client.
        held: How many of them are of which client.

    Source:
        Brown, Cai and DasGupta 2001, Statistical Science 16(2), section 3 (Jeffreys' interval of
        each); Viechtbauer 2007, Statistics in Medicine 26(1), section 3.4 (Q-profile).
    """
    from scipy.stats import beta

    found = per_client(right, Shards(torch.arange(len(right)), held.offsets))
    there = ~found.isnan()
    seen, sizes = found[there].numpy(), held.sizes.cpu()[there].double().numpy()
    # Half a hit and half a miss on top, as for groups: 3 of 3 are not certain.
    hits, misses = seen * sizes + 0.5, (1 - seen) * sizes + 0.5
    center = hits / (hits + misses)
    error = 1.96 * float((center * (1 - center) / sizes).sum()) ** 0.5 / len(seen)
    # By the share of all: a client that was lucky must not look surer for that.
    share = hits.sum() / (hits + misses).sum()
    variances = share * (1 - share) / sizes
    tail, worst = 0.025 / len(seen), max(1, len(seen) // 10)
    value, low, high = (
        float(np.sort(one)[:worst].mean())
        for one in (seen, beta.ppf(tail, hits, misses), beta.ppf(1 - tail, hits, misses))
    )
    middle = float(seen.mean())
    return {
        "mean": _around(middle, middle - error, middle + error),
        "worst10": _around(value, low, high),
        "deviation": _around(float(seen.std()), *_apart(seen, variances)),
    }


def _around(value: float, low: float, high: float) -> Cell:
    return value, max(0.0, min(value, low)), min(1.0, max(value, high))


def _apart(seen: Array, variances: Array) -> tuple[float, float]:
    """Bound the standard deviation between clients, given the variance of each one's accuracy."""
    from scipy.optimize import brentq
    from scipy.stats import chi2

    if len(seen) < 2:
        return 0.0, 1.0

    def spread(deviation: float) -> float:
        weights = 1 / (variances + deviation**2)
        middle = (weights * seen).sum() / weights.sum()
        return float((weights * (seen - middle) ** 2).sum())

    def solved(chance: float) -> float:
        limit = float(chi2.ppf(chance, len(seen) - 1))
        if spread(0.0) <= limit:
            return 0.0
        return 1.0 if spread(1.0) >= limit else float(brentq(lambda one: spread(one) - limit, 0, 1))

    return solved(0.975), solved(0.025)


def _groups(
    given: Tensor, targets: Tensor, groups: Tensor, count: int, favorable: int, minimum: int,
    key: Key,
) -> list[Group]:  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the card itself says which groups are too small
        table: Any = by_group(
            given, targets, groups, names=[str(one) for one in range(count)], favorable=favorable,
            minimum=minimum, resamples=RESAMPLES, key=key,
        )  # fmt: skip
    names = [name.removesuffix("_low") for name in table if name.endswith("_low")]
    return [
        Group(int(row["size"]), bool(row["too_small"]), {name: _rate(row, name) for name in names})
        for row in table.to_dict("records")
    ]


def _rate(row: Mapping[str, Any], name: str) -> Cell:
    value, low, high = (float(row[one]) for one in (name, f"{name}_low", f"{name}_high"))
    return (value, low, high) if isfinite(value) else None


def _gaps(
    us: Federation, sensitive: Sensitive, given: Tensor, targets: Tensor, groups: Tensor, key: Key
) -> dict[str, Cell]:
    counts = cells(given, targets, groups, count=sensitive.count, classes=us.classes)
    favorable, minimum = sensitive.favorable, sensitive.minimum
    return gaps(counts, favorable=favorable, minimum=minimum, resamples=RESAMPLES, key=key)


def _calibrated(
    outputs: Tensor, targets: Tensor, groups: Tensor, sensitive: Sensitive, key: Key
) -> list[tuple[Cell, float | None, float | None]]:
    """Compare scores with what happened, and errors with those of perfect scores.

    An error is never below 0, so no interval around it says whether it is there at all; but
    scores that are perfectly calibrated have errors too, and those can be drawn (the consistency
    bars of Bröcker and Smith 2007, Weather and Forecasting 22(3)).
    """
    scores = outputs.softmax(1)[:, sensitive.favorable].cpu()
    hoped, groups = (targets == sensitive.favorable).cpu(), groups.cpu()
    measure = partial(calibration, scores, groups=groups, count=sensitive.count)
    stream = key.stream()
    drawn = [
        measure((torch.rand(len(scores), generator=stream) < scores).long()).error
        for _ in range(PERFECT)
    ]
    found = []
    for group, error in enumerate(measure(hoped.long()).error):
        chance = [one[group] for one in drawn]
        below = None if error is None else float(np.quantile(np.array(chance, float), 0.95))
        found.append((mean((scores - hoped.float())[groups == group]), error, below))
    return found
