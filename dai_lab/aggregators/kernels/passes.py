"""Passes over rows: which code runs, on how many threads, and what becomes of the odd columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from dai_lab.aggregators.kernels import there
from dai_lab.aggregators.kernels.laid import GRAIN, WORTH, Laid, along, kind_of, lay, threaded
from dai_lab.aggregators.kernels.mixtures import mixed, sparse
from dai_lab.core import Gram, Rows, Vector

CHUNK = 256
"""Columns in one bite where all pairs of rows are compared, so that they stay at hand."""

SEGMENTS = 64
"""Parts whose sums are added up in order, whoever computed them."""

EXACT = 2**23
"""Products of single numbers up to which inner products of float32 are computed in float64."""

MOST = 512
"""Rows up to which a network is compiled, in some ten seconds; more are sorted by torch."""

AMID = 256
"""Columns on which a row that lies amid the others is looked for."""


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
    return _by_column(base, low, high, 0, rows, mix)


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
    return _by_column(base, low, high, count, rows, mix)


def distances(base: Rows, beside: Sequence[Vector] = ()) -> Float64[Tensor, "n n"]:
    """Take the squared Euclidean distances of all pairs of rows.

    Args:
        base: ``[n, d]``, float32 or float64.
        beside: Further vectors ``[d]``, which follow the rows.

    Returns:
        Accurate to the rounding of the differences of ``base``'s type, and 0 for rows that are
        equal bit for bit. Infinite or NaN, but for the diagonal, where a row is not finite, or
        so far away that the square overflows.
    """
    if base.is_cuda:
        center = _amid(base)
        seen = there.pairs(base, beside, center)
        seen[center], seen[:, center] = 0, 0
        own = seen.diagonal()
        found = (own.unsqueeze(1) + own - 2 * seen).clamp_min(0)
    else:
        found = _pairs(base, beside, -1)
        found = found + found.T
    return found.fill_diagonal_(0)


def gram(base: Rows, beside: Sequence[Vector] = ()) -> Gram:
    """Take all inner products, seen from a row that lies amid the others.

    Args:
        base: ``[n, d]``, float32 or float64.
        beside: Further vectors ``[d]``, which follow the rows.

    Returns:
        Float64, accurate to the rounding of ``base``'s type. NaN in the rows and columns of what
        is not finite, or so long that its square overflows.
    """
    center = _amid(base)
    found = (there.pairs if base.is_cuda else _pairs)(base, beside, center)
    count = len(found)
    # The center's place was taken by the center seen from the origin; seen from itself it is 0.
    inner = found.new_zeros((count + 1, count + 1))
    inner[:count, :count] = found
    inner[count, :count] = found[center]
    inner[count, :center] = found[center, :center]
    inner[count, center + 1 : count] = found[center + 1 :, center]
    inner[count, count] = found[center, center]
    inner[:, center], inner[center] = 0, 0
    inner[count, center] = 0
    return _lost(inner.tril() + inner.tril(-1).T, center)


def _lost(inner: Float64[Tensor, "basis basis"], center: int) -> Gram:
    """Leave no number in the rows and columns of what is not finite."""
    lost = ~inner.diagonal().isfinite()
    lost = lost | lost[-1]  # there is nothing to see from a row that is not finite
    inner[lost], inner[:, lost] = torch.nan, torch.nan
    return Gram(inner, center)


def beside(known: Gram, base: Rows, more: Sequence[Vector]) -> Gram:
    """Take the inner products of further vectors, where those of the rows are known already.

    Args:
        known: Inner products of ``base``.
        base: ``[n, d]``, float32 or float64.
        more: Vectors ``[d]``, which follow the rows.

    Returns:
        As :func:`gram` gives for both, at the price of a pass for each further vector.
    """
    count, center = len(base), known.center
    if known.inner.is_cuda or not bool(known.inner[center, center].isfinite()):
        return gram(base, more)
    total = count + len(more)
    inner = known.inner.new_zeros((total + 1, total + 1))
    rows = torch.tensor([*range(count), total])
    inner[rows.unsqueeze(1), rows] = known.inner
    own = inner.diagonal()
    for place, vector in enumerate(more, start=count):
        # A product is what two squared lengths leave of that of the difference.
        before = (squares(one.unsqueeze(0), vector) for one in more[: place - count])
        apart = torch.cat([squares(base, vector), *before])
        length = apart[center].clone()
        inner[place, :place] = (own[:place] + length - apart) / 2
        inner[place, place] = length
        whole = squares(vector.unsqueeze(0))[0]
        inner[place, total] = (whole - length - own[total]) / 2
        inner[:, place] = inner[place]
        inner[total, place] = inner[place, total]
    return _lost(inner, center)


def combine(base: Rows, weights: Float64[Tensor, "_"], beside: Sequence[Vector] = ()) -> Vector:
    """Add up rows, each times its weight, in float64; a row with weight 0 is never read.

    Args:
        base: ``[n, d]``, float32 or float64.
        weights: One for each row, then one for each of ``beside``.
        beside: Further vectors ``[d]``.

    Returns:
        ``[d]``, in the type of ``base``.
    """
    if base.is_cuda:
        return there.combine(base, weights, beside)
    held = weights.cpu().nonzero().flatten()
    if not len(held):
        return torch.zeros_like(base[0]) if len(base) else base.new_zeros(base.shape[1])
    factors = weights.cpu()[held].double().numpy()
    whole = len(held) == len(weights)
    return _added(along(base, beside, None if whole else held), factors)[0].to(base)[
        : base.shape[1]
    ]


def votes(base: Rows) -> tuple[Vector, Vector]:
    """Return each column's sum of signs, and its sum; NaN where a number is not finite."""
    if base.is_cuda:
        return there.votes(base)
    found = _added(along(base), np.ones(len(base)), voting=True).to(base)
    return found[1, : base.shape[1]], found[0, : base.shape[1]]


def _added(laid: Laid, factors: Any, voting: bool = False) -> Tensor:
    """Add up rows, and their signs too if ``voting``."""
    from dai_lab.aggregators.kernels import sums

    size = laid.like.itemsize
    out = torch.empty(1 + voting, laid.length, dtype=[torch.float32, torch.float64][size // 8])
    to, too = out.data_ptr(), out.data_ptr() + voting * laid.length * size

    def part(first: int, last: int) -> None:
        flag = (True,) if voting else ()
        sums.combine(laid.rows, factors, first * size, last * size, to, too, laid.like, flag)

    threaded(part, laid.length, GRAIN, laid.threads)
    return out


def squares(base: Rows, origin: Vector | None = None) -> Float64[Tensor, "n"]:
    """Return the square of each row's Euclidean distance from ``origin``, by default 0.

    Not finite where the row is not.
    """
    if base.is_cuda:
        return there.squares(base, origin)
    from dai_lab.aggregators.kernels import sums

    found = np.zeros(len(base))
    away = () if origin is None else (True,)
    for laid, _ in lay(base, () if origin is None else (origin,)):

        def part(first: int, last: int, laid: Laid = laid) -> None:
            size = laid.length * laid.like.itemsize
            sums.squares(laid.rows, first, last, size, laid.rows[-1], laid.like, away, found)

        threaded(part, len(base), 1, laid.threads)
    return torch.from_numpy(found).to(base.device)


def finite(base: Rows) -> Bool[Tensor, "n"]:
    """Say which rows hold only finite numbers."""
    good = squares(base).isfinite()
    for row in (~good).nonzero().flatten().tolist():  # a finite number may have no finite square
        good[row] = base[row].isfinite().all()
    return good


def outside(sample: Rows, low: int, high: int, near: int = 0) -> Bool[Tensor, "n columns"]:
    """Tell which numbers of a few columns ``window``, or ``nearest`` with ``near``, leaves out."""
    from dai_lab.aggregators.kernels import ranks

    found = torch.empty(sample.shape, dtype=torch.bool)
    ranks.outside(sample.cpu().numpy(), low, high, near, found.numpy())
    return found.to(sample.device)


def _by_column(
    base: Rows,
    low: int,
    high: int,
    near: int,
    rows: Int[Tensor, "_"] | None,
    mix: Float64[Tensor, "_ _"] | None,
) -> tuple[Vector, bool]:
    from dai_lab.aggregators.kernels.columns import columns, number

    count = len(mix) if mix is not None else len(base) if rows is None else len(rows)
    if count > MOST:
        blocks = mixed(base, mix) if mix is not None else [base if rows is None else base[rows]]
        found = [there.by_column(block, low, high, near) for block in blocks]
        return torch.cat([one for one, _ in found]), all(finite for _, finite in found)
    if base.is_cuda:
        from dai_lab.aggregators.kernels.cuda import by_column

        blocks = mixed(base, mix) if mix is not None else [base if rows is None else base[rows]]
        found = [by_column(block, low, high, near) for block in blocks]
        return torch.cat([one for one, _ in found]), all(finite for _, finite in found)
    plan = (number(count), number(low), number(high), number(near))
    # A row that is shorter than a block is padded, and so is what it gives.
    out, flags = torch.empty(base.shape[1] + GRAIN, dtype=kind_of(base)), []

    def ranked(block: Rows, start: int, threads: int) -> None:
        laid = along(block, rows=rows)
        to, size = out.data_ptr() + start * out.element_size(), laid.like.itemsize

        def part(first: int, last: int) -> None:
            flag = np.zeros(16, laid.like.dtype)
            columns(laid.rows, first * size, last * size, to, flag, laid.like, *plan)
            flags.append(flag)

        threaded(part, laid.length, GRAIN, min(threads, laid.threads))

    def through(first: int, last: int, threads: int = 1) -> None:
        for block in [base] if mix is None else mixed(base[:, first:last], mix):
            ranked(block, first, threads)
            first += block.shape[1]

    threads = torch.get_num_threads()
    if mix is not None and sparse(mix):
        threaded(through, base.shape[1], GRAIN, threads if base.numel() >= WORTH else 1)
    else:
        through(0, base.shape[1], threads)
    return out[: base.shape[1]].to(base), not any(flag.any() for flag in flags)


def _pairs(base: Rows, beside: Sequence[Vector], center: int) -> Float64[Tensor, "n n"]:
    """Fill a lower triangle with squared distances (below 0), or products as seen from a row."""
    from dai_lab.aggregators.kernels.pairs import pairs

    total = np.zeros((len(base) + len(beside),) * 2)
    nothing = np.zeros(CHUNK)
    apart = (True,) if center < 0 else ()
    for laid, _ in lay(base, beside):
        n, size = len(laid.rows), laid.like.itemsize
        few = n * n * laid.length <= EXACT and center >= 0
        wide = np.ones(1, np.float64 if few else laid.like.dtype)
        most = min(SEGMENTS, max(1, 2**23 // n**2))
        segments = min(most, -(-laid.length // CHUNK))
        parts = np.zeros((segments, n, n))
        ahead = CHUNK * size if n > 16 else 0
        here = center
        if apart and n > 8 and len({int(one) % 4096 for one in laid.rows}) < n // 4:
            here = 0  # rows that far apart push each other out of the cache: copy them

        def part(
            first: int, last: int, laid: Laid = laid, with_: Any = (here, parts, wide, ahead)
        ) -> None:
            here, parts, wide, ahead = with_
            pairs(
                laid.rows, here, first, last, CHUNK, laid.length, ahead, laid.like, wide,
                nothing.ctypes.data, parts, apart,
            )  # fmt: skip

        threaded(part, segments, 1, laid.threads)
        total += parts.sum(0)
    return torch.from_numpy(total).to(base.device)


def _amid(base: Rows) -> int:
    """Find a finite row that is near the middle of most, on a few columns."""
    at = torch.arange(0, base.shape[1], max(1, base.shape[1] // AMID), device=base.device)
    few = base[:, at].double()
    whole = few.isfinite().all(1)
    good = whole.nonzero().flatten()
    for _ in range(2):
        if not len(good):
            return 0
        some = few[good]
        middle = some.sort(0).values[len(good) // 2]
        first = good[(some - middle).square().sum(1).argsort(stable=True)]
        for place in first[:1].tolist():
            if bool(base[place].isfinite().all()):
                return int(place)
        good = (whole & finite(base)).nonzero().flatten()
    raise AssertionError("a row was finite, and is not any more")
