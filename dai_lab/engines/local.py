"""Everything in this process: clients batched together on one device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from dai_lab.core import Compute, LocalTraining, Task, Training


@contextmanager
def local(local: LocalTraining, task: Task, *, compute: Compute) -> Iterator[Training]:
    """Train the whole cohort here.

    Args:
        local: What clients do.
        task: What they learn, and who holds which examples.
        compute: Where and how gradients are computed.
    """
    yield partial(local, task, compute=compute)
