"""An audit in one training run: how much of many coins the model gives away.

Every canary is put into the training data, or left out, by a fair coin of its own. If training is
private, whoever sees the model cannot guess many of the coins; who does refutes the promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True)
class Bound:
    """What an audit has shown: privacy is not better than this."""

    epsilon: float
    """Lower bound, 0 where nothing was shown."""
    correct: int
    guesses: int


def p_value(correct: int, guesses: int, canaries: int, *, epsilon: float, delta: float) -> float:
    """Bound the chance of so many right guesses if training were (epsilon, delta)-private.

    With ``delta = 0`` guesses do no better than coins that are right with probability
    ``1 / (1 + exp(-epsilon))``. A delta buys some runs with more of them right; how many more
    is chosen as bad as can be.

    Args:
        correct: Right guesses.
        guesses: Coins guessed; on the others the auditor abstains.
        canaries: All coins, guessed or not.
        epsilon: Promised, 0 or more.
        delta: Promised, in [0, 1].

    Returns:
        In [0, 1].

    Raises:
        ValueError: A number is out of range.

    Source:
        Steinke, Nasr and Jagielski 2023, arXiv:2305.08846, theorem 5.2 and appendix D.
    """
    from scipy.special import betainc, gammaln, log_expit

    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(
            f"audit: {correct} correct of {guesses} guesses on {canaries} canaries must ascend"
        )
    if not 0 <= delta <= 1:
        raise ValueError(f"audit.delta must be in [0, 1], got {delta}")
    if not epsilon >= 0:
        raise ValueError(f"audit.epsilon must be 0 or more, got {epsilon}")
    if not correct:
        return 1.0
    # From log-odds, so that neither the coin's chance of being right nor of being wrong rounds off.
    hit, miss = log_expit(epsilon), log_expit(-epsilon)
    tail = float(betainc(correct, guesses - correct + 1, np.exp(hit)))
    if not delta:
        return tail
    counts = np.arange(correct - 1, -1, -1)
    ways = gammaln(guesses + 1) - gammaln(counts + 1) - gammaln(guesses - counts + 1)
    # The mean chance of one of the i counts just below; delta lifts the best such stretch.
    below = np.cumsum(np.exp(ways + counts * hit + (guesses - counts) * miss))
    lifted = float((below / np.arange(1, correct + 1)).max())
    return min(tail + 2 * canaries * delta * lifted, 1.0)


def lower_bound(
    correct: int, guesses: int, canaries: int, *, delta: float, confidence: float = 0.95
) -> float:
    """Give the largest epsilon that so many right guesses refute, 0 if none.

    Args:
        correct: Right guesses.
        guesses: Coins guessed, a number fixed before looking.
        canaries: All coins, guessed or not.
        delta: Of the promise, in [0, 1].
        confidence: Probability, in (0, 1), that the bound is not above the truth, at least.

    Raises:
        ValueError: A number is out of range.

    Source:
        Steinke, Nasr and Jagielski 2023, arXiv:2305.08846, appendix D.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"audit.confidence must be in (0, 1), got {confidence}")

    def refuted(epsilon: float) -> bool:
        chance = p_value(correct, guesses, canaries, epsilon=epsilon, delta=delta)
        return chance < 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def guessed(
    scores: Float[np.ndarray, "canaries"],
    included: Bool[np.ndarray, "canaries"],
    *,
    highest: int,
    lowest: int,
) -> int:
    """Count right guesses: the highest scores were in, the lowest were out, the rest abstain.

    Args:
        scores: How much the model looks as if it had seen each canary; computed without the
            coins. Equal scores keep their order.
        included: How the coins fell.
        highest: Canaries guessed in.
        lowest: Canaries guessed out.

    Raises:
        ValueError: More guesses than canaries, or NaN among the scores.
    """
    if min(highest, lowest) < 0 or highest + lowest > len(scores):
        raise ValueError(
            f"audit.guesses must be 0 to {len(scores)} canaries, got {highest} + {lowest}"
        )
    if bool(np.isnan(scores).any()):
        raise ValueError(f"audit: {int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")
    order = np.argsort(scores, kind="stable")
    return int((~included[order[:lowest]]).sum() + included[order[len(order) - highest :]].sum())


def audited(
    scores: Float[np.ndarray, "canaries"],
    included: Bool[np.ndarray, "canaries"],
    *,
    delta: float,
    confidence: float = 0.95,
    guesses: int | Sequence[int] | None = None,
) -> Bound:
    """Refute as large an epsilon as one training run allows.

    Args:
        scores: How much the model looks as if it had seen each canary; computed without the
            coins.
        included: How the fair coins fell, one a canary, independent of each other.
        delta: Of the promise, in [0, 1].
        confidence: Probability, in (0, 1), that the bound is not above the truth, at least.
        guesses: How many coins to guess, half of them as in, or several such numbers, of which
            the best counts; each is then held to a stricter confidence, so that trying many is
            no way to a better bound. Unless given: nine, three and one tenths, and a thirtieth;
            to guess all costs mistakes where coins did not fall half and half.

    Raises:
        ValueError: A number is out of range.

    Source:
        Steinke, Nasr and Jagielski 2023, arXiv:2305.08846, algorithm 1; the correction for
        several numbers of guesses is Bonferroni's.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"audit.confidence must be in (0, 1), got {confidence}")
    if guesses is None:
        guesses = sorted({-(-len(scores) * share // 30) for share in (27, 9, 3, 1)})
    tries = [guesses] if isinstance(guesses, int) else list(guesses)
    if not tries:
        raise ValueError("audit.guesses must name at least one number of guesses")
    strict = 1 - (1 - confidence) / len(tries)
    found = []
    for count in tries:
        right = guessed(scores, included, highest=count - count // 2, lowest=count // 2)
        bound = lower_bound(right, count, len(scores), delta=delta, confidence=strict)
        found.append(Bound(bound, right, count))
    return max(found, key=lambda one: one.epsilon)
