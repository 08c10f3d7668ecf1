"""Data of which some classes are rare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from dai_lab.core import Dataset, Examples


def long_tail(*, of: Callable[[], Dataset], ratio: float = 0.5) -> Dataset:
    """Keep ``ratio ** i`` of the examples of class ``i``, to train on and to be judged by.

    The first of each class are kept, rounded, and never fewer than one; nothing is drawn.

    Args:
        of: The data.
        ratio: What is left of each class beside the one before it, in (0, 1]; 1 keeps all.

    Raises:
        ValueError: ``ratio`` is out of range, or the data has no classes.

    Source:
        Karimireddy, He and Jaggi 2022, arXiv:2006.09365, table 1.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"data.ratio must be in (0, 1], got {ratio}")
    data = of()
    if not data.classes:
        raise ValueError(
            f"data=long_tail thins out classes, {data.card.name} has none: choose another data.of"
        )
    card = replace(data.card, name=f"{data.card.name}, long tail of {ratio:g}")
    return replace(
        data,
        train=_thinned(data.train, data.classes, ratio),
        test=_thinned(data.test, data.classes, ratio),
        card=card,
    )


def _thinned(examples: Examples, classes: int, ratio: float) -> Examples:
    kept = torch.zeros(len(examples), dtype=torch.bool)
    for label in range(classes):
        members = (examples.targets == label).nonzero().flatten().cpu()
        kept[members[: max(1, round(ratio**label * len(members)))]] = True
    return examples.some(kept.nonzero().flatten().to(examples.targets.device))
