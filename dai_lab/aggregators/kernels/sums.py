"""Rows added up, and what else takes one look at each number; sums are float64."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from dai_lab.aggregators.kernels.vectors import BYTES, WHOLE, Writer

TOGETHER = 8
"""Rows added in one go, so that a sum is read and written once for all of them."""


@intrinsic
@no_type_check
def _add(typingctx, rows, weights, place, skip, steps, sums, out, like, height, first, last):
    """Add to float64 sums some rows from ``place``, each times its weight.

    The lengths of tuples say how many rows, whether they are the first, so that there are no sums
    yet, and whether the last, so that sums go to ``out`` in its own type.
    """
    dtype, high = like.dtype, len(height)

    def code(context, builder, sig, args):
        rows, weights, place, skip, steps, sums, out = args[:7]
        write, double = Writer(builder, dtype), Writer(builder, types.float64)

        def entry(array, at, kind):
            at = builder.mul(builder.add(place, ir.Constant(WHOLE, at)), ir.Constant(WHOLE, 8))
            return builder.load(builder.inttoptr(builder.add(array, at), kind.as_pointer()))

        starts = [builder.add(entry(rows, at, WHOLE), skip) for at in range(high)]
        factors = [double.spread(entry(weights, at, double.lane)) for at in range(high)]
        with cgutils.for_range(builder, steps) as loop:
            offset = builder.mul(loop.index, ir.Constant(WHOLE, BYTES))
            parts = [write.doubled(write.load(builder.add(one, offset))) for one in starts]
            count = len(parts[0])
            to = builder.add(sums, builder.mul(loop.index, ir.Constant(WHOLE, BYTES * count)))
            totals = []
            for half in range(count):
                total = double.same(0.0)
                if not len(first):
                    total = double.load(write.at(to, BYTES * half))
                for part, factor in zip(parts, factors, strict=True):
                    total = double.add_product(total, part[half], factor)
                if not len(last):
                    double.store(total, write.at(to, BYTES * half))
                totals.append(total)
            if len(last):
                write.store(write.joined(totals), builder.add(out, offset))
        return context.get_dummy_value()

    kinds = (rows, weights, place, skip, steps, sums, out, like, height, first, last)
    return types.void(*kinds), code


@njit(cache=True, nogil=True)
@no_type_check
def _add_last(a, b, row, high, skip, steps, to, into, like, start):
    """Add the last, at most eight, rows."""
    if high == 1:
        _add(a, b, row, skip, steps, to, into, like, (1,), start, (1,))
    elif high == 2:
        _add(
            a,
            b,
            row,
            skip,
            steps,
            to,
            into,
            like,
            (
                1,
                1,
            ),
            start,
            (1,),
        )
    elif high == 3:
        _add(
            a,
            b,
            row,
            skip,
            steps,
            to,
            into,
            like,
            (
                1,
                1,
                1,
            ),
            start,
            (1,),
        )
    elif high == 4:
        _add(
            a,
            b,
            row,
            skip,
            steps,
            to,
            into,
            like,
            (
                1,
                1,
                1,
                1,
            ),
            start,
            (1,),
        )
    elif high == 5:
        _add(
            a,
            b,
            row,
            skip,
            steps,
            to,
            into,
            like,
            (
                1,
                1,
                1,
                1,
                1,
            ),
            start,
            (1,),
        )
    elif high == 6:
        _add(
            a,
            b,
            row,
            skip,
            steps,
            to,
            into,
            like,
            (
                1,
                1,
                1,
                1,
                1,
                1,
            ),
            start,
            (1,),
        )
    elif high == 7:
        _add(
            a,
            b,
            row,
            skip,
            steps,
            to,
            into,
            like,
            (
                1,
                1,
                1,
                1,
                1,
                1,
                1,
            ),
            start,
            (1,),
        )
    else:
        _add(a, b, row, skip, steps, to, into, like, (1, 1, 1, 1, 1, 1, 1, 1), start, (1,))


@njit(cache=True, nogil=True)
@no_type_check
def combine(rows, weights, first, last, chunk, like, out):
    """Add up columns ``first`` to ``last`` of rows at these addresses, times their weights.

    Columns are whole vectors, ``chunk`` of them at a time; ``out`` is the address of the result, in
    the type of ``like``.
    """
    sums = np.empty(chunk, np.float64)
    a, b, to = np.int64(rows.ctypes.data), np.int64(weights.ctypes.data), np.int64(sums.ctypes.data)
    end = (len(rows) - 1) // TOGETHER * TOGETHER
    high = len(rows) - end
    for begin in range(first, last, chunk):
        skip = begin * like.itemsize
        steps = min(chunk, last - begin) * like.itemsize // BYTES
        into = out + skip
        if end == 0:
            _add_last(a, b, 0, high, skip, steps, to, into, like, (1,))
            continue
        _add(a, b, 0, skip, steps, to, into, like, (1, 1, 1, 1, 1, 1, 1, 1), (1,), ())
        for row in range(TOGETHER, end, TOGETHER):
            _add(a, b, row, skip, steps, to, into, like, (1, 1, 1, 1, 1, 1, 1, 1), (), ())
        _add_last(a, b, end, high, skip, steps, to, into, like, ())


@intrinsic
@no_type_check
def _counted(typingctx, rows, place, skip, steps, signs, sums, like, height):
    """Add the signs of some rows to sums in their own type, and their values to float64 sums."""
    high = len(height)

    def code(context, builder, sig, args):
        rows, place, skip, steps, signs, sums = args[:6]
        write, double = Writer(builder, like.dtype), Writer(builder, types.float64)
        starts = []
        for at in range(high):
            at = builder.mul(builder.add(place, ir.Constant(WHOLE, at)), ir.Constant(WHOLE, 8))
            where = builder.inttoptr(builder.add(rows, at), WHOLE.as_pointer())
            starts.append(builder.add(builder.load(where), skip))
        zero = write.same(0.0)
        with cgutils.for_range(builder, steps) as loop:
            offset = builder.mul(loop.index, ir.Constant(WHOLE, BYTES))
            values = [write.load(builder.add(one, offset)) for one in starts]
            count = builder.add(signs, offset)
            total = write.load(count)
            for value in values:
                for how, one in ((">", 1.0), ("<", -1.0)):
                    there = builder.fcmp_ordered(how, value, zero)
                    more = builder.fadd(total, write.same(one))
                    total = builder.select(there, more, total)
            write.store(total, count)
            parts = [write.doubled(value) for value in values]
            for half in range(len(parts[0])):
                at = builder.mul(loop.index, ir.Constant(WHOLE, BYTES * len(parts[0])))
                to = builder.add(sums, write.at(at, BYTES * half))
                total = double.load(to)
                for part in parts:
                    total = builder.fadd(total, part[half])
                double.store(total, to)
        return context.get_dummy_value()

    return types.void(rows, place, skip, steps, signs, sums, like, height), code


@njit(cache=True, nogil=True)
@no_type_check
def votes(rows, first, last, chunk, like, signs, sums):
    """Sum the signs and the values of columns ``first`` to ``last`` of rows at these addresses."""
    n = len(rows)
    counts, totals = np.empty(chunk, like.dtype), np.empty(chunk, np.float64)
    at = np.int64(rows.ctypes.data)
    to, too = np.int64(counts.ctypes.data), np.int64(totals.ctypes.data)
    for begin in range(first, last, chunk):
        count, skip = min(chunk, last - begin), begin * like.itemsize
        steps = count * like.itemsize // BYTES
        counts[:count] = 0
        totals[:count] = 0
        for row in range(0, n - n % 4, 4):
            _counted(at, row, skip, steps, to, too, like, (1, 1, 1, 1))
        for row in range(n - n % 4, n):
            _counted(at, row, skip, steps, to, too, like, (1,))
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
