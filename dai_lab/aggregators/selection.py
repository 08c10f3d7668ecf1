"""Rules that keep some of the rows, by how far they are from each other."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from dai_lab.aggregators import kernels
from dai_lab.aggregators.seen import Seen, judged, look, need
from dai_lab.core import ALONE, Aggregate, Context, TooFew, Visible

SAMPLE = 256
"""Coordinates on which Bulyan's shares are estimated."""


def krum(
    visible: Visible,
    context: Context = ALONE,
    *,
    f: int = 1,
    neighbors: int | None = None,
    power: int = 2,
) -> Aggregate:
    """Return the row whose ``n - f - 2`` nearest others are the nearest.

    Args:
        visible: What the server may see; at least ``2 f + 3`` rows.
        context: Not needed.
        f: Hostile rows to expect; those that are not finite are counted off.
        neighbors: How many others are compared, 1 or more and at most all; the paper's
            ``n - f - 2`` by default. ByzFL, ByzPy and FLPoison take ``n - f - 1``.
        power: Of the distances that are added up, 1 or more; the paper squares them. FLPoison
            does not, and code of the bucketing paper takes the fourth power.

    Raises:
        ValueError: ``neighbors`` or ``power`` is below 1.
        TooFew: Fewer rows than the paper's proof needs, or than ``neighbors``.

    Source:
        Blanchard et al. 2017, arXiv:1703.02757, section 4.
    """
    seen = look(visible)
    left = need("krum", visible, seen.count, f=f, least=2 * f + 3)
    scores = _scores("krum", seen, left, neighbors, power)
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


def multi_krum(
    visible: Visible,
    context: Context = ALONE,
    *,
    f: int = 1,
    m: int | None = None,
    neighbors: int | None = None,
    power: int = 2,
) -> Aggregate:
    """Average the ``m`` rows that Krum scores best, scored once and all counting the same.

    Args:
        visible: What the server may see; at least ``2 f + 3`` rows.
        context: Not needed.
        f: Hostile rows to expect; those that are not finite are counted off.
        m: Rows to keep, ``n - f - 2`` by default. The paper proves no more than that; up to
            ``n - f`` is allowed, which ByzFL takes.
        neighbors: As for :func:`krum`.
        power: As for :func:`krum`.

    Raises:
        ValueError: ``m``, ``neighbors`` or ``power`` is below 1.
        TooFew: Fewer rows than the paper's proof needs, or than ``m`` or ``neighbors``.

    Source:
        Blanchard et al. 2017, arXiv:1703.02757, section 6 (multi-Krum).
    """
    if m is not None and m < 1:
        raise ValueError(f"aggregator.m must be at least 1, got {m}")
    seen = look(visible)
    left = need("multi_krum", visible, seen.count, f=f, least=2 * f + 3)
    if m is not None and m > visible.count - f:
        raise TooFew(
            f"aggregator=multi_krum with m={m} and f={f} needs at least {m + f} visible rows and "
            f"sees {visible.count}: lower aggregator.m or raise secagg.groups or the cohort"
        )
    scores = _scores("multi_krum", seen, left, neighbors, power)
    # Where more rows than f are not finite, fewer than m may be left.
    kept = max(1, seen.count - left - 2) if m is None else min(m, seen.count)
    shares = torch.zeros_like(scores)
    shares[scores.argsort(stable=True)[:kept]] = 1 / kept
    return judged(
        visible, seen.vector(shares), seen.finite, shares=shares, suspicion=scores, suspects=left
    )


def bulyan(visible: Visible, context: Context = ALONE, *, f: int = 1) -> Aggregate:
    """Let Krum pick ``n - 2 f`` rows one by one, then average those closest to their median.

    Krum runs anew on what each pick leaves, with ``n' - f - 2`` of ``n'`` rows as neighbors, at
    least one; then each coordinate is the mean of the ``n - 4 f`` values closest to the median of
    those picked. The last picks may be liars close to each other, whom the second step is there to
    outvote; so a row's suspicion is its Krum score among all rows. With ``f`` at 1 or 2 the last
    picks are of two rows nearest to each other, a tie: whoever comes first is picked.

    Args:
        visible: What the server may see; at least ``4 f + 3`` rows.
        context: Not needed.
        f: Hostile rows to expect; those that are not finite are counted off.

    Raises:
        TooFew: Fewer rows than the paper's proof needs.

    Source:
        El Mhamdi, Guerraoui and Rouault 2018, arXiv:1802.07927, section 4.
    """
    seen = look(visible)
    left = need("bulyan", visible, seen.count, f=f, least=4 * f + 3)
    distances = even(seen.distances)
    picked = torch.from_numpy(krum_picks(distances.cpu().numpy(), left, seen.count - 2 * left))
    picked = picked.to(seen.finite.device).sort().values
    low, high, kept = (len(picked) - 1) // 2, len(picked) // 2 + 1, len(picked) - 2 * left
    base, mix, rows = visible.base, visible.mix, seen.finite[picked]
    if mix is None:
        update, _ = kernels.nearest(base, low, high, kept, rows=rows)
    else:
        update, _ = kernels.nearest(base, low, high, kept, mix=mix[rows])
    scores = krum_scores(distances, left)
    shares = torch.zeros_like(scores)
    shares[picked] = _shares(visible, rows, low, high, kept)
    return judged(visible, update, seen.finite, shares=shares, suspicion=scores, suspects=left)


def krum_scores(
    distances: Float64[Tensor, "m m"], f: int, *, neighbors: int | None = None, power: int = 2
) -> Float64[Tensor, "m"]:
    """Add up each row's distances, to some power, to its nearest others.

    Args:
        distances: Squared.
        f: Hostile rows among them.
        neighbors: How many others, 1 or more; ``m - f - 2``, at least one, by default.
        power: 1 or more.
    """
    count = len(distances)
    others = distances + torch.zeros_like(distances).fill_diagonal_(torch.inf)
    ranked = others.sort(dim=1).values[:, : min(neighbors or _neighbors(count, f), count - 1)]
    return (ranked if power == 2 else ranked ** (power / 2)).sum(1)


def krum_picks(distances: Float64[np.ndarray, "m m"], f: int, picks: int) -> Int[np.ndarray, "_"]:
    """Say which rows Krum picks one after the other, each time from those that are left.

    Each row's others are ranked once; whoever is picked then leaves all rankings, which costs as
    much as there are pairs left.

    Args:
        distances: Squared.
        f: Hostile rows among them.
        picks: How many to pick.
    """
    others = distances.copy()
    np.fill_diagonal(others, -1.0)  # not infinity: a liar's distance may be
    who = others.argsort(axis=1, kind="stable")[:, 1:]
    ranked = np.take_along_axis(others, who, axis=1)
    rows = np.arange(len(others))
    picked = np.empty(picks, dtype=np.int64)
    for turn in range(picks):
        best = int(ranked[:, : _neighbors(len(rows), f)].sum(1).argmin())
        picked[turn] = rows[best]
        rows, ranked, who = (np.delete(one, best, 0) for one in (rows, ranked, who))
        stay = who != picked[turn]
        shape = (len(rows), max(0, len(rows) - 1))
        ranked, who = ranked[stay].reshape(shape), who[stay].reshape(shape)
    return picked


def _neighbors(count: int, f: int) -> int:
    """Return how many others the paper compares a row with."""
    return max(1, count - f - 2)


def even(distances: Float64[Tensor, "m m"]) -> Float64[Tensor, "m m"]:
    """Make squared distances the same from either side, so that rounding decides no tie.

    Two rows nearest to each other tie. What is too far apart for a float64 is infinitely far.
    """
    return ((distances + distances.T) / 2).nan_to_num(torch.inf, torch.inf)


def _scores(
    rule: str, seen: Seen, left: int, neighbors: int | None, power: int
) -> Float64[Tensor, "m"]:
    if power < 1:
        raise ValueError(f"aggregator.power must be at least 1, got {power}")
    if neighbors is not None and neighbors < 1:
        raise ValueError(f"aggregator.neighbors must be at least 1, got {neighbors}")
    if neighbors is not None and neighbors >= seen.visible.count:
        raise TooFew(
            f"aggregator={rule} with neighbors={neighbors} needs at least {neighbors + 1} visible "
            f"rows and sees {seen.visible.count}: lower aggregator.neighbors or raise "
            "secagg.groups or the cohort"
        )
    return krum_scores(even(seen.distances), left, neighbors=neighbors, power=power)


def _shares(
    visible: Visible, rows: Int[Tensor, "_"], low: int, high: int, kept: int
) -> Float64[Tensor, "_"]:
    """Estimate how much of the values closest to the middle is each row's."""
    base, mix = visible.base, visible.mix
    at = torch.arange(0, base.shape[1], -(-base.shape[1] // SAMPLE) or 1, device=base.device)
    if mix is None:
        sample = base[:, at][rows]
    else:
        held = mix[rows].ne(0).any(0)
        sample = mix[rows][:, held].to(base) @ base[:, at][held]
    ranked = sample.sort(dim=0, stable=True)
    gaps = (ranked.values - ranked.values[low:high].mean(0)).abs()
    near = ranked.indices.gather(0, gaps.argsort(dim=0, stable=True)[:kept])
    counts: Bool[Tensor, "_ _"] = torch.zeros_like(sample, dtype=torch.bool)
    return counts.scatter_(0, near, True).double().mean(1) / kept
