"""TensorBoard as a second place where records go."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dai_lab.core import Record, Tracker


@contextmanager
def tensorboard(folder: Path, config: Mapping[str, Any]) -> Iterator[Tracker]:
    """Write TensorBoard event files into the run's folder; ``tensorboard --logdir results``.

    Args:
        folder: The run's folder; the files go into ``tensorboard/`` there.
        config: The run's settings.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "tracker: tensorboard is not installed; pip install dai-lab[tensorboard]"
        ) from None

    settings = {key: value for key, value in config.items() if key != "tracker"}
    # A run that goes on hands every record again: what a killed one wrote is hidden.
    with SummaryWriter(str(folder / "tensorboard"), purge_step=0) as writer:
        writer.add_text("config", f"```json\n{json.dumps(settings, indent=2)}\n```")

        def log(record: Record) -> None:
            for name, value in record.items():
                if isinstance(value, int | float) and name != "round":
                    writer.add_scalar(name, value, int(record["round"] or 0))

        yield log
