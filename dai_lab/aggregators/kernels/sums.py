"""Rows added up, and what else takes one look at each number; sums are float64."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from dai_lab.aggregators.kernels.laid import BLOCK
from dai_lab.aggregators.kernels.vectors import BYTES, WHOLE, Writer

AHEAD = 512
"""Bytes between what is added and what is fetched for later."""

ALL = 24
"""Rows up to which all are added at once; of more, the processor no longer fetches each ahead."""

SOME = 8
"""Rows that are added at once where they are more."""

BLOCKS = 64
"""Blocks after which the next rows are added."""

PIECE = 2**14
"""Bytes of a row of which squares are added up before the next row's."""


@intrinsic
@no_type_check
def _block(typingctx, rows, weights, count, at, sums, out, signs, like, first, last, voting):
    """Add up a block of columns, ``at`` bytes into some rows, each row times its weight.

    Sums are float64 and stay in registers; they begin with those at ``sums``, unless these are the
    ``first`` rows, and go back there, unless these are the ``last``. Where ``voting`` is
    ``(True,)``, signs are added up too, of all rows at once.
    """
    dtype = like.dtype

    def code(context, builder, sig, args):
        rows, weights, count, at, sums, out, signs = args[:7]
        write, double = Writer(builder, dtype), Writer(builder, types.float64)
        places = range(0, BLOCK, BYTES)
        parts = len(write.doubled(write.same(0.0)))
        zero = write.same(0.0)

        def begun(place):
            return double.same(0.0) if len(first) else double.load(write.at(sums, place))

        totals = [
            [
                cgutils.alloca_once_value(builder, begun(parts * place + BYTES * part))
                for part in range(parts)
            ]
            for place in places
        ]
        votes = [cgutils.alloca_once_value(builder, zero) for _ in places if len(voting)]
        with cgutils.for_range(builder, count) as loop:
            offset = builder.mul(loop.index, ir.Constant(WHOLE, 8))
            where = builder.inttoptr(builder.add(rows, offset), WHOLE.as_pointer())
            row = builder.add(builder.load(where), at)
            where = builder.inttoptr(builder.add(weights, offset), double.lane.as_pointer())
            weight = double.spread(builder.load(where))
            for place, into in zip(places, totals, strict=True):
                write.prefetch(write.at(row, AHEAD + place))
                for total, part in zip(into, write.load_doubled(write.at(row, place)), strict=True):
                    more = double.add_product(builder.load(total), part, weight)
                    builder.store(more, total)
            for place, vote in zip(places, votes, strict=bool(votes)):
                value = write.load(write.at(row, place))
                for how, one in ((">", 1.0), ("<", -1.0)):
                    old = builder.load(vote)
                    more = builder.fadd(old, write.same(one))
                    there = builder.fcmp_ordered(how, value, zero)
                    builder.store(builder.select(there, more, old), vote)
        for place, into in zip(places, totals, strict=True):
            found = [builder.load(total) for total in into]
            if len(last):
                write.store(write.joined(found), write.at(builder.add(out, at), place))
            else:
                for part, one in enumerate(found):
                    double.store(one, write.at(sums, parts * place + BYTES * part))
        for place, vote in zip(places, votes, strict=bool(votes)):
            write.store(builder.load(vote), write.at(builder.add(signs, at), place))
        return context.get_dummy_value()

    kinds = (rows, weights, count, at, sums, out, signs, like, first, last, voting)
    return types.void(*kinds), code


@njit(cache=True, nogil=True)
@no_type_check
def combine(rows, weights, start, stop, out, signs, like, voting):
    """Add up columns from byte ``start`` to ``stop`` of rows at these addresses, times weights.

    The last block begins before others end, if need be. ``out`` is the address of the result, in
    the type of ``like``, and ``signs`` that of the sums of signs where ``voting`` is ``(True,)``.
    """
    a, b, n = np.int64(rows.ctypes.data), np.int64(weights.ctypes.data), len(rows)
    if n <= ALL or len(voting):
        for begin in range(start, stop, BLOCK):
            _block(a, b, n, min(begin, stop - BLOCK), a, out, signs, like, (1,), (1,), voting)
        return
    room = np.empty(8 * BLOCKS * BLOCK // like.itemsize, np.uint8)
    sums, step = np.int64(room.ctypes.data), 8 * BLOCK // like.itemsize
    end = (n - 1) // SOME * SOME
    for chunk in range(start, stop, BLOCKS * BLOCK):
        until = min(chunk + BLOCKS * BLOCK, stop)
        for row in range(0, end + 1, SOME):
            c, d, to = a + 8 * row, b + 8 * row, sums
            for begin in range(chunk, until, BLOCK):
                at = min(begin, stop - BLOCK)
                if row == 0:
                    _block(c, d, SOME, at, to, out, signs, like, (1,), (), voting)
                elif row < end:
                    _block(c, d, SOME, at, to, out, signs, like, (), (), voting)
                else:
                    _block(c, d, n - end, at, to, out, signs, like, (), (1,), voting)
                to += step


@njit(cache=True, nogil=True)
@no_type_check
def mixed(rows, weights, cuts, start, stop, out, stride, like):
    """Write mixtures of the rows, and by the weights, from each cut to the next.

    Of each, columns from byte ``start`` to ``stop`` go to ``out``, ``stride`` bytes apart.
    """
    for one in range(len(cuts) - 1):
        a, b, to = cuts[one], cuts[one + 1], out + one * stride - start
        combine(rows[a:b], weights[a:b], start, stop, to, to, like, ())


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
    """Add the sums of squares of rows ``first`` to ``last``, each so many bytes long, to ``out``.

    ``away`` is ``(True,)`` where the row at ``origin`` is taken from them first, ``()`` if not;
    what is taken stays at hand from row to row.
    """
    sums = np.zeros((4, 8), np.float64)
    to = np.int64(sums.ctypes.data)
    for begin in range(0, bytes, PIECE):
        steps = min(PIECE, bytes - begin) // (2 * BYTES)
        for row in range(first, last):
            _squared(rows[row] + begin, steps, to, origin + begin, like, away)
            out[row] += sums.sum()
