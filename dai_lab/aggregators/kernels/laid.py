"""Rows in memory as compiled code wants them, and the threads that go through them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dai_lab.core import Rows, Vector

WORTH = 2**18
"""Numbers to go through below which a second thread costs more than it saves."""

BLOCK = 256
"""Bytes of a row that compiled code takes at once at most; shorter rows are padded."""

GRAIN = 64
"""Columns that compiled code takes at once: whole vectors of either type, some of them."""


@dataclass(frozen=True)
class Laid:
    """Rows as compiled code wants them: where each begins, and how many columns it has."""

    rows: Any
    length: int
    """A multiple of ``GRAIN``."""
    like: Any
    """An empty array of their type."""
    threads: int
    owner: Any
    """Keeps what the addresses point to."""


def along(base: Rows, beside: Sequence[Vector] = (), rows: Tensor | None = None) -> Laid:
    """Show rows to code that may do the same columns twice: it ends where they end.

    Nothing is copied but rows shorter than a block, which are padded with 0.
    """
    near, starts = _addresses(base, beside, rows)
    length, like = base.shape[1], near[0].new_empty(0).numpy()
    if length * like.itemsize >= BLOCK:
        threads = torch.get_num_threads() if len(starts) * length >= WORTH else 1
        return Laid(starts, length, like, threads, near)
    return _padded(near, rows, 0, BLOCK // like.itemsize)


def lay(
    base: Rows, beside: Sequence[Vector] = (), rows: Tensor | None = None
) -> Iterator[tuple[Laid, int]]:
    """Yield the columns that fill whole grains, where they are, then the rest, padded with 0.

    With each comes the column it begins at. Nothing is copied but the rest.
    """
    near, starts = _addresses(base, beside, rows)
    whole = base.shape[1] // GRAIN * GRAIN
    threads = torch.get_num_threads() if len(starts) * whole >= WORTH else 1
    if whole:
        yield Laid(starts, whole, near[0].new_empty(0).numpy(), threads, near), 0
    if base.shape[1] > whole:
        yield _padded(near, rows, whole, GRAIN), whole


def _addresses(
    base: Rows, beside: Sequence[Vector], rows: Tensor | None
) -> tuple[list[Tensor], Any]:
    """Say where rows begin; they are copied only if their numbers are not next to each other.

    So they are on another device, or of a type without code.
    """
    kind = kind_of(base)
    near = [base, *(one.unsqueeze(0) for one in beside)]
    near = [one.detach().to("cpu", kind) for one in near]
    near = [one if one.stride(1) == 1 or one.shape[1] == 1 else one.contiguous() for one in near]
    parts = [
        one.data_ptr() + np.arange(len(one)) * (one.stride(0) * one.element_size()) for one in near
    ]
    starts = np.concatenate(parts) if beside else parts[0]
    return near, starts if rows is None else starts[rows.cpu().numpy()]


def _padded(near: list[Tensor], rows: Tensor | None, first: int, length: int) -> Laid:
    """Copy the columns from ``first`` on and fill them up with 0."""
    odd = torch.cat([one[:, first:] for one in near])
    odd = odd if rows is None else odd[rows.cpu()]
    rest = torch.nn.functional.pad(odd, (0, length - odd.shape[1]))
    starts = rest.data_ptr() + np.arange(len(rest)) * (length * rest.element_size())
    return Laid(starts, length, rest.new_empty(0).numpy(), 1, rest)


def kind_of(base: Rows) -> torch.dtype:
    """Return the type rows are computed in: their own where there is code for it."""
    return base.dtype if base.dtype in (torch.float32, torch.float64) else torch.float32


def threaded(part: Callable[[int, int], None], count: int, grain: int, threads: int) -> None:
    """Run ``part(first, last)`` on several threads, which share ``count`` in whole grains."""
    grains = -(-count // grain)
    threads = min(threads, grains)
    if threads < 2:
        return part(0, count)
    cuts = [min(count, grains * one // threads * grain) for one in range(threads + 1)]
    failed: list[BaseException] = []

    def run(first: int, last: int) -> None:
        try:
            part(first, last)
        except BaseException as problem:
            failed.append(problem)

    rest = list(itertools.pairwise(cuts))[1:]
    others = [threading.Thread(target=run, args=pair) for pair in rest]
    for one in others:
        one.start()
    run(cuts[0], cuts[1])
    for one in others:
        one.join()
    if failed:
        raise failed[0]
