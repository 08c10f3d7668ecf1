"""Rules that look for the direction in which rows vary most, and distrust who is far along it."""

from __future__ import annotations

from math import sqrt

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from dai_lab.aggregators import kernels
from dai_lab.aggregators.seen import judged, look, need, some
from dai_lab.core import ALONE, Aggregate, Context, TooFew, Visible


def caf(visible: Visible, context: Context = ALONE, *, f: int = 1) -> Aggregate:
    """Shrink the weights of rows that stand out along the widest direction; keep the tightest mean.

    Rows lose weight until ``n - 2 f`` is left of it; of all means on the way, the one whose
    covariance has the smallest largest eigenvalue is returned. The row that stands out most, among
    those that have any weight left, loses all of it, so this ends.

    Args:
        visible: What the server may see; at least ``2 f + 1`` rows.
        context: Not needed.
        f: Hostile rows to expect; those that are not finite are counted off.

    Raises:
        TooFew: The liars could be as many as the honest.
        ValueError: ``f`` is below 0.

    Source:
        Allouah, Guerraoui and Stephan 2025, arXiv:2505.01874, algorithm 2 (covariance
        bound-agnostic filter).
    """
    seen = look(visible, products=True)
    left = need("caf", visible, seen.count, f=f, least=2 * f + 1)
    inner = seen.holds @ seen.inner @ seen.holds.T
    # In units of the longest row, its squares cannot overflow.
    inner = inner / inner.diagonal().max().clamp_min(torch.finfo(inner.dtype).tiny)
    rest = torch.ones(seen.count, dtype=torch.float64, device=inner.device)
    shares, lost = rest / seen.count, torch.zeros_like(rest)
    smallest, rounds = torch.inf, 0
    while float(rest.sum()) > seen.count - 2 * left:
        weights = rest / rest.sum()
        widest, along = _widest(inner, weights)
        if widest < smallest:
            smallest, shares = widest, weights
        top = float(along[rest > 0].max())
        if not top > 0:
            break
        rest = rest * (1 - along / top).clamp_min(0)
        lost, rounds = lost + 1 - rest, rounds + 1
    return judged(
        visible,
        seen.vector(shares),
        seen.finite,
        shares=shares,
        suspicion=lost / max(rounds, 1),
        suspects=left,
        record={"rounds": rounds},
    )


def _widest(
    inner: Float64[Tensor, "m m"], weights: Float64[Tensor, "m"]
) -> tuple[float, Float64[Tensor, "m"]]:
    """Return the covariance's largest eigenvalue, and squares of the rows along its direction."""
    gaps = torch.eye(len(inner), dtype=inner.dtype, device=inner.device) - weights
    held = weights > 0
    # A row without weight may be far enough to drown all others: the direction is not its business.
    inside = gaps[held][:, held]
    around = inside @ inner[held][:, held] @ inside.T
    root = weights[held].sqrt()
    values, vectors = torch.linalg.eigh(root.unsqueeze(1) * around * root)
    widest = float(values[-1])
    if not widest > 0:
        return 0.0, torch.zeros_like(weights)
    direction = torch.zeros_like(weights)
    direction[held] = root * vectors[:, -1]
    along = torch.zeros_like(weights)
    along[held] = (around @ direction[held] / sqrt(widest)).square()
    return widest, along


def dnc(
    visible: Visible,
    context: Context = ALONE,
    *,
    f: int = 1,
    share: float = 1.0,
    sample: int = 10_000,
    iterations: int = 1,
) -> Aggregate:
    """Drop the rows that stand out along the widest direction of random coordinates.

    Args:
        visible: What the server may see; at least ``2 f + 1`` rows, of which ``share f`` must
            leave some in every iteration.
        context: Draws the coordinates.
        f: Hostile rows to expect; those that are not finite are counted off.
        share: Rows dropped in each iteration, in units of ``f`` (the paper's filtering fraction
            c), above 0.
        sample: Coordinates drawn in each iteration (the paper's b), at least 1; all of them
            where there are no more.
        iterations: How often to draw (the paper's niters), at least 1. A row stays if no
            iteration drops it.

    Raises:
        TooFew: The liars could be as many as the honest, or nobody would be left.
        ValueError: A knob is out of its range.

    Source:
        Shejwalkar and Houmansadr 2021, NDSS, algorithm 2 (divide and conquer).
    """
    if not 0 < share < torch.inf:
        raise ValueError(f"aggregator.share must be above 0, got {share}")
    if sample < 1 or iterations < 1:
        raise ValueError(
            "aggregator.sample and aggregator.iterations must be at least 1, "
            f"got {sample} and {iterations}"
        )
    some(visible)
    finite = _finite(visible)
    left = need("dnc", visible, len(finite), f=f, least=2 * f + 1)
    params = visible.base.shape[1]
    kept = torch.ones(len(finite), dtype=torch.bool, device=finite.device)
    scores = torch.zeros(len(finite), dtype=torch.float64, device=finite.device)
    draws = iterations if sample < params else 1
    for draw in range(draws):
        stream = (context.key / "dnc" / draw).stream()
        columns = torch.randperm(params, generator=stream)[:sample] if sample < params else None
        score = _outliers(_columns(visible, finite, columns))
        scores += score / draws
        worst = score.argsort(descending=True, stable=True)[: int(share * left)]
        kept[worst] = False
    if not bool(kept.any()):
        raise TooFew(
            f"aggregator=dnc with f={f} dropped all of {len(kept)} finite rows: lower "
            "aggregator.f, aggregator.share or aggregator.iterations"
        )
    shares = kept / kept.sum().double()
    own = scores.new_zeros(visible.count).index_copy_(0, finite, shares)
    update = kernels.combine(visible.base, own if visible.mix is None else own @ visible.mix)
    return judged(visible, update, finite, shares=shares, suspicion=scores, suspects=~kept)


def _outliers(rows: Float64[Tensor, "m columns"]) -> Float64[Tensor, "m"]:
    """Return each row's part of all squares along the first right singular vector."""
    rows = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    return torch.where(values[-1] > 0, vectors[:, -1].square(), 0.0)


def _columns(
    visible: Visible, finite: Int[Tensor, "m"], columns: Int[Tensor, "_"] | None
) -> Float64[Tensor, "m columns"]:
    base, mix = visible.base, visible.mix
    some = base if columns is None else base[:, columns.to(base.device)]
    if mix is None:
        return some[finite].double()
    mix = mix[finite]
    held = mix.ne(0).any(0)
    return mix[:, held] @ some[held].double()


def _finite(visible: Visible) -> Int[Tensor, "m"]:
    """Say which visible rows are finite, and short enough to have a squared length."""
    base, mix = visible.base, visible.mix
    longest = torch.linalg.vector_norm(base, ord=torch.inf, dim=1).double()
    good: Bool[Tensor, "_"] = longest < sqrt(torch.finfo(torch.float64).max / (4 * base.numel()))
    if mix is not None:
        good = (mix[:, ~good] == 0).all(1)
    return good.nonzero().flatten()
