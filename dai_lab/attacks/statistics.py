"""Attacks that hide in the spread of what others send."""

from __future__ import annotations

from dai_lab.attacks.needs import above_zero, at_least, center
from dai_lab.core import Lies, Rows, Sight


def alie(own: Rows, sight: Sight, *, z: float | None = 1.5) -> Lies:
    """A Little Is Enough: hide ``z`` standard deviations below the honest mean.

    Args:
        own: Rows to replace, all by the same one.
        sight: Rows whose mean and spread the attacker knows; at least two.
        z: Distance from the mean in per-coordinate standard deviations; 0 sends the mean. The
            default is that of the authors' code; ``None`` is the paper's, from the numbers of
            clients and liars: so far that just enough honest rows lie beyond it to be
            outvoted, which is 0 where the liars are too few.

    Raises:
        TooFew: Fewer than two rows, so no spread to hide in.

    Source:
        Baruch et al. 2019, arXiv:1902.06156, section 3 and algorithm 3.
    """
    at_least(2, sight, "alie")
    distance = most_hidden(sight.good + len(own), len(own)) if z is None else z
    mean, spread = center(sight.honest)
    row = mean - distance * spread
    return Lies(row.expand(len(own), -1), record={"z": distance})


def most_hidden(clients: int, hostile: int) -> float:
    """Give ALIE's z, with which liars and the supporters they need are a majority.

    Args:
        clients: All rows of the round.
        hostile: Of which are lies.
    """
    from statistics import NormalDist

    supporters = clients // 2 + 1 - hostile
    share = (clients - hostile - supporters) / max(clients - hostile, 1)
    return NormalDist().inv_cdf(share) if 0 < share < 1 else 0.0


def ipm(own: Rows, sight: Sight, *, epsilon: float = 0.5) -> Lies:
    """Inner Product Manipulation: send the honest mean, backwards and ``epsilon`` times as long.

    Args:
        own: Rows to replace, all by the same one.
        sight: Rows whose mean the attacker knows; at least one.
        epsilon: Length of what is sent in lengths of the honest mean, above 0: small values
            deceive median-like rules, large ones the mean.

    Raises:
        TooFew: No row is known.
        ValueError: An epsilon that manipulates nothing.

    Source:
        Xie et al. 2020, arXiv:1903.03936, section 4.
    """
    above_zero("epsilon", epsilon)
    at_least(1, sight, "ipm")
    return Lies((-epsilon * sight.honest.mean(dim=0)).expand(len(own), -1))
