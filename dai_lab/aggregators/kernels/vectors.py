"""Code on vectors of 64 bytes, sixteen float32 or eight float64, spelled out for the compiler."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

BYTES = 64
"""Bytes of one vector."""

WHOLE = ir.IntType(64)


class Writer:
    """Writes code on vectors of one type of number."""

    def __init__(self, builder: Any, dtype: Any) -> None:
        self.builder = builder
        single = dtype == types.float32
        self.lane = ir.FloatType() if single else ir.DoubleType()
        self.align = 4 if single else 8
        self.lanes = BYTES // self.align
        self.vector = ir.VectorType(self.lane, self.lanes)
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.lanes}f{8 * self.align}"
        self._multiply_add = cgutils.get_or_insert_function(builder.module, kind, name)
        self.byte = ir.IntType(8).as_pointer()
        how = [ir.IntType(32)] * 3
        kind = ir.FunctionType(ir.VoidType(), [self.byte, *how])
        self._prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")

    def at(self, base: Any, offset: int) -> Any:
        """Return an address so many bytes further."""
        return self.builder.add(base, ir.Constant(WHOLE, offset))

    def same(self, value: float) -> Any:
        """Return a vector of one constant."""
        return ir.Constant(self.vector, [ir.Constant(self.lane, value)] * self.lanes)

    def spread(self, value: Any) -> Any:
        """Fill a vector with one number."""
        word = ir.IntType(32)
        first = ir.Constant(ir.VectorType(word, self.lanes), [ir.Constant(word, 0)] * self.lanes)
        nothing = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(nothing, value, ir.Constant(word, 0))
        return self.builder.shuffle_vector(one, nothing, first)

    def load(self, address: Any) -> Any:
        """Read a vector, which need not lie on a boundary."""
        value = self.builder.load(self.builder.inttoptr(address, self.vector.as_pointer()))
        value.align = self.align
        return value

    def load_doubled(self, address: Any) -> list[Any]:
        """Read a vector as float64 vectors."""
        if self.align == 8:
            return [self.load(address)]
        half, wide = self.lanes // 2, ir.VectorType(ir.DoubleType(), self.lanes // 2)
        parts = []
        for place in (0, BYTES // 2):
            pointer = ir.VectorType(self.lane, half).as_pointer()
            part = self.builder.load(self.builder.inttoptr(self.at(address, place), pointer))
            part.align = self.align
            parts.append(self.builder.fpext(part, wide))
        return parts

    def store(self, value: Any, address: Any) -> None:
        """Write a vector."""
        place = self.builder.inttoptr(address, self.vector.as_pointer())
        self.builder.store(value, place).align = self.align

    def prefetch(self, address: Any) -> None:
        """Ask for the data at an address to be read, and kept close."""
        how = [ir.Constant(ir.IntType(32), one) for one in (0, 3, 1)]
        self.builder.call(self._prefetch, [self.builder.inttoptr(address, self.byte), *how])

    def smaller(self, a: Any, b: Any) -> Any:
        """Return the minimum, lane by lane."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def larger(self, a: Any, b: Any) -> Any:
        """Return the maximum, lane by lane."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def add_product(self, total: Any, a: Any, b: Any) -> Any:
        """Return ``total + a * b``, rounded once."""
        return self.builder.call(self._multiply_add, [a, b, total])

    def mean(self, values: list[Any]) -> Any:
        """Average pairs of pairs, so that rounding grows with the logarithm of their number."""
        count = len(values)
        if count == 2:  # halved first: the sum of two finite numbers may not be finite
            values = [self.builder.fmul(one, self.same(0.5)) for one in values]
        while len(values) > 1:
            paired = zip(values[::2], values[1::2], strict=False)
            pairs = [self.builder.fadd(a, b) for a, b in paired]
            values = pairs + values[len(values) // 2 * 2 :]
        return values[0] if count <= 2 else self.builder.fdiv(values[0], self.same(float(count)))

    def joined(self, parts: list[Any]) -> Any:
        """Return the vector that float64 vectors round to."""
        if self.align == 8:
            return parts[0]
        word, half = ir.IntType(32), ir.VectorType(self.lane, self.lanes // 2)
        low, high = (self.builder.fptrunc(one, half) for one in parts)
        places = [ir.Constant(word, at) for at in range(self.lanes)]
        mask = ir.Constant(ir.VectorType(word, self.lanes), places)
        return self.builder.shuffle_vector(low, high, mask)

    def doubled(self, value: Any) -> list[Any]:
        """Return the float64 vectors that a vector makes."""
        if self.align == 8:
            return [value]
        word, half = ir.IntType(32), self.lanes // 2
        kind, nothing = ir.VectorType(word, half), ir.Constant(self.vector, ir.Undefined)
        parts = [range(half), range(half, self.lanes)]
        masks = [ir.Constant(kind, [ir.Constant(word, at) for at in part]) for part in parts]
        halves = [self.builder.shuffle_vector(value, nothing, mask) for mask in masks]
        return [self.builder.fpext(one, ir.VectorType(ir.DoubleType(), half)) for one in halves]
