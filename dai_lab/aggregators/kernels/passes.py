"""Where a pass runs: compiled on the CPU, compiled for CUDA, or torch where neither fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from dai_lab.core import Gram, Rows, Vector

BLOCK = 2**14


def window(
    base: Rows,
    low: int,
    high: int,
    *,
    rows: Int[Tensor, "_"] | None = None,
    mix: Float64[Tensor, "_ _"] | None = None,
) -> tuple[Vector, bool]:
    """Average each column's sorted values from rank ``low`` up to, without, ``high``.

    Args:
        base: ``[n, d]``, float32 or float64.
        low: First rank, from 0.
        high: One past the last rank, up to the number of rows.
        rows: Which of ``base`` to look at, all by default.
        mix: ``[m, n]``: rank the rows of ``mix @ base`` instead.

    Returns:
        The averages ``[d]``, and whether all numbers looked at are finite; if not, the
        averages mean nothing.
    """
    parts, finite = [], True
    for block in _blocks(base, rows, mix):
        finite = finite and bool(block.isfinite().all())
        parts.append(block.sort(dim=0).values[low:high].mean(0))
    return torch.cat(parts), finite


def nearest(
    base: Rows,
    low: int,
    high: int,
    count: int,
    *,
    rows: Int[Tensor, "_"] | None = None,
    mix: Float64[Tensor, "_ _"] | None = None,
) -> tuple[Vector, bool]:
    """Average the ``count`` values of each column closest to what :func:`window` gives.

    Of two values equally far, the smaller is taken first. Arguments and what is returned are as
    there.
    """
    parts, finite = [], True
    for block in _blocks(base, rows, mix):
        finite = finite and bool(block.isfinite().all())
        ranked = block.sort(dim=0).values
        middle = ranked[low:high].mean(0)
        order = (ranked - middle).abs().sort(dim=0, stable=True).indices
        parts.append(ranked.gather(0, order[:count]).mean(0))
    return torch.cat(parts), finite


def gram(base: Rows, beside: Sequence[Vector] = ()) -> Gram:
    """Take all inner products, seen from a row that lies amid the others.

    Args:
        base: ``[n, d]``, float32 or float64.
        beside: Further vectors ``[d]``, which follow the rows.

    Returns:
        Float64, accurate to the rounding of ``base``'s type; rows that are equal bit for bit are
        at distance 0. NaN in the rows and columns of what is not finite.
    """
    rows = torch.cat([base, *(one.to(base).unsqueeze(0) for one in beside)]).double()
    finite = rows.isfinite().all(1)
    found = rows[finite]
    if not bool(finite[: len(base)].any()):
        return Gram(rows.new_full((len(rows) + 1, len(rows) + 1), torch.nan), 0)
    ours = int(finite[: len(base)].sum())
    gaps = torch.cdist(found[:ours], found[:ours], compute_mode="donot_use_mm_for_euclid_dist")
    center = int(finite.nonzero().flatten()[gaps.median(1).values.argmin()])
    seen = torch.cat([found - rows[center], rows[center].unsqueeze(0)])
    inner = rows.new_full((len(rows) + 1, len(rows) + 1), torch.nan)
    at = torch.cat([finite.nonzero().flatten(), torch.tensor([len(rows)], device=rows.device)])
    inner[at.unsqueeze(1), at] = seen @ seen.T
    return Gram(inner, center)


def combine(base: Rows, weights: Float64[Tensor, "_"], beside: Sequence[Vector] = ()) -> Vector:
    """Add up rows, each times its weight, in float64; a row with weight 0 is never read.

    Args:
        base: ``[n, d]``, float32 or float64.
        weights: One for each row, then one for each of ``beside``.
        beside: Further vectors ``[d]``.

    Returns:
        ``[d]``, in the type of ``base``.
    """
    total = torch.zeros(base.shape[1], dtype=torch.float64, device=base.device)
    for row, weight in zip([*base, *beside], weights.tolist(), strict=True):
        if weight:
            total += weight * row.double()
    return total.to(base.dtype)


def votes(base: Rows) -> tuple[Vector, Vector]:
    """Return each column's sum of signs, and its sum; NaN where a number is not finite."""
    return base.sign().sum(0), base.double().sum(0).to(base.dtype)


def _blocks(base: Rows, rows: Tensor | None, mix: Tensor | None) -> Iterator[Tensor]:
    for block in torch.split(base, BLOCK, dim=1):
        if mix is not None:
            held = mix.ne(0).any(0)
            yield (mix[:, held] @ block[held].double()).to(base.dtype)
        else:
            yield block if rows is None else block[rows]
