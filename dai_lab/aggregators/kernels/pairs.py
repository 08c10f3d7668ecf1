"""Squared distances or inner products of all pairs of rows.

Four rows by four are multiplied at a time, their sums in the processor's registers; what a chunk of
columns adds up to joins the others in float64, in an order that does not depend on how many
threads there are. Equal rows go through the same operations, so they end up at distance 0.

Distances are sums of squared differences, which cancel nothing. Inner products are taken as seen
from one of the rows: a common offset would leave nothing of float32's seven digits.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from dai_lab.aggregators.kernels.vectors import BYTES, WHOLE, Writer

TILE = 4
"""Rows of a block of pairs: with more, sums do not fit into the processor's registers."""

STRIDE = 4
"""Vectors copied at a time; rows are as many whole strides long."""


@intrinsic
@no_type_check
def _tile(typingctx, rows, i, j, begin, steps, sums, ahead, like, apart, same, height):
    """Add to sixteen sums what rows ``i``, ``i + 1``, … and ``j``, … ``j + 3`` have in common.

    ``rows`` points to their addresses, from which ``steps`` vectors are taken after ``begin``
    bytes. The lengths of tuples say whether differences are squared (``apart``) or numbers
    multiplied, whether ``i`` and ``j`` are the ``same``, and how many rows there are from ``i``.
    """
    dtype, high = like.dtype, len(height)
    pairs = [
        (a, b)
        for a in range(high)
        for b in range(TILE)
        if not len(same) or b < a or (b == a and not len(apart))
    ]

    def code(context, builder, sig, args):
        rows, i, j, begin, steps, sums, ahead = args[:7]
        write, double = Writer(builder, dtype), Writer(builder, types.float64)

        def address(first, place):
            entry = builder.add(first, ir.Constant(WHOLE, place))
            entry = builder.add(rows, builder.mul(entry, ir.Constant(WHOLE, 8)))
            return builder.add(builder.load(builder.inttoptr(entry, WHOLE.as_pointer())), begin)

        left = [address(i, place) for place in range(high)]
        right = left if len(same) else [address(j, place) for place in range(TILE)]
        before = builder.block
        loop, after = (builder.append_basic_block(name) for name in ("columns", "sums"))
        builder.branch(loop)
        builder.position_at_end(loop)
        at = builder.phi(WHOLE)
        at.add_incoming(ir.Constant(WHOLE, 0), before)
        totals = [builder.phi(write.vector) for _ in pairs]
        for total in totals:
            total.add_incoming(write.same(0.0), before)
        offset = builder.mul(at, ir.Constant(WHOLE, BYTES))
        lefts = [write.load(builder.add(one, offset)) for one in left]
        rights = lefts
        if len(same):
            for one in left:
                write.prefetch(builder.add(one, builder.add(offset, ahead)))
        else:
            rights = [write.load(builder.add(one, offset)) for one in right]
        grown = []
        for total, (a, b) in zip(totals, pairs, strict=True):
            x, y = lefts[a], rights[b]
            if len(apart):
                x = y = builder.fsub(x, y)
            grown.append(write.add_product(total, x, y))
        following = builder.add(at, ir.Constant(WHOLE, 1))
        at.add_incoming(following, loop)
        for total, more in zip(totals, grown, strict=True):
            total.add_incoming(more, loop)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
        builder.position_at_end(after)
        for (a, b), total in zip(pairs, grown, strict=True):
            place = write.at(sums, BYTES * (TILE * a + b))
            whole = double.load(place)
            for part in write.doubled(total):
                whole = builder.fadd(whole, part)
            double.store(whole, place)
        return context.get_dummy_value()

    kinds = (rows, i, j, begin, steps, sums, ahead, like, apart, same, height)
    return types.void(*kinds), code


@intrinsic
@no_type_check
def _less(typingctx, values, other, strides, out, like, wide):
    """Write values less others, in the type of ``wide``, if that is wider.

    Four vectors at a time, ``strides`` times: with fewer, counting takes as long as reading.
    """

    def code(context, builder, sig, args):
        values, other, strides, out = args[:4]
        write, double = Writer(builder, like.dtype), Writer(builder, types.float64)
        size = BYTES if wide.dtype == like.dtype else 2 * BYTES
        with cgutils.for_range(builder, strides) as loop:
            offset = builder.mul(loop.index, ir.Constant(WHOLE, STRIDE * BYTES))
            to = builder.add(out, builder.mul(loop.index, ir.Constant(WHOLE, STRIDE * size)))
            values, other = builder.add(values, offset), builder.add(other, offset)
            for at in range(STRIDE):
                left, right = (write.load(write.at(one, BYTES * at)) for one in (values, other))
                if wide.dtype == like.dtype:
                    write.store(builder.fsub(left, right), write.at(to, size * at))
                    continue
                pairs = zip(write.doubled(left), write.doubled(right), strict=True)
                for part, (one, less) in enumerate(pairs):
                    double.store(builder.fsub(one, less), write.at(to, size * at + BYTES * part))
        return context.get_dummy_value()

    return types.void(values, other, strides, out, like, wide), code


@njit(cache=True, nogil=True)
@no_type_check
def pairs(rows, center, first, last, chunk, length, ahead, like, wide, nothing, parts, apart):
    """Go through all pairs of rows, over the columns of segments ``first`` to ``last``.

    Args:
        rows: Addresses of rows, of ``length`` columns, in whole strides.
        center: Which row all are seen from; whose own place is taken by itself. Below 0 rows
            are used where they are.
        first: Of the segments.
        last: One past the last.
        chunk: Columns at a time, in whole strides.
        length: Columns.
        ahead: How many bytes further to fetch meanwhile, where rows are used in place.
        like: An array of the type of rows.
        wide: An array of the type to compute in.
        nothing: The address of a chunk of zeros.
        parts: ``[segments, rows, rows]``; its lower triangle gets the results.
        apart: ``(True,)`` for squared distances, ``()`` for products.
    """
    n, segments = len(rows), parts.shape[0]
    per = -(-length // (segments * chunk)) * chunk
    copies = center >= 0
    packed = np.zeros((n if copies else 1, chunk), wide.dtype)
    tiles = -(-n // TILE)
    sums = np.empty((tiles * (tiles + 1) // 2, TILE, TILE, 8), np.float64)
    where = rows.copy()
    width = chunk * packed.itemsize
    if copies:
        for row in range(n):
            where[row] = np.int64(packed.ctypes.data) + row * width
    for segment in range(first, last):
        sums[:] = 0
        stop = min(length, (segment + 1) * per)
        for begin in range(segment * per, stop, chunk):
            count, skip = min(chunk, stop - begin), begin * like.itemsize
            if copies:
                strides = count // (STRIDE * BYTES // like.itemsize)
                for row in range(n):
                    # A row less itself is nothing, so its place is free for the row itself.
                    alone = row == center or len(apart) > 0
                    other = nothing if alone else rows[center] + skip
                    _less(rows[row] + skip, other, strides, where[row], like, wide)
                skip = 0
            steps = count * packed.itemsize // BYTES
            to, at = np.int64(sums.ctypes.data), np.int64(where.ctypes.data)
            for tile in range(tiles):
                i = TILE * tile
                high = n - i
                for j in range(0, i, TILE):
                    if high >= 4:
                        _tile(
                            at,
                            i,
                            j,
                            skip,
                            steps,
                            to,
                            chunk * like.itemsize,
                            wide,
                            apart,
                            (),
                            (1, 1, 1, 1),
                        )
                    elif high == 3:
                        _tile(
                            at,
                            i,
                            j,
                            skip,
                            steps,
                            to,
                            chunk * like.itemsize,
                            wide,
                            apart,
                            (),
                            (1, 1, 1),
                        )
                    elif high == 2:
                        _tile(
                            at,
                            i,
                            j,
                            skip,
                            steps,
                            to,
                            chunk * like.itemsize,
                            wide,
                            apart,
                            (),
                            (1, 1),
                        )
                    else:
                        _tile(at, i, j, skip, steps, to, ahead, wide, apart, (), (1,))
                    to += TILE * TILE * BYTES
                if high >= 4:
                    _tile(
                        at,
                        i,
                        i,
                        skip,
                        steps,
                        to,
                        chunk * like.itemsize,
                        wide,
                        apart,
                        (1,),
                        (1, 1, 1, 1),
                    )
                elif high == 3:
                    _tile(
                        at,
                        i,
                        i,
                        skip,
                        steps,
                        to,
                        chunk * like.itemsize,
                        wide,
                        apart,
                        (1,),
                        (1, 1, 1),
                    )
                elif high == 2:
                    _tile(at, i, i, skip, steps, to, ahead, wide, apart, (1,), (1, 1))
                else:
                    _tile(at, i, i, skip, steps, to, ahead, wide, apart, (1,), (1,))
                to += TILE * TILE * BYTES
        tile = 0
        for i in range(0, n, TILE):
            for j in range(0, i + 1, TILE):
                for a in range(min(TILE, n - i)):
                    for b in range(min(TILE, n - j)):
                        parts[segment, i + a, j + b] += sums[tile, a, b].sum()
                tile += 1
