"""Rules that average the ``n - f`` rows that lie closest together, whatever closest means.

All are exact: a search over subsets stops where no better one can be, and refuses, rather than
guesses, where that would take too long. Of subsets equally good, up to rounding, the
lexicographically first is taken.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from dai_lab.aggregators.cliques import clique
from dai_lab.aggregators.searches import scattered, spread
from dai_lab.aggregators.seen import Seen, judged, look, need
from dai_lab.core import ALONE, Aggregate, Context, Visible


def mda(visible: Visible, context: Context = ALONE, *, f: int = 1) -> Aggregate:
    """Average the ``n - f`` rows whose farthest two are the closest together.

    Args:
        visible: What the server may see; at least ``2 f + 1`` rows.
        context: Not needed.
        f: Hostile rows to expect; those that are not finite are counted off.

    Raises:
        TooFew: The liars could be as many as the honest.
        ValueError: ``f`` is below 0, or so high that the search would not end.

    Source:
        El Mhamdi et al. 2021, arXiv:2008.00742, section 4 (minimum-diameter averaging); Rousseeuw
        1985, "Multivariate estimation with high breakdown point".
    """
    seen = look(visible)
    left = need("mda", visible, seen.count, f=f, least=2 * f + 1)
    kept = clique(seen.distances.cpu().numpy(), left)
    return _averaged(visible, seen, kept, left)


def smea(visible: Visible, context: Context = ALONE, *, f: int = 1) -> Aggregate:
    """Average the ``n - f`` rows whose covariance has the smallest largest eigenvalue.

    Args:
        visible: What the server may see; at least ``2 f + 1`` rows. Where rows differ in no
            clear way, all subsets have to be looked at: up to about 100,000 at 25 rows, 1,500 at
            100.
        context: Not needed.
        f: Hostile rows to expect; those that are not finite are counted off.

    Raises:
        TooFew: The liars could be as many as the honest.
        ValueError: ``f`` is below 0, or too many subsets would have to be looked at.

    Source:
        Allouah et al. 2023, arXiv:2302.04787, section 5 (smallest maximum eigenvalue averaging).
    """
    seen = look(visible, products=True)
    left = need("smea", visible, seen.count, f=f, least=2 * f + 1)
    kept = spread(_inner(seen).cpu().numpy(), seen.distances.cpu().numpy(), left)
    return _averaged(visible, seen, kept, left)


def mva(visible: Visible, context: Context = ALONE, *, f: int = 1) -> Aggregate:
    """Average the ``n - f`` rows whose variances, summed over coordinates, are the smallest.

    Args:
        visible: What the server may see; at least ``2 f + 1`` rows. Where rows differ in no
            clear way, all subsets have to be looked at: up to a few millions at 25 rows.
        context: Not needed.
        f: Hostile rows to expect; those that are not finite are counted off.

    Raises:
        TooFew: The liars could be as many as the honest.
        ValueError: ``f`` is below 0, or too many subsets would have to be looked at.

    Source:
        Rousseeuw 1985, "Multivariate estimation with high breakdown point", section 3 (least
        trimmed squares of a mean); Allouah et al. 2023, arXiv:2302.04787 (minimum variance
        averaging).
    """
    seen = look(visible)
    left = need("mva", visible, seen.count, f=f, least=2 * f + 1)
    kept = scattered(seen.distances.cpu().numpy(), left)
    return _averaged(visible, seen, kept, left)


def _inner(seen: Seen) -> Float64[Tensor, "m m"]:
    """Return inner products seen from amid the rows, where an offset cancels nothing."""
    return seen.holds @ seen.inner @ seen.holds.T


def _averaged(visible: Visible, seen: Seen, kept: list[int], left: int) -> Aggregate:
    """Average the rows that are kept; who is dropped is accused, and the farther the stranger."""
    shares = seen.distances.new_zeros(seen.count)
    shares[kept] = 1 / len(kept)
    dropped = torch.ones(seen.count, dtype=torch.bool, device=shares.device)
    dropped[kept] = False
    # From distances alone: the square to a mean is the mean of squares, less their own spread.
    apart = seen.distances[:, kept]
    far = (apart.mean(1) - apart[kept].mean() / 2).clamp_min(0).sqrt()
    return judged(
        visible, seen.vector(shares), seen.finite, shares=shares, suspicion=far, suspects=dropped
    )
