"""Whether clients fare alike, and whether they get out of a federation what they put in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

Numbers: TypeAlias = Sequence[float | int] | NDArray[Any]
"""One number per client."""


def over_clients(accuracies: Float[Tensor, "clients"]) -> dict[str, float]:
    """Say how evenly accuracy is spread over clients.

    ``variance`` is that of this population and ``worst10`` the mean of the worst tenth (at least
    one client). Then, even only where all clients are alike: ``jain`` (1/clients..1), ``cosine``
    between the accuracies and equal ones (its square is ``jain``), ``entropy`` of the accuracies
    as shares of their sum (in nats, at most the logarithm of the number of clients) and ``gini``
    (0..1, where 0 is even). Scaling all accuracies moves only the first two, so show the mean
    beside the others: a model that is useless to everybody is perfectly even, and so is one with
    no right answer at all.

    Args:
        accuracies: One number, 0 or more, per client; NaN for a client without examples, which
            is left out.

    Raises:
        ValueError: No client has an accuracy, or one is negative.

    Source:
        Li et al. 2020, arXiv:1905.10497, section 4.1 and appendix A (variance, cosine, entropy);
        Jain, Chiu and Hawe 1984, DEC-TR-301 (index of fairness); Gini 1912, as half the mean
        difference of two clients over the mean.
    """
    numbers = accuracies.detach().cpu().double().numpy()
    numbers = np.sort(numbers)  # NaN comes last
    known = numbers[: len(numbers) - np.count_nonzero(np.isnan(numbers))]
    count = len(known)
    if count == 0:
        raise ValueError("data: no client holds an example to be judged by")
    if known[0] < 0:
        raise ValueError(f"fairness: accuracies must be 0 or more, got {known[0]}")
    # Sums and products rather than means and variances: this is asked every round.
    total = known.sum()
    apart = known - total / count
    # Equal shares are even however small, down to where nobody has any.
    shares = known / total if total > 0 else np.full(count, 1 / count)
    some = shares[shares > 0]
    jain = 1 / (count * (shares @ shares))
    few = max(1, count // 10)
    return {
        "variance": float(apart @ apart / count),
        "worst10": float(known[:few].sum() / few),
        "jain": float(jain),
        "cosine": float(jain**0.5),
        "entropy": float(-(some @ np.log(some))),
        "gini": float(np.arange(1 - count, count, 2) @ shares / count),
    }


def reward_correlation(rewards: Numbers, contributions: Numbers) -> float | None:
    """Correlate what clients got with what they gave: 1 is fair, 0 arbitrary, -1 perverse.

    Correlation sees neither scale nor sign: rewards that harm everybody in proportion to merit
    are perfectly fair to it, so show ``collaboration_gain`` beside it.

    Args:
        rewards: What each client got, such as the accuracy of its final model, or a payment.
        contributions: What each gave, such as the accuracy of the model it trains alone, or a
            Shapley value; same clients in the same order. A client with NaN is left out.

    Returns:
        Pearson's correlation, or ``None`` where rewards or contributions are all the same.

    Raises:
        ValueError: Different numbers of clients.

    Source:
        Lyu et al. 2020, arXiv:2008.12161 (collaborative fairness); Xu et al. 2021, NeurIPS
        (gradient-driven rewards); Tastan et al. 2025, arXiv:2501.12344 (why it is not enough).
    """
    got, gave = _paired(rewards, contributions)
    if len(got) < 2 or np.ptp(got) == 0 or np.ptp(gave) == 0:
        return None
    return float(np.corrcoef(got, gave)[0, 1].clip(-1, 1))


def collaboration_gain(together: Numbers, alone: Numbers) -> dict[str, float]:
    """Say what clients gain by collaborating: more for all is better, and alike is fairer.

    Args:
        together: Accuracy of each client with the federation.
        alone: Accuracy of each without; same clients in the same order. A client with NaN is
            left out.

    Returns:
        ``mean_collaboration_gain`` (MCG; below 0 clients lose on average) and
        ``collaboration_gain_spread`` (CGS, the standard deviation over these clients).

    Raises:
        ValueError: Different numbers of clients, or none.

    Source:
        Tastan et al. 2025, arXiv:2501.12344 (CYCle).
    """
    with_others, without = _paired(together, alone)
    if len(without) == 0:
        raise ValueError("fairness: no client has an accuracy both together and alone")
    gain = with_others - without
    return {
        "mean_collaboration_gain": float(gain.mean()),
        "collaboration_gain_spread": float(gain.std()),
    }


def _paired(left: Numbers, right: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ours, theirs = np.asarray(left, dtype=float), np.asarray(right, dtype=float)
    if ours.shape != theirs.shape:
        raise ValueError(f"fairness: {len(ours)} clients cannot pair with {len(theirs)}")
    known = ~(np.isnan(ours) | np.isnan(theirs))
    return ours[known], theirs[known]
