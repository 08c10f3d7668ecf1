"""Where randomness is drawn."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_GLOBAL = threading.RLock()
"""Torch has one global generator: whoever uses it is alone."""


class TooFew(ValueError):  # noqa: N818 (it says what is the matter)
    """A round's cohort is too small for a part; another round's may not be."""


@dataclass(frozen=True)
class Key:
    """A place in a run where randomness is drawn.

    Two keys with the same seed and path draw the same numbers, whatever else the run does
    before, after or beside them. Streams are for experiments: torch's generator takes 32 bits of
    a key, so nothing that must stay secret is ever drawn from one.
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def __truediv__(self, part: str | int) -> Key:
        """Step into a sub-stream: ``key / "round" / 3 / "attack"``."""
        return Key(self.seed, (*self.path, part))

    def number(self) -> int:
        """Name the place by 56 bits."""
        name = json.dumps([self.seed, *self.path]).encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:7], "big")

    def stream(self) -> torch.Generator:
        """Open the stream; always on the CPU, so every device draws the same numbers."""
        return torch.Generator().manual_seed(self.number())

    @contextmanager
    def seeded(self, device: torch.device | str = "cpu") -> Iterator[None]:
        """Let code that can only draw from torch's global generators draw from here."""
        cuda = [device] if torch.device(device).type == "cuda" else []
        with _GLOBAL, torch.random.fork_rng(devices=cuda):
            torch.default_generator.manual_seed(self.number())
            for each in cuda:
                with torch.cuda.device(each):
                    torch.cuda.manual_seed(self.number())
            yield
