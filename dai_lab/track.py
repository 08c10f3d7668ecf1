"""Where records go, beside the ``records.jsonl`` that every run writes.

A run that goes on hands a tracker all its records again, from round 1: which of them the tracker
had sent when the run was killed, only its receiver knows.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dai_lab.core import Tracker


@contextmanager
def jsonl(folder: Path, config: Mapping[str, Any]) -> Iterator[Tracker]:
    """Send records nowhere else: the JSON lines in the run's folder are enough.

    Args:
        folder: The run's folder.
        config: Its settings, with ``digest`` and ``group`` (the digest without the seed).
    """
    yield lambda record: None
