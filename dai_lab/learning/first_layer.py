"""A first convolution over one channel with pooling and ReLU, forward and back in one pass each.

Only a quarter of what such a convolution computes survives pooling, and three of four slopes that
come back are zero; torch writes them all down and reads them again. Here sixteen filters sit in one
vector, and each window of four places goes through all taps at once: forward it keeps the largest,
back every tap adds four products to the sixteen sums it owns. Spelled out as vectors, because
compilers do not find them: the same loops left to numba take nine times as long.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor
from torch.nn import functional

LANES = 16
"""Filters side by side."""

KERNELS = (3, 5)
"""Sides of the square kernels there is code for."""


LANE, BYTE, WORD, WHOLE = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
FLOATS, PLACES = ir.VectorType(LANE, LANES), ir.VectorType(BYTE, LANES)


class _Writer:
    """Writes vector code: loads, stores and multiply-adds of sixteen lanes at an address."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
        name = f"llvm.fmuladd.v{LANES}f32"
        self._multiply_add = cgutils.get_or_insert_function(builder.module, kind, name)

    def pointer(self, base: Any, offset: Any, kind: Any) -> Any:
        offset = offset if isinstance(offset, ir.Value) else ir.Constant(WHOLE, offset)
        return self.builder.inttoptr(self.builder.add(base, offset), kind.as_pointer())

    def load(self, base: Any, offset: Any, kind: Any = FLOATS) -> Any:
        value = self.builder.load(self.pointer(base, offset, kind))
        value.align = 1 if kind is PLACES else 4
        return value

    def store(self, value: Any, base: Any, offset: int, kind: Any = FLOATS) -> None:
        self.builder.store(value, self.pointer(base, offset, kind)).align = 1

    def spread(self, base: Any, offset: Any) -> Any:
        """Load one number into all lanes."""
        nothing = ir.Constant(FLOATS, ir.Undefined)
        pixel = self.load(base, offset, LANE)
        one = self.builder.insert_element(nothing, pixel, ir.Constant(WORD, 0))
        first = ir.Constant(ir.VectorType(WORD, LANES), [0] * LANES)
        return self.builder.shuffle_vector(one, nothing, first)

    def add_product(self, total: Any, one: Any, other: Any) -> Any:
        return self.builder.call(self._multiply_add, [one, other, total])

    def rows(self, stride: Any, count: int) -> list[Any]:
        """Say how many bytes the first rows of an image begin after each other."""
        return [self.builder.mul(stride, ir.Constant(WHOLE, 4 * row)) for row in range(count)]

    def pixels(self, x: Any, rows: list[Any], tap: int, side: int) -> list[Any]:
        """Load what a tap sees from the four places of a window."""
        i, j = divmod(tap, side)
        corners = [divmod(corner, 2) for corner in range(4)]
        reach = [
            self.builder.add(rows[i + down], ir.Constant(WHOLE, 4 * (j + right)))
            for down, right in corners
        ]
        return [self.spread(x, offset) for offset in reach]


def _same(kind: Any, value: Any) -> Any:
    return ir.Constant(kind, [value] * LANES)


def _window(side: int) -> Any:
    """Make the code that adds one pooling window's products to the sums of all taps."""

    @intrinsic
    @no_type_check
    def window(typingctx, x, stride, slope, where, sums, totals):
        def code(context, builder, sig, args):
            x, stride, slope, where, sums, totals = args
            write = _Writer(builder)
            risen, place = write.load(slope, 0), write.load(where, 0, PLACES)
            total, parts = write.load(totals, 0), []
            for corner in range(4):
                here = builder.icmp_unsigned("==", place, _same(PLACES, corner))
                parts.append(builder.select(here, risen, _same(FLOATS, 0.0)))
                total = builder.fadd(total, parts[-1])
            write.store(total, totals, 0)
            rows = write.rows(stride, side + 1)
            for tap in range(side * side):
                own = 4 * LANES * tap
                sum_ = write.load(sums, own)
                for pixel, part in zip(write.pixels(x, rows, tap, side), parts, strict=True):
                    sum_ = write.add_product(sum_, pixel, part)
                write.store(sum_, sums, own)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), code

    return window


def _pooled(side: int) -> Any:
    """Make the code that convolves, pools and rectifies one window."""

    @intrinsic
    @no_type_check
    def pooled(typingctx, x, stride, weights, bias, out, where):
        def code(context, builder, sig, args):
            x, stride, weights, bias, out, where = args
            write = _Writer(builder)
            rows = write.rows(stride, side + 1)
            found = [write.load(bias, 0)] * 4
            for tap in range(side * side):
                weight = write.load(weights, 4 * LANES * tap)
                seen = write.pixels(x, rows, tap, side)
                found = [write.add_product(f, s, weight) for f, s in zip(found, seen, strict=True)]
            best, place = found[0], _same(PLACES, 0)
            for corner in range(1, 4):
                more = builder.fcmp_ordered(">", found[corner], best)
                # NaN compares false with everything, so it must be asked for.
                lost = builder.fcmp_unordered("uno", found[corner], found[corner])
                take = builder.or_(more, lost)
                best = builder.select(take, found[corner], best)
                place = builder.select(take, _same(PLACES, corner), place)
            zero = _same(FLOATS, 0.0)
            below = builder.fcmp_ordered("<", best, zero)
            off = builder.fcmp_ordered("<=", best, zero)
            write.store(builder.select(below, zero, best), out, 0)
            write.store(builder.select(off, _same(PLACES, 4), place), where, 0, PLACES)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), code

    return pooled


_window3, _window5 = _window(3), _window(5)
_pooled3, _pooled5 = _pooled(3), _pooled(5)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _outputs(x, weights, bias, out, where):
    images, height, width, channels = out.shape
    stride, size = x.shape[2], weights.shape[1]
    for image in range(images):
        for row in range(height):
            for col in range(width):
                pixel = x[image, 2 * row, 2 * col :].ctypes.data
                for block in range(channels // LANES):
                    first = block * LANES
                    o = out[image, row, col, first:].ctypes.data
                    p = where[image, row, col, first:].ctypes.data
                    w, b = weights[block].ctypes.data, bias[first:].ctypes.data
                    if size == 9:
                        _pooled3(pixel, stride, w, b, o, p)
                    else:
                        _pooled5(pixel, stride, w, b, o, p)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _sums(x, slope, where, sums, totals):
    images, height, width, channels = slope.shape
    stride = x.shape[2]
    size = sums.shape[1]
    for image in range(images):
        for row in range(height):
            for col in range(width):
                pixel = x[image, 2 * row, 2 * col :].ctypes.data
                for block in range(channels // LANES):
                    first = block * LANES
                    s = slope[image, row, col, first:].ctypes.data
                    p = where[image, row, col, first:].ctypes.data
                    g, t = sums[block].ctypes.data, totals[first:].ctypes.data
                    if size == 9:
                        _window3(pixel, stride, s, p, g, t)
                    else:
                        _window5(pixel, stride, s, p, g, t)


def fits(weight: Tensor, stride: Any, dilation: Any) -> bool:
    """Tell whether there is code for a convolution with these weights ``[out, in, h, w]``."""
    filters, channels, *sides = weight.shape
    plain = tuple(stride) == tuple(dilation) == (1, 1)
    return plain and channels == 1 and not filters % LANES and sides in ([s, s] for s in KERNELS)


def _padded(images: Tensor, padding: tuple[int, ...]) -> Tensor:
    tall, wide = padding
    x = images.reshape(len(images), *images.shape[2:])
    return functional.pad(x, (wide, wide, tall, tall)) if tall or wide else x.contiguous()


def pooled_outputs(
    images: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve, pool two by two and rectify ``[B, 1, h, w]``.

    Returns:
        The result ``[B, out, H // 2, W // 2]``; the convolution's own, of which there is only
        the shape ``[B, out, H, W]``; and the place of each maximum in its window.

    Args:
        images: One channel each.
        weight: As :func:`fits` wants it.
        bias: One number a filter, or none.
        padding: Rows and columns of zeros on each side of an image.
    """
    filters, _, side, _ = weight.shape
    x = _padded(images, padding)
    height, width = x.shape[1] - side + 1, x.shape[2] - side + 1
    shape = (len(x), height // 2, width // 2, filters)
    out, where = torch.empty(shape), torch.empty(shape, dtype=torch.uint8)
    taps = weight.reshape(filters // LANES, LANES, side * side).transpose(1, 2).contiguous()
    shift = torch.zeros(filters) if bias is None else bias.contiguous()
    _outputs(x.numpy(), taps.numpy(), shift.numpy(), out.numpy(), where.numpy())
    before = torch.empty((len(x), filters, height, width), device="meta")
    return out.permute(0, 3, 1, 2), before, where


def slopes_of_weights(
    slope: Tensor, where: Tensor, images: Tensor, side: int, padding: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Return the gradients of weights ``[out, 1, side, side]`` and bias ``[out]``.

    Args:
        slope: After pooling and ReLU ``[B, out, H // 2, W // 2]``, channels last.
        where: Which place of its window each maximum had, from ``halving.halve``.
        images: What the convolution saw ``[B, 1, h, w]``.
        side: Of the square kernel, one of ``KERNELS``.
        padding: Rows and columns of zeros on each side of an image.
    """
    filters = slope.shape[1]
    x = _padded(images, padding)
    sums = torch.zeros((filters // LANES, side * side, LANES))
    totals = torch.zeros(filters)
    risen = slope.permute(0, 2, 3, 1).contiguous()
    _sums(x.numpy(), risen.numpy(), where.numpy(), sums.numpy(), totals.numpy())
    weights = sums.permute(0, 2, 1).reshape(filters, 1, side, side)
    return weights, totals
