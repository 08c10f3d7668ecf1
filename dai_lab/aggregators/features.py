"""Rules that cluster rows by features: shares of signs, or coordinates that tell them apart."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from dai_lab.aggregators.clusters import clipped, middle, total
from dai_lab.aggregators.layers import output_layer
from dai_lab.aggregators.lengths import finite_rows, lengths
from dai_lab.aggregators.seen import judged, need
from dai_lab.core import ALONE, Aggregate, Context, Rows, TooFew, Visible

BLOCK = 2**12
"""Columns that are clustered at once, in float64."""


def signguard(
    visible: Visible,
    context: Context = ALONE,
    *,
    lower: float = 0.1,
    upper: float = 3.0,
    share: float = 0.1,
) -> Aggregate:
    """Keep rows of usual length whose shares of positive and negative signs are the usual ones.

    What is kept is clipped to the median length and averaged. A row's suspicion is the distance
    of its shares of signs from the middle of the largest cluster, plus how many times its length
    is outside of what is usual; whoever fails either test is accused. Where no row passes both,
    the round is refused: the paper says nothing of it.

    Args:
        visible: What the server may see; at least one finite row. Fewer than half may lie.
        context: Coordinates are drawn from ``key``.
        lower: Shortest row to keep, as a multiple of the median length; 0 to 1.
        upper: Longest row to keep, as a multiple of the median length; at least 1.
        share: Part of the coordinates whose signs are counted, above 0 up to 1; at least one.

    Raises:
        TooFew: No finite row, or none passes both tests.
        ValueError: A knob is out of range.

    Source:
        Xu et al. 2022, arXiv:2109.05872, algorithm 2 (SignGuard without similarity), with mean
        shift as in the authors' code: a flat kernel as wide as half of all rows are away.
    """
    if not 0 <= lower <= 1 <= upper:
        raise ValueError(
            f"aggregator.lower must be in [0, 1] and aggregator.upper at least 1, got {lower} and "
            f"{upper}"
        )
    if not 0 < share <= 1:
        raise ValueError(f"aggregator.share must be above 0 and at most 1, got {share}")
    need("signguard", visible, visible.count)
    finite, norms = lengths(visible)
    need("signguard", visible, len(finite))
    params = visible.base.shape[1]
    drawn = torch.randperm(params, generator=(context.key / "signguard").stream())
    at = drawn[: max(1, int(share * params))].sort().values.to(visible.base.device)
    signs = columns(visible, finite, at).sign()
    features = torch.stack([(signs == one).double().mean(1) for one in (1, 0, -1)], dim=1)
    alike, center = largest_mode(features)
    usual = middle(norms)
    sized = (norms >= lower * usual) & (norms <= upper * usual)
    kept = alike & sized
    if not bool(kept.any()):
        raise TooFew(
            f"aggregator=signguard finds none of {len(finite)} finite rows usual in both length "
            "and signs: raise aggregator.upper or the cohort"
        )
    weights, bound = clipped(norms, kept)
    times = torch.where(usual > 0, norms / usual, (norms > 0).double())
    strange = (features - center).norm(dim=1) + (times - upper).clamp_min(0)
    strange = strange + (lower - times).clamp_min(0)
    return judged(
        visible, total(visible, weights, finite), finite, shares=weights, suspicion=strange,
        suspects=~kept, record={"clipped_to": bound},
    )  # fmt: skip


def auror(
    visible: Visible,
    context: Context = ALONE,
    *,
    alpha: float = 0.002,
    tau: float = 0.5,
    features: Literal["output", "all"] = "output",
) -> Aggregate:
    """Drop whoever is in the smaller of two clusters in most coordinates that tell rows apart.

    Each coordinate is split into the best two clusters of its values. It tells rows apart where
    their centers are at least ``alpha`` from each other; who is in the smaller one is suspicious
    there. Where no coordinate tells rows apart, nobody is dropped. A row's suspicion is the part
    of those coordinates in which it is suspicious.

    The paper finds such coordinates in its first rounds and stays with them; here each round
    finds its own.

    Args:
        visible: What the server may see; at least one finite row. Fewer than half may lie.
        context: ``features=output`` needs ``model``.
        alpha: Distance of the centers, above 0, in the rows' unit.
        tau: Part of the coordinates in which a row may be suspicious and still be kept; at least
            0.5, where some row is always left, and below 1.
        features: Look at the parameters of the last layer, or at all.

    Raises:
        TooFew: No finite row.
        ValueError: The model is needed and not known, or a knob is out of range.

    Source:
        Shen, Tople and Saxena 2016, ACSAC, section 4 (indicative features, then anomalous users).
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"aggregator.alpha must be above 0, got {alpha}")
    if not 0.5 <= tau < 1:
        raise ValueError(f"aggregator.tau must be at least 0.5 and below 1, got {tau}")
    base, places = visible.base, range(visible.base.shape[1])
    if features == "output":
        places = output_layer("auror", visible, context.model)
    need("auror", visible, visible.count)
    finite = finite_rows(visible)
    need("auror", visible, len(finite))
    votes, telling = torch.zeros(len(finite), dtype=torch.float64, device=base.device), 0
    for start in range(places.start, places.stop, BLOCK):
        at = torch.arange(start, min(start + BLOCK, places.stop), device=base.device)
        fewer, gaps = two_means(columns(visible, finite, at).double())
        apart = gaps >= alpha
        telling += int(apart.sum())
        votes += fewer[:, apart].sum(1)
    strange = votes / max(telling, 1)
    kept = strange <= tau
    weights = kept.double() / kept.sum()
    return judged(
        visible, total(visible, weights, finite), finite, shares=weights, suspicion=strange,
        suspects=~kept, record={"indicative": telling},
    )  # fmt: skip


def two_means(
    values: Float64[Tensor, "m columns"],
) -> tuple[Bool[Tensor, "m columns"], Float64[Tensor, "columns"]]:
    """Split each column's values into the two clusters with the least squares, exactly.

    Returns:
        Who is in the smaller cluster, nobody where they are even, and how far the centers are
        from each other.
    """
    count = len(values)
    if count < 2:
        return torch.zeros_like(values, dtype=torch.bool), values.new_zeros(values.shape[1])
    # Scaled, since the square of the largest numbers is none.
    unit = values.abs().amax(0).clamp_min(torch.finfo(values.dtype).tiny)
    scaled = values / unit
    scaled = scaled - scaled.sort(dim=0).values[count // 2]
    ranked = scaled.sort(dim=0).values
    low = torch.arange(1, count, dtype=values.dtype, device=values.device).unsqueeze(1)
    sums = ranked.cumsum(0)
    first, second = sums[:-1] / low, (sums[-1] - sums[:-1]) / (count - low)
    # Between two clusters as many squares as possible leave as few as possible within.
    between = low * (count - low) * (second - first).square()
    split = between.argmax(0)
    gaps = (second - first).gather(0, split.unsqueeze(0))[0] * unit
    size = split + 1
    edge = ranked.gather(0, split.unsqueeze(0))[0]
    # Equal values are in the same cluster, so a value tells whose it is.
    is_low = scaled <= edge
    fewer = torch.where(2 * size < count, is_low, ~is_low)
    return fewer & (2 * size != count) & (gaps > 0), gaps


def largest_mode(
    points: Float64[Tensor, "m axes"], *, near: float = 0.5
) -> tuple[Bool[Tensor, "m"], Float64[Tensor, "axes"]]:
    """Find the largest cluster of mean shift with a flat kernel, and its center.

    Args:
        points: What to cluster.
        near: Part of the points that are within the kernel of one of them, on average.
    """
    count = len(points)
    # Written out: matrix products would round equal points apart.
    gaps = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    width = gaps.sort(dim=1).values[:, max(1, int(near * count)) - 1].mean()
    centers = points.clone()
    for _ in range(300):
        inside = _within(centers, points, width).double()
        moved = inside @ points / inside.sum(1, keepdim=True)
        still = bool(((moved - centers).norm(dim=1) <= 1e-3 * width).all())
        centers = moved
        if still:
            break
    held = _within(centers, points, width).sum(1)
    order = list(range(count))
    order.sort(key=lambda one: (int(held[one]), centers[one].tolist()), reverse=True)
    modes: list[int] = []
    for one in order:
        if not modes or not bool(_within(centers[one : one + 1], centers[modes], width).any()):
            modes.append(one)
    away = torch.cdist(points, centers[modes], compute_mode="donot_use_mm_for_euclid_dist")
    nearest = away.min(1)
    sizes = [int(((nearest.indices == one) & _reached(nearest.values, width)).sum())
             for one in range(len(modes))]  # fmt: skip
    best = sizes.index(max(sizes))
    return (nearest.indices == best) & _reached(nearest.values, width), centers[modes[best]]


def columns(visible: Visible, finite: Int[Tensor, "m"], at: Int[Tensor, "_"]) -> Rows:
    """Return some columns of the finite rows."""
    base, mix = visible.base, visible.mix
    if mix is None:
        return base[:, at][finite]
    held = mix[finite].ne(0).any(0)
    return mix[finite][:, held].to(base) @ base[held][:, at]


def _within(some: Tensor, points: Tensor, width: Tensor) -> Bool[Tensor, "_ _"]:
    away = torch.cdist(some, points, compute_mode="donot_use_mm_for_euclid_dist")
    return _reached(away, width)


def _reached(away: Tensor, width: Tensor) -> Bool[Tensor, "*_"]:
    # A center of equal points is off by rounding.
    return away <= width + 1e-12
