"""Combinators: they mix or scale the rows, then let another rule aggregate what comes of it.

What a rule makes of the rows is kept as how much each new row holds of each old one and is never
multiplied out, so the rule that follows works with inner products that are known already. A row
that is not finite is passed on as it is, for the next rule to count it off and accuse it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from dai_lab.aggregators.lengths import finite_rows, lengths
from dai_lab.aggregators.seen import judged, look, need
from dai_lab.aggregators.selection import even
from dai_lab.core import ALONE, Aggregate, Aggregator, Context, Visible


def nnm(visible: Visible, context: Context = ALONE, *, f: int = 1, then: Aggregator) -> Aggregate:
    """Replace each row by the mean of the ``n - f`` nearest to it, itself included.

    Args:
        visible: What the server may see; more than ``2 f`` rows.
        context: For what follows.
        f: Hostile rows to expect, the same as of what follows; those that are not finite are
            counted off.
        then: What aggregates the mixed rows; shares go back to the rows that were mixed.
            Around a liar lie mostly the honest, so the verdict is not what follows thinks of the
            mixtures: a row's suspicion is the share of mixtures that leave it out.

    Raises:
        ValueError: What follows expects another ``f``.
        TooFew: The liars could be as many as the honest.

    Source:
        Allouah et al. 2023, arXiv:2302.01772, algorithm 2 (nearest neighbor mixing).
    """
    _same("nnm", f, then)
    seen = look(visible)
    kept = seen.count - need("nnm", visible, seen.count, f=f, least=2 * f + 1)
    # Less than no distance: a row is its own nearest, whoever else is equal to it.
    nearest = even(seen.distances).fill_diagonal_(-1.0).argsort(dim=1, stable=True)[:, :kept]
    mixed = torch.zeros_like(seen.distances).scatter_(1, nearest, 1 / kept)
    holds = torch.eye(visible.count, dtype=torch.float64, device=mixed.device)
    holds[seen.finite.unsqueeze(1), seen.finite] = mixed
    found = _follow(seen.visible, context, then, holds)
    apart = mixed.eq(0).double().mean(0)
    return judged(
        visible,
        found.update,
        seen.finite,
        shares=found.shares[seen.finite],
        suspicion=apart,
        suspects=seen.count - kept,
        memory=found.memory,
        record=found.record,
    )


def bucketing(
    visible: Visible, context: Context = ALONE, *, size: int = 2, then: Aggregator
) -> Aggregate:
    """Replace rows by the means of random buckets of ``size`` rows, the last perhaps smaller.

    One liar spoils a bucket, so what follows has to withstand as many liars among
    ``ceil(n / size)`` rows as there are among ``n``, and refuses if it cannot: its ``f`` stays.

    Args:
        visible: What the server may see. A row that is not finite is a bucket of its own.
        context: Its ``key`` deals the rows to buckets; the rest is for what follows.
        size: Rows in a bucket, 1 or more.
        then: What aggregates the buckets. Its verdict on a bucket is that on all who are in it.

    Raises:
        ValueError: ``size`` is below 1.

    Source:
        Karimireddy, He and Jaggi 2022, arXiv:2006.09365, algorithm 1.
    """
    if size < 1:
        raise ValueError(f"aggregator.size must be at least 1, got {size}")
    finite = finite_rows(visible)
    order = torch.randperm(len(finite), generator=(context.key / "bucketing").stream())
    count = -(-len(finite) // size)
    place = torch.empty(visible.count, dtype=torch.long, device=finite.device)
    lost = torch.ones_like(place, dtype=torch.bool).index_fill_(0, finite, False)
    place[lost] = torch.arange(count, count + visible.count - len(finite), device=place.device)
    place[finite[order.to(finite.device)]] = torch.arange(len(finite), device=place.device) // size
    buckets = count + visible.count - len(finite)
    inside = torch.nn.functional.one_hot(place, buckets).T.double()
    holds = inside / inside.sum(1, keepdim=True)
    members: list[tuple[int, ...]] = [()] * buckets
    for row, bucket in enumerate(place.tolist()):
        members[bucket] += visible.members[row]
    weights = visible.weights.new_zeros(buckets).index_add_(
        0, place.to(visible.weights.device), visible.weights
    )
    # What follows may deal rows to buckets as well, and not in the same way.
    inner = replace(context, key=context.key / "then")
    return _follow(visible, inner, then, holds, place=place, members=members, weights=weights)


def clipping(
    visible: Visible, context: Context = ALONE, *, norm: float, then: Aggregator
) -> Aggregate:
    """Scale rows longer than ``norm`` down to it.

    Args:
        visible: What the server may see.
        context: For what follows.
        norm: Euclidean length above 0; infinite clips nothing.
        then: What aggregates the clipped rows, and whose verdict it is. The share of a row
            that was scaled is scaled too.

    Raises:
        ValueError: ``norm`` is not above 0.

    Source:
        Allouah et al. 2025, arXiv:2405.14432, section 3 (static clipping).
    """
    if not norm > 0:
        raise ValueError(f"aggregator.norm must be above 0, got {norm}")
    visible, finite, norms = _measured(visible)
    return _clipped(visible, context, then, finite, norms, torch.full_like(norms, norm))


def arc(visible: Visible, context: Context = ALONE, *, f: int = 1, then: Aggregator) -> Aggregate:
    """Scale the ``k = floor(2 (f / n) (n - f))`` longest rows down to the next longest.

    Args:
        visible: What the server may see; more than ``2 f`` rows.
        context: For what follows.
        f: Hostile rows to expect, the same as of what follows; those that are not finite are
            counted off. At 0 nothing is clipped.
        then: As for :func:`clipping`.

    Raises:
        ValueError: What follows expects another ``f``.
        TooFew: The liars could be as many as the honest.

    Source:
        Allouah et al. 2025, arXiv:2405.14432, algorithm 2 (adaptive robust clipping).
    """
    _same("arc", f, then)
    visible, finite, norms = _measured(visible)
    left = need("arc", visible, len(finite), f=f, least=2 * f + 1)
    clipped = 2 * left * (len(norms) - left) // len(norms)
    limit = norms.sort(descending=True).values[clipped]
    return _clipped(visible, context, then, finite, norms, limit.expand_as(norms))


def noisy(visible: Visible, context: Context = ALONE, *, std: float, then: Aggregator) -> Aggregate:
    """Add Gaussian noise to what another rule makes of the rows; after clipping, weak privacy.

    Args:
        visible: What the server may see.
        context: For what follows; noise is drawn from ``key``.
        std: Standard deviation in each coordinate, 0 or more.
        then: What aggregates the rows, and whose verdict it is.

    Raises:
        ValueError: ``std`` is negative or not finite.

    Source:
        Sun et al. 2019, arXiv:1911.07963, section 5 (norm clipping and weak differential
        privacy against backdoors).
    """
    if not 0 <= std < math.inf:
        raise ValueError(f"aggregator.std must be 0 or more, got {std}")
    found = then(visible, context)
    drawn = torch.randn(len(found.update), generator=(context.key / "noisy").stream())
    return replace(found, update=found.update + (std * drawn).to(found.update))


def _measured(visible: Visible) -> tuple[Visible, Int[Tensor, "m"], Float64[Tensor, "m"]]:
    """Find the finite rows and their lengths; if that took inner products, keep those."""
    if visible.mix is not None and visible.gram is None:
        visible = look(visible, products=True).visible
    return visible, *lengths(visible)


def _clipped(
    visible: Visible,
    context: Context,
    then: Aggregator,
    finite: Int[Tensor, "m"],
    norms: Float64[Tensor, "m"],
    limits: Float64[Tensor, "m"],
) -> Aggregate:
    long = norms > limits
    if bool(long.any()):
        factors = norms.new_ones(visible.count)
        factors[finite[long]] = limits[long] / norms[long]
        found = _follow(visible, context, then, factors.diag())
    else:
        found = then(visible, context)
    return replace(found, record={"clipped": int(long.sum()), **found.record})


def _follow(
    visible: Visible,
    context: Context,
    then: Aggregator,
    holds: Float64[Tensor, "made n"],
    *,
    place: Int[Tensor, "n"] | None = None,
    members: Sequence[tuple[int, ...]] | None = None,
    weights: Tensor | None = None,
) -> Aggregate:
    """Let a rule aggregate what ``holds`` makes of the rows; put its verdict on those.

    Args:
        visible: The rows.
        context: For what follows.
        then: What follows.
        holds: How much each row made holds of each row there was.
        place: Which row made each row is judged by; by default they go one by one.
        members: Clients behind each row made; by default as before.
        weights: What each row made counts for; by default as before.
    """
    made = replace(
        visible,
        mix=holds if visible.mix is None else holds @ visible.mix,
        members=visible.members if members is None else tuple(members),
        weights=visible.weights if weights is None else weights,
    )
    found = then(made, context)
    one_by_one = torch.arange(visible.count, device=holds.device)
    place = one_by_one if place is None else place
    return replace(
        found,
        shares=found.shares.to(holds) @ holds,
        suspicion=found.suspicion[place],
        suspected=found.suspected[place],
    )


def _same(rule: str, f: int, then: Aggregator) -> None:
    """Refuse a rule to follow, or one after it, that expects another number of liars."""
    knob, following = "aggregator.then.f", inspect.signature(then).parameters
    while "f" not in following and "then" in following and callable(following["then"].default):
        knob = knob.replace(".f", ".then.f")
        following = inspect.signature(following["then"].default).parameters
    told = following["f"].default if "f" in following else f
    if told != f:
        raise ValueError(
            f"aggregator={rule} and what follows expect the same number of liars: set aggregator.f "
            f"and {knob} to the same, got {f} and {told}"
        )
