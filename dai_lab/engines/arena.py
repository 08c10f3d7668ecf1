"""Memory that processes share: tensors are written there once and read where they lie.

Nothing has a name in a file system, so nothing is left behind, whoever is killed. Who is handed the
descriptor can map it; ``/dev/shm``, which containers keep small, is not involved.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Places: TypeAlias = Mapping[str, Sequence[Any]]
"""Where each tensor lies, fit for JSON: type, shape, strides, and the first byte."""

ALIGNED = 64
"""Bytes: where torch's own tensors begin, because products may depend on it in the last bit."""


def nameless() -> int:
    """Open memory without a name and return its descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dai_lab")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Arena:
    """A growing piece of shared memory, read and written as a whole.

    Args:
        descriptor: Of the memory; it stays open as long as the arena.
        private: Keep what is written to its tensors from everyone else.
    """

    def __init__(self, descriptor: int, *, private: bool = False) -> None:
        self.descriptor = descriptor
        self._access = mmap.ACCESS_COPY if private else mmap.ACCESS_WRITE
        self._bytes = 0
        self._map: mmap.mmap | None = None

    def write(self, tensors: Mapping[str, Tensor]) -> Places:
        """Put these in place of everything before, and say where they lie.

        Tensors read before now hold something else.
        """
        places, end = {}, 0
        for name, one in tensors.items():
            strides = torch.empty_like(one, device="meta").stride()
            places[name] = (str(one.dtype)[6:], list(one.shape), list(strides), end)
            end += -(-one.nbytes // ALIGNED) * ALIGNED
        if end > os.fstat(self.descriptor).st_size:
            os.ftruncate(self.descriptor, -(-end // mmap.PAGESIZE) * mmap.PAGESIZE)
        for name, one in self.read(places).items():
            one.copy_(tensors[name].detach())
        return places

    def read(self, places: Places) -> dict[str, Tensor]:
        """See what was written, without copying."""
        return {name: self._at(*place) for name, place in places.items()}

    def close(self) -> None:
        """Give up the descriptor; what was read stays as long as anyone holds it."""
        os.close(self.descriptor)
        self._map = None

    def _at(self, kind: str, shape: list[int], strides: list[int], first: int) -> Tensor:
        dtype: torch.dtype = getattr(torch, kind)
        count = torch.Size(shape).numel()
        if not count:
            return torch.empty(shape, dtype=dtype)
        if self._map is None or first + count * dtype.itemsize > self._bytes:
            self._bytes = os.fstat(self.descriptor).st_size
            self._map = mmap.mmap(self.descriptor, self._bytes, access=self._access)
        flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=first)
        return flat.as_strided(shape, strides)
