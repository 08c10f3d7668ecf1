"""Sorting networks down sixteen columns at a time, as vector code.

The compiler is handed every exchange spelled out, for one number of rows and one choice of ranks;
those are known to it because they are lengths of tuples, which are part of a tuple's type. What is
compiled is kept on disk for each choice.
"""

from __future__ import annotations

from typing import Any, no_type_check

from numba import njit, types
from numba.extending import intrinsic

from dai_lab.aggregators.kernels.networks import selecting, sorting
from dai_lab.aggregators.kernels.vectors import BYTES, WHOLE, Writer

AHEAD = 8
"""Vectors between what is computed and what is fetched for later."""


def number(value: int) -> tuple[bool, ...]:
    """Spell a number so that the compiler knows it."""
    return (False,) * value


@intrinsic
@no_type_check
def _column(typingctx, rows, at, out, flag, like, n, low, high, keep):
    """Aggregate the vector of columns that begins ``at`` bytes into every row."""
    dtype = like.dtype
    count, first, last, near = (len(one) for one in (n, low, high, keep))

    def code(context, builder, sig, args):
        rows, at, out, flag = args[:4]
        write = Writer(builder, dtype)
        net = sorting(count) if near else selecting(count, first, last)
        addresses = []
        for row in range(count):
            base = builder.load(builder.inttoptr(write.at(rows, 8 * row), WHOLE.as_pointer()))
            addresses.append(builder.add(base, at))
        if count > 8:
            for address in addresses:
                write.prefetch(write.at(address, AHEAD * BYTES))
        values: list[Any] = [None] * count
        state = [write.load(flag)]

        def value(row):
            if values[row] is None:
                values[row] = write.load(addresses[row])
                # NaN from here on if a number is not finite.
                state[0] = write.add_product(state[0], values[row], write.same(0.0))
            return values[row]

        for a, b, smaller, larger in net.exchanges:
            x, y = value(a), value(b)
            if smaller:
                values[a] = write.smaller(x, y)
            if larger:
                values[b] = write.larger(x, y)
        for row in range(count):
            value(row)
        write.store(state[0], flag)
        found = [value(place) for place in net.places]
        if not near:
            result = write.mean(found)
        else:
            center = write.mean(found[first:last])
            slots = found[:near]
            for place in range(count - near):
                after = builder.fsub(found[place + near], center)
                before = builder.fsub(center, found[place])
                closer = builder.fcmp_ordered("<", after, before)
                slot = place % near
                slots[slot] = builder.select(closer, found[place + near], slots[slot])
            result = write.mean(slots)
        write.store(result, builder.add(out, at))
        return context.get_dummy_value()

    return types.void(rows, at, out, flag, like, n, low, high, keep), code


@njit(cache=True, nogil=True)
@no_type_check
def columns(rows, start, stop, out, flag, like, n, low, high, keep):
    """Aggregate the columns from byte ``start`` to ``stop`` of every row, a vector or more.

    The last vector begins before others end, if need be. ``rows`` holds addresses, ``out`` is that
    of the result; ``flag``, one vector, ends up other than 0 if any number was not finite.
    """
    for begin in range(start, stop, BYTES):
        at = min(begin, stop - BYTES)
        _column(rows.ctypes.data, at, out, flag.ctypes.data, like, n, low, high, keep)
