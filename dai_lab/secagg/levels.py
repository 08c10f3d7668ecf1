"""Rows as whole numbers: rounded at random, summed without overflow, packed without waste."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dai_lab.secagg.masks import stream
from dai_lab.secagg.terms import Vector


def quantize(row: NDArray[Any], *, clip: float, bits: int, key: bytes) -> NDArray[np.uint32]:
    """Round a row to levels, stochastically and without bias.

    Args:
        row: Numbers, ``[params]``; those beyond ``clip`` are clipped.
        clip: Largest absolute value, above 0: level 0 is ``-clip``, the highest ``clip``.
        bits: There are ``2 ** bits`` levels, 1 to 32.
        key: 16 bytes that the rounding is drawn from, used for nothing else.

    Returns:
        Levels, ``[params]``, below ``2 ** bits``.

    Raises:
        ValueError: A knob out of range, or numbers that are none.
    """
    if not (clip > 0 and math.isfinite(clip)):
        raise ValueError(f"secagg.clip must be above 0, got {clip}")
    if not 1 <= bits <= 32:
        raise ValueError(f"secagg.bits must be 1 to 32, got {bits}")
    if not np.isfinite(row).all():
        raise ValueError("secagg: a row that is not finite cannot be quantized")
    found = stream(key, len(row))
    from dai_lab.secagg import kernels

    kernels.rounded(np.ascontiguousarray(row), float(clip), float(2**bits - 1), found)
    return found


def restored(total: Vector, *, count: int, clip: float, bits: int) -> NDArray[np.float64]:
    """Return the mean behind a sum of levels.

    Args:
        total: The sum, ``[params]``.
        count: How many rows are in it, each as often as it counts; above 0.
        clip: See :func:`quantize`.
        bits: See :func:`quantize`.
    """
    scale = 2 * clip / (2**bits - 1) / count
    found: NDArray[np.float64] = total.astype(np.float64) * scale - clip
    return found


def modulus(bits: int, count: int) -> int:
    """Return how many bits a sum of ``count`` levels of ``bits`` bits needs.

    Raises:
        ValueError: More than 64.
    """
    found = max(1, int(count * (2**bits - 1)).bit_length())
    if found > 64:
        raise ValueError(
            f"secagg: a sum of {count} times {bits} bits needs {found} bits, and there are 64: "
            "lower secagg.bits or secagg.heaviest"
        )
    return found


def pack(values: Vector, width: int) -> bytes:
    """Write values of ``width`` bits one after another, lowest bits first.

    Args:
        values: Whole numbers below ``2 ** width``.
        width: 1 to 64.
    """
    if width in (32, 64):
        return values.astype(f"<u{width // 8}", copy=False).tobytes()
    words = np.zeros(-(-len(values) * width // 64) + 1, np.uint64)
    from dai_lab.secagg import kernels

    kernels.packed(values, width, words)
    return words.astype("<u8", copy=False).tobytes()[: -(-len(values) * width // 8)]


def unpack(data: bytes | memoryview, count: int, width: int) -> Vector:
    """Read ``count`` values of ``width`` bits.

    Returns:
        Words of 32 bits where those hold a value, else of 64; for these widths ``data`` itself,
        which is not to be written to.

    Raises:
        ValueError: Another number of bytes, or bits that are nobody's.
    """
    size = -(-count * width // 8)
    if len(data) != size:
        raise ValueError(
            f"levels: {count} values of {width} bits are {size} bytes, not {len(data)}"
        )
    if width in (32, 64):
        if width == 32:
            return np.frombuffer(data, "<u4").astype(np.uint32, copy=False)
        return np.frombuffer(data, "<u8").astype(np.uint64, copy=False)
    if data and data[-1] >> (8 - (8 * size - count * width)):
        raise ValueError("levels: bits after the last value are set")
    padded = bytes(data) + bytes(-len(data) % 8 + 8)
    words = np.frombuffer(padded, "<u8").astype(np.uint64)
    found: Vector = np.empty(count, np.uint32) if width <= 32 else np.empty(count, np.uint64)
    from dai_lab.secagg import kernels

    kernels.unpacked(words, width, found)
    return found
