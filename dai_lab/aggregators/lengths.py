"""Rules that keep some of the rows by how long they are, or how far from one point.

They compare no two rows, so one pass over them does where distances take a pass for all pairs.
"""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from dai_lab.aggregators import kernels
from dai_lab.aggregators.seen import judged, look, need, some
from dai_lab.core import ALONE, Aggregate, Context, TooFew, Vector, Visible

_NONE = (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.float64))
"""No row is finite."""


def cge(visible: Visible, context: Context = ALONE, *, f: int = 1) -> Aggregate:
    """Average the ``n - f`` shortest rows; a liar no longer than the honest is not noticed.

    A row's suspicion is its length.

    Args:
        visible: What the server may see; more than ``2 f`` rows. The paper's guarantee asks for
            more: honest losses that share a minimum, and ``f / n`` below a bound they set.
        context: Not needed.
        f: Hostile rows to expect; those that are not finite are counted off.

    Raises:
        TooFew: The liars could be as many as the honest.

    Source:
        Gupta, Liu and Vaidya 2021, arXiv:2008.04699 (comparative gradient elimination).
    """
    finite, norms = lengths(visible)
    left = need("cge", visible, len(finite), f=f, least=2 * f + 1)
    return _shortest(visible, finite, norms, left)


def monna(
    visible: Visible, context: Context = ALONE, *, f: int = 1, pivot: int | None = None
) -> Aggregate:
    """Average the ``n - f`` rows nearest to one that is trusted.

    The paper has no server: each node trusts its own row and averages what is nearest to it. Here
    the row to trust is, in this order: that at ``pivot``; what the server learned from examples of
    its own, which is not averaged itself; the first finite row, with a warning, for where that
    row lies the average is the liar's. A row's suspicion is its distance to the trusted one.

    Args:
        visible: What the server may see; more than ``2 f`` rows. The paper's proof takes more
            than ``11 f``: a warning says so.
        context: Its ``root`` is what the server learned, where it has examples.
        f: Hostile rows to expect; those that are not finite are counted off.
        pivot: Place among the visible rows, from 0, of the row to trust.

    Raises:
        ValueError: ``pivot`` is below 0, or what is trusted is not finite.
        TooFew: The liars could be as many as the honest, or no row is at ``pivot``.

    Source:
        Farhadkhani et al. 2023, arXiv:2209.10931, algorithm 1 (nearest-neighbor averaging).
    """
    if pivot is not None and not 0 <= pivot < visible.count:
        kind = ValueError if pivot < 0 else TooFew
        raise kind(
            f"aggregator.pivot must be in 0..{visible.count - 1} (the visible rows), got {pivot}"
        )
    if pivot is None and context.root is not None:
        trusted = context.root()
        good = bool(trusted.isfinite().all())
        finite, away = lengths(visible, trusted) if good else _NONE
    else:
        finite, away = _from_row(visible, pivot)
        good = pivot is None or bool((finite == pivot).any())
        if pivot is None and f:
            warnings.warn(
                "aggregator=monna trusts the first row, whoever sent it: set aggregator.pivot or "
                "give the server examples of its own",
                stacklevel=2,
            )
    if not good:
        whose = (
            "the server's own update" if pivot is None else f"the row at aggregator.pivot={pivot}"
        )
        raise ValueError(f"aggregator=monna trusts {whose}, which is not finite: trust another")
    left = need("monna", visible, len(finite), f=f, least=2 * f + 1)
    if f and visible.count <= 11 * f:
        warnings.warn(
            f"aggregator=monna with f={f} sees {visible.count} of the {11 * f + 1} rows its proof "
            "takes: lower aggregator.f or raise secagg.groups or the cohort",
            stacklevel=2,
        )
    return _shortest(visible, finite, away, left)


def lengths(
    visible: Visible, origin: Vector | None = None
) -> tuple[Int[Tensor, "m"], Float64[Tensor, "m"]]:
    """Find the finite rows, and how far each of them is from ``origin``.

    Args:
        visible: What the server may see.
        origin: A finite vector; 0 by default.

    Returns:
        Places of the finite rows, and their Euclidean lengths.
    """
    some(visible)
    if visible.mix is None and (visible.gram is None or origin is not None):
        squares = kernels.squares(visible.base, origin)
        finite = squares.isfinite().nonzero().flatten()
        return finite, squares[finite].sqrt()
    seen = look(visible, () if origin is None else (origin,))
    if origin is None:
        return seen.finite, seen.norms
    away = seen.holds - seen.other(0)
    return seen.finite, ((away @ seen.inner) * away).sum(1).clamp_min(0).sqrt()


def finite_rows(visible: Visible) -> Int[Tensor, "m"]:
    """Say which visible rows are finite, at most from one pass over them."""
    some(visible)
    base, mix, gram = visible.base, visible.mix, visible.gram
    squares = kernels.squares(base) if gram is None else gram.inner.diagonal()[: len(base)]
    good = squares.isfinite()
    if mix is not None:
        good = (mix[:, ~good] == 0).all(1)
    return good.nonzero().flatten()


def _shortest(
    visible: Visible, finite: Int[Tensor, "m"], norms: Float64[Tensor, "m"], left: int
) -> Aggregate:
    """Average all but the ``left`` longest; of rows as long as each other the first stay."""
    kept = len(norms) - left
    order = norms.argsort(stable=True)
    shares = torch.zeros_like(norms).index_fill_(0, order[:kept], 1 / kept)
    accused = torch.zeros_like(norms, dtype=torch.bool).index_fill_(0, order[kept:], True)
    own = shares.new_zeros(visible.count).index_copy_(0, finite, shares)
    own = own if visible.mix is None else own @ visible.mix
    update = kernels.combine(visible.base, own)
    return judged(visible, update, finite, shares=shares, suspicion=norms, suspects=accused)


def _from_row(visible: Visible, pivot: int | None) -> tuple[Int[Tensor, "m"], Float64[Tensor, "m"]]:
    """Find the finite rows, and their distances to that at ``pivot`` or to the first of them."""
    if visible.mix is None and visible.gram is None:
        places = range(visible.count) if pivot is None else [pivot]
        good = (one for one in places if bool(visible.base[one].isfinite().all()))
        at = next(good, None)
        return _NONE if at is None else lengths(visible, visible.base[at])
    seen = look(visible)
    mine = seen.finite == (seen.finite[:1] if pivot is None else pivot)
    return seen.finite, seen.distances[mine].sum(0).sqrt()
