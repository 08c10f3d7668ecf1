"""A run that ended: all that its exports say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dai_lab.ledger.events import Body, Event
from dai_lab.ledger.history import History

MODEL = "model.safetensors"
"""The last model alone, whose content address is in the log."""


@dataclass(frozen=True)
class File:
    """One file of a run."""

    sha256: bytes
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Finished:
    """A run that was checked, as its log and its seal tell it."""

    history: History
    identity: bytes
    """Hash of the log's first leaf, which no other run has."""
    size: int
    """Events in the log."""
    root: bytes
    """Root of the log's tree (RFC 6962)."""
    files: Mapping[str, File]
    """By their path in the run's folder."""
    environment: Mapping[str, Any]
    """What ``environment.json`` says."""
    model: File
    """``model.safetensors``, which others are to use."""
    ended: datetime
    """When the summary was written, as the disk has it; no signature vouches for this."""

    @property
    def start(self) -> Event:
        """What the lab said it would compute."""
        assert self.history.start is not None, "a run that was checked has a start"
        return self.history.start

    @property
    def lab(self) -> bytes:
        """Public key of the lab."""
        return self.start.author

    @property
    def last(self) -> Body:
        """What the server said of the last model."""
        return self.history.rounds[max(self.history.rounds)].steps["model"].body

    @property
    def sessions(self) -> list[Mapping[str, Any]]:
        """What each session ran on; a run that was interrupted may have gone on with other code."""
        return [*self.environment["earlier"], self.environment]

    @property
    def name(self) -> str:
        """A URI of this run and no other, also where another has the same settings."""
        return f"urn:dai-lab:log:{self.identity.hex()}"
