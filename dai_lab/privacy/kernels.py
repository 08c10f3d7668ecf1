"""Compiled loops over rotations.

Compiled functions carry ``no_type_check``: a checker wrapped around them is not theirs to compile.
"""

from __future__ import annotations

from typing import no_type_check

from numba import njit

BLOCK = 2**12
"""Numbers that stay in cache while all short strides pass over them."""


@njit(cache=True, nogil=True)
@no_type_check
def hadamard(values):
    """Multiply by the Walsh-Hadamard matrix in place; their number is a power of two.

    Sums are taken in one order whatever the processor, so every client sees the same bits.
    """
    size = len(values)
    stride = size // 2
    while stride >= BLOCK:
        for first in range(0, size, 2 * stride):
            crossed(values[first : first + 2 * stride], stride)
        stride //= 2
    block = min(size, BLOCK)
    for first in range(0, size, block):
        here = values[first : first + block]
        stride = block // 2
        while stride >= 1:
            for start in range(0, block, 2 * stride):
                crossed(here[start : start + 2 * stride], stride)
            stride //= 2


@njit(cache=True, nogil=True, inline="always")
@no_type_check
def crossed(values, stride):
    """Replace the two halves by their sum and their difference."""
    for at in range(stride):
        one, other = values[at], values[at + stride]
        values[at] = one + other
        values[at + stride] = one - other
