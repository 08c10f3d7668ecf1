"""Was this example in the training data? Attacks by one model's loss and by shadow models."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from dai_lab.core import Key
from dai_lab.privacy.audits.curves import Scores, Truth, roc

Statistics: TypeAlias = Float[np.ndarray, "models examples"]
"""What each model says of each example, such as log-odds of its class."""

Members: TypeAlias = Bool[np.ndarray, "models examples"]
"""Which models were trained on which examples."""

VARIANCES = ("example", "shared")
LEAST = 1e-6
"""Smallest standard deviation: equal numbers must not make a score infinite."""


def by_loss(losses: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Score examples by how low their loss is, the same threshold for all.

    Losses of what is known by heart round to 0 and are equal; ``shadows.confidences`` order
    examples alike (for cross-entropy) and are scores as they are.

    Args:
        losses: Of the target, in any shape.

    Source:
        Yeom et al. 2018, arXiv:1709.01604, section 3.2, whose threshold is the mean loss of
        members; here the threshold is left open.
    """
    return np.asarray(-losses)


def lira(
    target: Float[np.ndarray, "examples"],
    shadows: Statistics,
    members: Members,
    *,
    online: bool = True,
    variance: str = "shared",
) -> Float[np.ndarray, "examples"]:
    """Score examples by how much likelier the target's statistic is if it was trained on them.

    Args:
        target: What the target says of each example.
        shadows: What each shadow model says of it; close to normal over models.
        members: Which shadow models were trained on it.
        online: Compare the models trained on an example with those not. Offline knows the
            latter alone, and asks how far above them the target is.
        variance: ``example`` estimates a variance for each example, which takes about 64
            models; ``shared`` one for all examples, around the mean of each.

    Raises:
        ValueError: An unknown ``variance``, or too few models on one side of an example.

    Source:
        Carlini et al. 2022, arXiv:2112.03570, algorithm 1; offline and the shared variance from
        sections IV-C and VI-B.
    """
    if variance not in VARIANCES:
        raise ValueError(f"lira.variance must be one of {VARIANCES}, got {variance!r}")
    # A difference of squares cancels much of float32.
    seen, own = shadows.astype(float), target.astype(float)
    mean, spread = _normal(seen, ~members, variance)
    away = (own - mean) / spread
    if not online:
        return np.asarray(away)
    center, width = _normal(seen, members, variance)
    near = (own - center) / width
    return np.asarray((away**2 - near**2) / 2 + np.log(spread) - np.log(width))


def leave_one_out(
    statistics: Statistics, members: Members, *, online: bool = True, variance: str = "shared"
) -> Float[np.ndarray, "models examples"]:
    """Let each shadow model in turn be the target of :func:`lira`.

    A target's twin, which was trained on all that the target was not, is left out with it: else
    how many of the others hold an example would tell whether the target does.

    Args:
        statistics: What each model says of each example.
        members: Which models were trained on which examples, as in ``Shadows.members``.
        online: As for :func:`lira`.
        variance: As for :func:`lira`.

    Returns:
        Scores of every example under every target, to compare with ``members``.

    Raises:
        ValueError: As :func:`lira`; with twins it takes 4 models, or 6 for ``example``.
    """
    scores = np.empty(statistics.shape)
    places = np.arange(len(statistics))
    for target in places:
        twin = target ^ 1
        pair = [target]
        if twin < len(members) and bool((members[twin] != members[target]).all()):
            pair.append(twin)
        others = np.setdiff1d(places, pair)
        scores[target] = lira(
            statistics[target],
            statistics[others],
            members[others],
            online=online,
            variance=variance,
        )
    return scores


def _normal(
    seen: Statistics, which: Members, variance: str
) -> tuple[Float[np.ndarray, "examples"], Float[np.ndarray, "examples"]]:
    """Fit each example's mean over some models, and a deviation of its own or one for all."""
    count = which.sum(0)
    least = 2 if variance == "example" else 1
    if int(count.min()) < least or int(count.sum()) <= len(count):
        raise ValueError(
            f"lira(variance={variance!r}) needs {least} models with and without every example, "
            f"and has {int(count.min())}: raise shadows.count"
        )
    mean = np.where(which, seen, 0.0).sum(0) / count
    squares = np.where(which, (seen - mean) ** 2, 0.0).sum(0)
    if variance == "example":
        spread = squares / (count - 1)
    else:
        spread = np.full(len(mean), squares.sum() / (count - 1).sum())
    return mean, np.sqrt(spread).clip(LEAST)


def epsilon_bound(
    hits: int,
    inside: int,
    alarms: int,
    outside: int,
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
) -> float:
    """Give the largest epsilon that an attack with a fixed threshold refutes, 0 if none.

    Args:
        hits: Members called members.
        inside: Members; each trial independent of the others.
        alarms: Non-members called members.
        outside: Non-members; each trial independent of the others.
        delta: Of the promise, in [0, 1].
        confidence: Probability, in (0, 1), that the bound is not above the truth, at least.

    Raises:
        ValueError: A number out of range.

    Source:
        Nasr et al. 2021, arXiv:2101.04535, section III; Kairouz et al. 2015, arXiv:1311.0776,
        theorem 2.1 (the region that privacy leaves an attack).
    """
    if not (0 <= hits <= inside and 0 <= alarms <= outside and inside and outside):
        raise ValueError(f"audit: {hits} hits of {inside}, {alarms} alarms of {outside}")
    _check(delta, confidence)
    bound = _bounds(
        np.array([float(hits)]),
        inside,
        np.array([float(alarms)]),
        outside,
        delta=delta,
        confidence=confidence,
    )
    return float(bound[0])


def empirical_epsilon(
    scores: Scores,
    members: Truth,
    *,
    key: Key,
    delta: float = 0.0,
    confidence: float = 0.95,
    share: float = 0.5,
) -> float:
    """Refute as large an epsilon as trials allow: some choose the threshold, the rest judge it.

    The trials must be independent, so this takes one canary in many training runs. For many
    canaries in one run, see ``one_run.audited``.

    Args:
        scores: How much each trial looks like a member.
        members: Which are.
        key: Where the trials are split.
        delta: Of the promise, in [0, 1].
        confidence: Probability, in (0, 1), that the bound is not above the truth, at least.
        share: Of members, and of others, that choose; in (0, 1).

    Raises:
        ValueError: A number out of range, or fewer than two members or two others.

    Source:
        As for :func:`epsilon_bound`.
    """
    _check(delta, confidence)
    if not 0 < share < 1:
        raise ValueError(f"audit.share must be in (0, 1), got {share}")
    if min(int(members.sum()), int((~members).sum())) < 2:
        raise ValueError("audit: a threshold takes two members and two others at least")
    # Split by place among members and among others, so both halves hold both.
    stream = np.random.default_rng((key / "thresholds").number())
    choosing = np.zeros(len(scores), dtype=bool)
    for kind in (members, ~members):
        places = stream.permutation(np.flatnonzero(kind))
        choosing[places[: min(max(round(share * len(places)), 1), len(places) - 1)]] = True
    points = roc(scores[choosing], members[choosing])
    inside, outside = _sizes(members[choosing])
    hits, alarms = np.rint(points.tpr * inside), np.rint(points.fpr * outside)
    bounds = _bounds(hits, inside, alarms, outside, delta=delta, confidence=confidence)
    # Where nothing is refuted yet, the widest gap is the most likely to.
    best = int(np.lexsort((points.tpr - points.fpr, bounds))[-1])
    called, rest = scores >= points.thresholds[best], members[~choosing]
    inside, outside = _sizes(rest)
    return epsilon_bound(
        int(called[~choosing][rest].sum()),
        inside,
        int(called[~choosing][~rest].sum()),
        outside,
        delta=delta,
        confidence=confidence,
    )


def _bounds(
    hits: Float[np.ndarray, "points"],
    inside: int,
    alarms: Float[np.ndarray, "points"],
    outside: int,
    *,
    delta: float,
    confidence: float,
) -> Float[np.ndarray, "points"]:
    """Bound epsilon at each threshold, by members found and by non-members cleared.

    Both ways use the same two one-sided intervals, each at half of the error allowed.
    """
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    # At 0 hits, or if all are alarms, the interval ends at the border and the function has none.
    found = np.where(hits > 0, betaincinv(hits.clip(1), inside - hits + 1, tail), 0.0)
    spared = outside - alarms
    cleared = np.where(spared > 0, betaincinv(spared.clip(1), alarms + 1, tail), 0.0)
    ways = [(found - delta) / (1 - cleared), (cleared - delta) / (1 - found)]
    return np.asarray(np.log(np.maximum(*ways).clip(1.0)))


def _sizes(members: Truth) -> tuple[int, int]:
    return int(members.sum()), int((~members).sum())


def _check(delta: float, confidence: float) -> None:
    if not 0 <= delta <= 1:
        raise ValueError(f"audit.delta must be in [0, 1], got {delta}")
    if not 0 < confidence < 1:
        raise ValueError(f"audit.confidence must be in (0, 1), got {confidence}")
