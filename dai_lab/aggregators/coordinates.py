"""Rules that look at every coordinate by itself.

What a row counted for, and how strange it is, is then a matter of coordinates: a row's suspicion is
the share of them in which it was left out, estimated on up to 128 coordinates spread evenly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from dai_lab.aggregators import kernels
from dai_lab.aggregators.seen import judged, need
from dai_lab.core import ALONE, Aggregate, Context, Vector, Visible

SAMPLE = 128
"""Coordinates on which verdicts are estimated."""


def mean(visible: Visible, context: Context = ALONE, *, weighted: bool = True) -> Aggregate:
    """Average the visible rows, as federated averaging does; nothing is defended.

    A row that is not finite is left out; where no row is finite, neither is the update.

    Args:
        visible: What the server may see; at least one row.
        context: Not needed.
        weighted: Whether a row counts by the examples behind it, or all rows the same.

    Raises:
        ValueError: No row, or counts of examples that weigh nothing.

    Source:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    if not visible.count:
        raise ValueError("aggregator=mean sees no row: raise cohort.fraction or cohort.rate")
    weights = visible.weights.double() if weighted else torch.ones_like(visible.weights).double()
    total = float(weights.sum())
    if not (0 < total < torch.inf and bool((weights >= 0).all())):
        raise ValueError(
            f"aggregator=mean sees rows that claim {total:g} examples in all, some perhaps "
            "below 0: set aggregator.weighted=false to count all rows the same"
        )
    shares = (weights / total).to(visible.base.device)
    update = _sum(visible, shares)
    everyone = torch.arange(visible.count, device=shares.device)
    if not bool(update.sum().isfinite()):
        everyone = _finite(visible)
        shares = shares[everyone]
        if float(shares.sum()) > 0:
            shares = shares / shares.sum()
            update = _sum(visible, torch.zeros_like(weights).index_copy_(0, everyone, shares))
    return judged(
        visible, update, everyone, shares=shares, suspicion=torch.zeros_like(shares), suspects=0
    )


def median(visible: Visible, context: Context = ALONE) -> Aggregate:
    """Take each coordinate's middle value, or the mean of its two middle values.

    Args:
        visible: What the server may see; at least one finite row. Fewer than half of them may
            lie, so below three rows nobody can be outvoted: a warning says so.
        context: Not needed.

    Raises:
        TooFew: No finite row.

    Source:
        Yin et al. 2018, arXiv:1803.01498, definition 1.
    """

    def middle(count: int, left: int) -> tuple[int, int]:
        return (count - 1) // 2, count // 2 + 1

    if visible.count < 3:
        warnings.warn(
            f"aggregator=median sees {visible.count} of the 3 rows it takes to outvote one: "
            "raise secagg.groups or the cohort",
            stacklevel=2,
        )
    return _ranked("median", visible, middle)


def trimmed_mean(visible: Visible, context: Context = ALONE, *, f: int = 1) -> Aggregate:
    """Drop each coordinate's ``f`` highest and ``f`` lowest values and average the rest.

    Args:
        visible: What the server may see; more than ``2 f`` rows.
        context: Not needed.
        f: Hostile rows to expect; those that are not finite are counted off.

    Raises:
        TooFew: Nothing would be left.

    Source:
        Yin et al. 2018, arXiv:1803.01498, definition 2.
    """

    def inside(count: int, left: int) -> tuple[int, int]:
        return left, count - left

    return _ranked("trimmed_mean", visible, inside, f=f, least=2 * f + 1)


def meamed(visible: Visible, context: Context = ALONE, *, f: int = 1) -> Aggregate:
    """Average, in each coordinate, the ``n - f`` values closest to the median.

    Args:
        visible: What the server may see; more than ``2 f`` rows.
        context: Not needed.
        f: Hostile rows to expect; those that are not finite are counted off.

    Raises:
        TooFew: The liars could be as many as the honest.

    Source:
        Xie, Koyejo and Gupta 2018, arXiv:1802.10116, definition 8 (mean around median).
    """

    def middle(count: int, left: int) -> tuple[int, int]:
        return (count - 1) // 2, count // 2 + 1

    return _ranked("meamed", visible, middle, f=f, least=2 * f + 1, around=True)


def phocas(visible: Visible, context: Context = ALONE, *, f: int = 1) -> Aggregate:
    """Average, in each coordinate, the ``n - f`` values closest to the trimmed mean.

    Args:
        visible: What the server may see; more than ``2 f`` rows.
        context: Not needed.
        f: Hostile rows to expect; those that are not finite are counted off.

    Raises:
        TooFew: Nothing would be left to trim to.

    Source:
        Xie, Koyejo and Gupta 2018, arXiv:1805.09682, definition 7.
    """

    def inside(count: int, left: int) -> tuple[int, int]:
        return left, count - left

    return _ranked("phocas", visible, inside, f=f, least=2 * f + 1, around=True)


def majority_vote(visible: Visible, context: Context = ALONE) -> Aggregate:
    """Let each row vote on the sign of every coordinate: 1, -1, or 0 where votes balance.

    All votes weigh the same, however many examples are behind them, and whatever lengths the
    rows had are lost: the step is ``server.rate``, which must be small.

    Args:
        visible: What the server may see; at least one finite row. A zero abstains.
        context: Not needed.

    Raises:
        TooFew: No finite row.

    Source:
        Bernstein et al. 2018, arXiv:1802.04434, and 2019, arXiv:1810.05291 (signSGD with
        majority vote).
    """
    signs, _, finite = _voted("majority_vote", visible)
    update = signs.sign()

    def against(sample: Tensor, at: slice) -> Bool[Tensor, "_ _"]:
        return sample.sign() != update[at]

    return _verdict(visible, update, finite, against, suspects=0)


def rlr(visible: Visible, context: Context = ALONE, *, threshold: int = 4) -> Aggregate:
    """Average the rows, but turn back where too few agree on a coordinate's direction.

    Args:
        visible: What the server may see; at least one finite row.
        context: Not needed.
        threshold: Rows by which one sign must outnumber the other, 0 or more; the paper sets
            it above the number of liars. At 0 this is the mean with equal weights.

    Raises:
        TooFew: No finite row.
        ValueError: ``threshold`` is below 0.

    Source:
        Ozdayi, Kantarcioglu and Gel 2021, arXiv:2007.03767, algorithm 1 (robust learning rate).
    """
    if threshold < 0:
        raise ValueError(f"aggregator.threshold must be at least 0, got {threshold}")
    signs, total, finite = _voted("rlr", visible)
    agreed = signs.abs() >= threshold
    update = total.mul_(agreed.to(total).mul_(2).sub_(1)).div_(len(finite))

    def against(sample: Tensor, at: slice) -> Bool[Tensor, "_ _"]:
        return sample.sign() != signs[at].sign()

    result = _verdict(visible, update, finite, against, suspects=0)
    equal = result.suspicion.isfinite().double() / len(finite)
    record = {"turned_back": float((~agreed).double().mean())}
    return replace(result, shares=equal, record=record)


def _ranked(
    rule: str,
    visible: Visible,
    ranks: Callable[[int, int], tuple[int, int]],
    *,
    f: int | None = None,
    least: int = 1,
    around: bool = False,
) -> Aggregate:
    """Average the values between two ranks, or those closest to that average."""
    base, finite, some = visible.base, None, None
    # The pass itself tells whether all is finite: a second one is for those who have liars.
    for _ in range(2):
        count = visible.count if finite is None else len(finite)
        left = need(rule, visible, count, f=f, least=least)
        low, high = ranks(count, left)
        mix = visible.mix
        if finite is not None:
            mix, some = (None, finite) if mix is None else (mix[finite], None)
        if around:
            update, good = kernels.nearest(base, low, high, count - left, rows=some, mix=mix)
        else:
            update, good = kernels.window(base, low, high, rows=some, mix=mix)
        if good:
            break
        finite = _finite(visible)
    finite = torch.arange(count, device=base.device) if finite is None else finite

    def outside(sample: Tensor, at: slice) -> Bool[Tensor, "_ _"]:
        return kernels.outside(sample, low, high, count - left if around else 0)

    return _verdict(visible, update, finite, outside, suspects=left)


def _voted(rule: str, visible: Visible) -> tuple[Vector, Vector, Int[Tensor, "_"]]:
    """Return the sums of signs and of values, and which rows are finite."""
    rows = visible.rows
    need(rule, visible, visible.count)
    signs, total = kernels.votes(rows)
    finite = torch.arange(len(rows), device=rows.device)
    if not bool(total.sum().isfinite()):
        finite = _finite(visible)
        need(rule, visible, len(finite))
        signs, total = kernels.votes(rows[finite])
    return signs, total, finite


def _verdict(
    visible: Visible,
    update: Vector,
    finite: Int[Tensor, "_"],
    strange: Callable[[Tensor, slice], Bool[Tensor, "_ _"]],
    *,
    suspects: int,
) -> Aggregate:
    """Judge rows by the share of sampled coordinates in which they are strange."""
    base, mix = visible.base, visible.mix
    at = slice(None, None, -(-base.shape[1] // SAMPLE) or 1)
    sample = base[:, at]
    if mix is None:
        sample = sample if len(finite) == len(sample) else sample[finite]
    else:
        held = mix[finite].ne(0).any(0)  # none of what is not finite
        sample = mix[finite][:, held].to(base) @ sample[held]
    found = strange(sample, at).cpu().numpy()
    kept = ~found
    shares = (kept / kept.sum(0).clip(1)).mean(1)
    verdict = torch.from_numpy(np.stack([shares, found.mean(1)])).to(base.device)
    return judged(
        visible, update, finite, shares=verdict[0], suspicion=verdict[1], suspects=suspects
    )


def _finite(visible: Visible) -> Int[Tensor, "_"]:
    """Say which visible rows are finite."""
    good = kernels.finite(visible.base)
    if visible.mix is not None:
        good = (visible.mix[:, ~good] == 0).all(1)
    return good.nonzero().flatten()


def _sum(visible: Visible, weights: Float64[Tensor, "_"]) -> Vector:
    own = weights if visible.mix is None else weights @ visible.mix
    return kernels.combine(visible.base, own)
