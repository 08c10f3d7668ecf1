"""Compiled loops over levels, bits and field elements.

Compiled functions carry ``no_type_check``: a checker wrapped around them is not theirs to compile.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

PRIME = 2**31 - 1
"""The field's size, and a mask: reducing takes a shift and an addition."""


@njit(cache=True, nogil=True)
@no_type_check
def added(total, one, two, three, four):
    """Add four masks, of which the first numbers count."""
    for at in range(len(total)):
        total[at] += (one[at] + two[at]) + (three[at] + four[at])


@njit(cache=True, nogil=True)
@no_type_check
def taken(total, one, two, three, four):
    """Take them away."""
    for at in range(len(total)):
        total[at] -= (one[at] + two[at]) + (three[at] + four[at])


@njit(cache=True, nogil=True)
@no_type_check
def rounded(row, clip, most, found):
    """Turn uniform words into levels."""
    scale, unit = most / (2 * clip), 1 / 2**32
    for at in range(len(row)):
        value = min(max(np.float64(row[at]), -clip), clip)
        level = np.floor((value + clip) * scale + np.float64(found[at]) * unit)
        found[at] = np.uint32(min(level, most))


@njit(cache=True, nogil=True)
@no_type_check
def packed(values, width, words):
    """Write values of ``width`` bits one after another into 64-bit words."""
    for at in range(len(values)):
        value, place = np.uint64(values[at]), at * width
        word, shift = place >> 6, np.uint64(place & 63)
        words[word] |= value << shift
        if shift + np.uint64(width) > np.uint64(64):
            words[word + 1] |= value >> (np.uint64(64) - shift)


@njit(cache=True, nogil=True)
@no_type_check
def unpacked(words, width, found):
    """Read them back."""
    mask = np.uint64((np.uint64(1) << np.uint64(width)) - np.uint64(1))
    for at in range(len(found)):
        place = at * width
        word, shift = place >> 6, np.uint64(place & 63)
        value = words[word] >> shift
        if shift + np.uint64(width) > np.uint64(64):
            value |= words[word + 1] << (np.uint64(64) - shift)
        found[at] = value & mask


@njit(cache=True, nogil=True)
@no_type_check
def reduced(value):
    """Return a number below 2^62 modulo 2^31 - 1."""
    value = (value & np.uint64(PRIME)) + (value >> np.uint64(31))
    return value - np.uint64(PRIME) if value >= np.uint64(PRIME) else value


@njit(cache=True, nogil=True)
@no_type_check
def evaluated(ladder, points):
    """Evaluate polynomials, lowest coefficient first, at each point."""
    found = np.empty((len(points), ladder.shape[1]), np.uint32)
    held = np.empty(ladder.shape[1], np.uint64)
    for at in range(len(points)):
        held[:] = ladder[-1]
        for degree in range(len(ladder) - 2, -1, -1):
            for one in range(len(held)):
                held[one] = reduced(held[one] * points[at] + ladder[degree, one])
        found[at] = held
    return found


@njit(cache=True, nogil=True)
@no_type_check
def weighed(points):
    """Return what a share at each point counts for in the secret."""
    prime = np.uint64(PRIME)
    found = np.empty(len(points), np.uint64)
    for at in range(len(points)):
        above, below = np.uint64(1), np.uint64(1)
        for other in range(len(points)):
            if other != at:
                above = reduced(above * points[other])
                below = reduced(below * reduced(prime + points[other] - points[at]))
        power, inverse, left = below, np.uint64(1), PRIME - 2
        while left:
            if left & 1:
                inverse = reduced(inverse * power)
            power = reduced(power * power)
            left >>= 1
        found[at] = reduced(above * inverse)
    return found


@njit(cache=True, nogil=True)
@no_type_check
def mixed(weights, shares):
    """Add up each owner's shares, each as much as it counts."""
    found = np.zeros((len(shares), shares.shape[2]), np.uint32)
    held = np.empty(shares.shape[2], np.uint64)
    for owner in range(len(shares)):
        held[:] = 0
        for giver in range(len(weights)):
            for one in range(len(held)):
                product = weights[giver] * np.uint64(shares[owner, giver, one])
                held[one] = reduced(held[one] + reduced(product))
        found[owner] = held
    return found


@njit(cache=True, nogil=True)
@no_type_check
def product(matrix, vectors):
    """Multiply a matrix, ``[a, b]``, and vectors, ``[b, width]``, over the field."""
    found = np.empty((len(matrix), vectors.shape[1]), np.uint32)
    held = np.empty(vectors.shape[1], np.uint64)
    for row in range(len(matrix)):
        held[:] = 0
        for column in range(len(vectors)):
            factor = matrix[row, column]
            for one in range(len(held)):
                value = factor * np.uint64(vectors[column, one])
                # Half a reduction leaves room for 2 ** 32 of them in a word.
                held[one] += (value & np.uint64(PRIME)) + (value >> np.uint64(31))
        for one in range(len(held)):
            found[row, one] = held[one] % np.uint64(PRIME)
    return found


@njit(cache=True, nogil=True)
@no_type_check
def inner(vectors):
    """Multiply every two of some vectors, ``[n, width]``: those of the upper triangle, in rows."""
    count, at = len(vectors), 0
    found = np.empty(count * (count + 1) // 2, np.uint32)
    for one in range(count):
        for other in range(one, count):
            held = np.uint64(0)
            for place in range(vectors.shape[1]):
                value = np.uint64(vectors[one, place]) * np.uint64(vectors[other, place])
                held += (value & np.uint64(PRIME)) + (value >> np.uint64(31))
            found[at] = held % np.uint64(PRIME)
            at += 1
    return found


@njit(cache=True, nogil=True)
@no_type_check
def inverse(matrix):
    """Invert a square matrix over the field, which is known to have an inverse."""
    size = len(matrix)
    left, found = matrix.copy(), np.zeros((size, size), np.uint64)
    for at in range(size):
        found[at, at] = 1
    for at in range(size):
        swap = at
        while left[swap, at] == 0:
            swap += 1
        for column in range(size):
            left[at, column], left[swap, column] = left[swap, column], left[at, column]
            found[at, column], found[swap, column] = found[swap, column], found[at, column]
        power, factor, rest = left[at, at], np.uint64(1), PRIME - 2
        while rest:
            if rest & 1:
                factor = reduced(factor * power)
            power = reduced(power * power)
            rest >>= 1
        for column in range(size):
            left[at, column] = reduced(left[at, column] * factor)
            found[at, column] = reduced(found[at, column] * factor)
        for row in range(size):
            factor = left[row, at]
            if row != at and factor:
                less = np.uint64(PRIME) - factor
                for column in range(size):
                    left[row, column] = reduced(left[row, column] + less * left[at, column])
                    found[row, column] = reduced(found[row, column] + less * found[at, column])
    return found
