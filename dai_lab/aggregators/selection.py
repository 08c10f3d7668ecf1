"""Rules that keep some of the rows, by how far they are from each other."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from dai_lab.aggregators.seen import judged, look, need
from dai_lab.core import ALONE, Aggregate, Context, Visible


def krum(visible: Visible, context: Context = ALONE, *, f: int = 1) -> Aggregate:
    """Return the row whose ``n - f - 2`` nearest others are the nearest.

    Args:
        visible: What the server may see; at least ``2 f + 3`` rows.
        context: Not needed.
        f: Hostile rows to expect; those that are not finite are counted off.

    Raises:
        TooFew: Fewer rows than the paper's proof needs.

    Source:
        Blanchard et al. 2017, arXiv:1703.02757, section 4.
    """
    seen = look(visible)
    left = need("krum", visible, seen.count, f=f, least=2 * f + 3)
    scores = krum_scores(seen.distances, left)
    chosen = torch.zeros_like(scores)
    chosen[scores.argmin()] = 1.0
    return judged(
        visible,
        seen.vector(chosen),
        seen.finite,
        shares=chosen,
        suspicion=scores,
        suspects=left,
    )


def krum_scores(distances: Float64[Tensor, "m m"], f: int) -> Float64[Tensor, "m"]:
    """Sum each row's squared distances to its ``m - f - 2``, at least one, nearest others."""
    count = len(distances)
    others = distances + torch.full_like(distances, 0.0).fill_diagonal_(torch.inf)
    neighbors = min(max(1, count - f - 2), count - 1)
    return others.sort(dim=1).values[:, :neighbors].sum(1)
