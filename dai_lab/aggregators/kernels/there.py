"""Passes over rows where they are, on a GPU: torch's own products, in float64, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from dai_lab.core import Rows, Vector

NUMBERS = 2**24
"""Numbers held in float64 at a time."""


def pairs(base: Rows, beside: Sequence[Vector], center: int) -> Float64[Tensor, "n n"]:
    """Take products of all pairs of rows as seen from one of them, whose place is its own."""
    total = torch.zeros((len(base) + len(beside),) * 2, dtype=torch.float64, device=base.device)
    for block in _blocks(base, beside):
        seen = block - block[center]
        seen[center] = block[center]
        total += seen @ seen.T
    return total


def by_column(rows: Rows, low: int, high: int, near: int) -> tuple[Vector, bool]:
    """Rank each column by sorting it, as ``passes.window`` and ``passes.nearest`` do."""
    parts = []
    for block in _blocks(rows, ()):
        ranked = block.sort(dim=0).values
        middle = ranked[low:high].mean(0)
        if near:
            order = (ranked - middle).abs().sort(dim=0, stable=True).indices
            middle = ranked.gather(0, order[:near]).mean(0)
        parts.append(middle)
    return torch.cat(parts).to(rows.dtype), bool(rows.isfinite().all())


def combine(base: Rows, weights: Float64[Tensor, "_"], beside: Sequence[Vector]) -> Vector:
    """Add up rows, each times its weight; those with weight 0 may hold anything."""
    held = weights.nonzero().flatten()
    parts = [weights[held] @ block[held] for block in _blocks(base, beside)]
    return torch.cat(parts).to(base.dtype) if parts else base.new_zeros(base.shape[1])


def votes(base: Rows) -> tuple[Vector, Vector]:
    """Return each column's sum of signs, and its sum."""
    signs = [block.sign().sum(0) for block in _blocks(base, ())]
    totals = [block.sum(0) for block in _blocks(base, ())]
    return torch.cat(signs).to(base.dtype), torch.cat(totals).to(base.dtype)


def squares(base: Rows, origin: Vector | None = None) -> Float64[Tensor, "n"]:
    """Return the square of each row's Euclidean distance from ``origin``."""
    total = torch.zeros(len(base), dtype=torch.float64, device=base.device)
    for block in _blocks(base, () if origin is None else (origin,)):
        seen = block if origin is None else block[:-1] - block[-1]
        total += seen.square().sum(1)
    return total


def _blocks(base: Rows, beside: Sequence[Vector]) -> Iterator[Float64[Tensor, "n _"]]:
    width = max(NUMBERS // max(len(base), 1), 1)
    for begin in range(0, base.shape[1], width):
        parts = [base[:, begin : begin + width]]
        parts += [one[begin : begin + width].to(base).unsqueeze(0) for one in beside]
        yield torch.cat(parts).double()
