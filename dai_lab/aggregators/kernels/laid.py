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


def lay(
    base: Rows, beside: Sequence[Vector] = (), rows: Tensor | None = None
) -> Iterator[tuple[Laid, int]]:
    """Yield the columns that fill whole vectors, where they are, then the rest, padded with 0.

    With each comes the column it begins at. Nothing is copied but the rest, unless a row's
    numbers are not next to each other, or on another device, or of a type without code.
    """
    kind = kind_of(base)
    near = [base, *(one.unsqueeze(0) for one in beside)]
    near = [one.detach().to("cpu", kind) for one in near]
    near = [one if one.stride(1) == 1 or one.shape[1] == 1 else one.contiguous() for one in near]
    whole = base.shape[1] // GRAIN * GRAIN
    like = near[0].new_empty(0).numpy()
    size = like.itemsize
    starts = np.concatenate(
        [one.data_ptr() + np.arange(len(one)) * (one.stride(0) * size) for one in near]
    )
    if rows is not None:
        starts = starts[rows.cpu().numpy()]
    threads = torch.get_num_threads() if len(starts) * whole >= WORTH else 1
    if whole:
        yield Laid(starts, whole, like, threads, near), 0
    if base.shape[1] > whole:
        odd = torch.cat([one[:, whole:] for one in near])
        rest = torch.zeros((len(starts), GRAIN), dtype=kind)
        rest[:, : base.shape[1] - whole] = odd if rows is None else odd[rows.cpu()]
        starts = rest.data_ptr() + np.arange(len(rest)) * (GRAIN * size)
        yield Laid(starts, GRAIN, like, 1, rest), whole


def kind_of(base: Rows) -> torch.dtype:
    """Return the type rows are computed in: their own where there is code for it."""
    return base.dtype if base.dtype in (torch.float32, torch.float64) else torch.float32


def padded(length: int) -> int:
    """Return the length of a row in whole grains."""
    return -(-length // GRAIN) * GRAIN


def threaded(part: Callable[[int, int], None], count: int, grain: int, threads: int) -> None:
    """Run ``part(first, last)`` on several threads, which share ``count`` in whole grains."""
    grains = -(-count // grain)
    threads = min(threads, grains)
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
