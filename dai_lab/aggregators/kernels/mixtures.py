"""Rows that are mixtures of others, multiplied out a few columns at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from dai_lab.aggregators.kernels.laid import GRAIN, along, kind_of
from dai_lab.core import Rows

MIXED = 2**18
"""Numbers to multiply out at a time."""

SPARSE = 4
"""A mix this many times as large as its numbers other than 0 are many is added up row by row."""


def sparse(mix: Float64[Tensor, "_ _"]) -> bool:
    """Tell whether mixtures hold so few rows that :func:`mixed` adds those up, on one thread."""
    return not mix.is_cuda and int(mix.ne(0).sum()) * SPARSE <= mix.numel()


def mixed(base: Rows, mix: Float64[Tensor, "_ _"]) -> Iterator[Rows]:
    """Yield the columns of ``mix @ base``, as many at a time as stay close to the processor.

    What is yielded may be overwritten by what comes next.

    Args:
        base: ``[n, d]``.
        mix: ``[m, n]``; of rows that no mixture holds nothing is read.
    """
    width = max(MIXED // len(mix) // GRAIN, 1) * GRAIN
    if sparse(mix):
        yield from _added(base, mix, width)
        return
    held = mix.ne(0).any(0)
    weights = mix[:, held].to(base)
    for block in torch.split(base, width, dim=1):
        yield weights @ (block if bool(held.all()) else block[held])


def _added(base: Rows, mix: Float64[Tensor, "_ _"], width: int) -> Iterator[Rows]:
    from dai_lab.aggregators.kernels import sums

    which = mix.nonzero()
    laid = along(base, rows=which[:, 1])
    weights = mix[which[:, 0], which[:, 1]].numpy()
    cuts = np.append(0, mix.ne(0).sum(1).cumsum(0).numpy())
    starts = range(0, max(laid.length - width, 0) + 1, width)
    size, ends = laid.like.itemsize, [*starts[1:], laid.length]
    out = torch.empty(len(mix), max(map(int.__sub__, ends, starts)), dtype=kind_of(base))
    to, apart = out.data_ptr(), out.stride(0) * size
    for start, end in zip(starts, ends, strict=True):
        sums.mixed(laid.rows, weights, cuts, start * size, end * size, to, apart, laid.like)
        yield out[:, : min(end, base.shape[1]) - start]
