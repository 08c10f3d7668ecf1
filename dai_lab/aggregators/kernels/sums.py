"""Rows added up, and what else takes one look at each number; sums are float64."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from dai_lab.aggregators.kernels.vectors import BYTES, WHOLE, Writer

TOGETHER = 4
"""Rows added in one go, so that a sum is written once for all of them."""


@intrinsic
@no_type_check
def _add(typingctx, rows, weights, place, skip, steps, sums, like, height):
    """Add to float64 sums some rows, from row ``place``, each times its weight."""
    dtype, high = like.dtype, len(height)

    def code(context, builder, sig, args):
        rows, weights, place, skip, steps, sums = args[:6]
        write, double = Writer(builder, dtype), Writer(builder, types.float64)

        def entry(array, at, kind):
            at = builder.mul(builder.add(place, ir.Constant(WHOLE, at)), ir.Constant(WHOLE, 8))
            return builder.load(builder.inttoptr(builder.add(array, at), kind.as_pointer()))

        starts = [builder.add(entry(rows, at, WHOLE), skip) for at in range(high)]
        factors = [double.spread(entry(weights, at, double.lane)) for at in range(high)]
        with cgutils.for_range(builder, steps) as loop:
            offset = builder.mul(loop.index, ir.Constant(WHOLE, BYTES))
            parts = [write.doubled(write.load(builder.add(one, offset))) for one in starts]
            for half in range(len(parts[0])):
                to = builder.mul(loop.index, ir.Constant(WHOLE, BYTES * len(parts[0])))
                to = builder.add(sums, write.at(to, BYTES * half))
                total = double.load(to)
                for part, factor in zip(parts, factors, strict=True):
                    total = double.add_product(total, part[half], factor)
                double.store(total, to)
        return context.get_dummy_value()

    return types.void(rows, weights, place, skip, steps, sums, like, height), code


@njit(cache=True, nogil=True)
@no_type_check
def combine(rows, weights, first, last, chunk, like, out):
    """Add up columns ``first`` to ``last`` of rows at these addresses, times their weights.

    Columns are whole vectors, ``chunk`` of them at a time; ``out`` gets them, in its own type.
    """
    n = len(rows)
    sums = np.empty(chunk, np.float64)
    array = np.int64(rows.ctypes.data)
    factors, to = np.int64(weights.ctypes.data), np.int64(sums.ctypes.data)
    for begin in range(first, last, chunk):
        count, skip = min(chunk, last - begin), begin * like.itemsize
        steps = count * like.itemsize // BYTES
        sums[:count] = 0
        for row in range(0, n - n % TOGETHER, TOGETHER):
            _add(array, factors, row, skip, steps, to, like, (1, 1, 1, 1))
        for row in range(n - n % TOGETHER, n):
            _add(array, factors, row, skip, steps, to, like, (1,))
        for k in range(count):
            out[begin + k] = sums[k]


@intrinsic
@no_type_check
def _counted(typingctx, row, steps, signs, sums, like):
    """Add the signs and the values of a row to float64 sums of both."""

    def code(context, builder, sig, args):
        row, steps, signs, sums = args[:4]
        write, double = Writer(builder, like.dtype), Writer(builder, types.float64)
        with cgutils.for_range(builder, steps) as loop:
            offset = builder.mul(loop.index, ir.Constant(WHOLE, BYTES))
            values = write.doubled(write.load(builder.add(row, offset)))
            for half, value in enumerate(values):
                to = builder.mul(loop.index, ir.Constant(WHOLE, BYTES * len(values)))
                to = write.at(to, BYTES * half)
                place = builder.add(sums, to)
                double.store(builder.fadd(double.load(place), value), place)
                place = builder.add(signs, to)
                total, zero = double.load(place), double.same(0.0)
                for how, one in ((">", 1.0), ("<", -1.0)):
                    there = builder.fcmp_ordered(how, value, zero)
                    total = builder.fadd(total, builder.select(there, double.same(one), zero))
                double.store(total, place)
        return context.get_dummy_value()

    return types.void(row, steps, signs, sums, like), code


@njit(cache=True, nogil=True)
@no_type_check
def votes(rows, first, last, chunk, like, signs, sums):
    """Sum the signs and the values of columns ``first`` to ``last``; as :func:`combine`."""
    counts, totals = np.empty(chunk, np.float64), np.empty(chunk, np.float64)
    to, too = np.int64(counts.ctypes.data), np.int64(totals.ctypes.data)
    for begin in range(first, last, chunk):
        count, skip = min(chunk, last - begin), begin * like.itemsize
        counts[:count] = 0
        totals[:count] = 0
        for row in range(len(rows)):
            _counted(rows[row] + skip, count * like.itemsize // BYTES, to, too, like)
        for k in range(count):
            signs[begin + k] = counts[k]
            sums[begin + k] = totals[k]


@intrinsic
@no_type_check
def _squared(typingctx, row, steps, sums, origin, like, away):
    """Write the squares of a row, less the one at ``origin`` if ``away``, as float64 vectors."""

    def code(context, builder, sig, args):
        row, steps, sums, origin = args[:4]
        write, double = Writer(builder, like.dtype), Writer(builder, types.float64)
        lanes = len(write.doubled(write.same(0.0)))
        totals = [cgutils.alloca_once_value(builder, double.same(0.0)) for _ in range(2 * lanes)]
        with cgutils.for_range(builder, steps) as loop:
            at = builder.mul(loop.index, ir.Constant(WHOLE, 2 * BYTES))
            for half in range(2):
                place = write.at(at, BYTES * half)
                values = write.doubled(write.load(builder.add(row, place)))
                if len(away):
                    others = write.doubled(write.load(builder.add(origin, place)))
                    pairs = zip(values, others, strict=True)
                    values = [builder.fsub(one, other) for one, other in pairs]
                for part, one in enumerate(values):
                    total = totals[lanes * half + part]
                    builder.store(double.add_product(builder.load(total), one, one), total)
        for place, total in enumerate(totals):
            double.store(builder.load(total), write.at(sums, BYTES * place))
        return context.get_dummy_value()

    return types.void(row, steps, sums, origin, like, away), code


@njit(cache=True, nogil=True)
@no_type_check
def squares(rows, first, last, bytes, origin, like, away, out):
    """Write the sums of squares of rows ``first`` to ``last``, each so many bytes long.

    ``away`` is ``(True,)`` where the row at ``origin`` is taken from them first, ``()`` if not.
    """
    sums = np.zeros((4, 8), np.float64)
    for row in range(first, last):
        steps, to = bytes // (2 * BYTES), np.int64(sums.ctypes.data)
        _squared(rows[row], steps, to, origin, like, away)
        out[row] = sums.sum()
