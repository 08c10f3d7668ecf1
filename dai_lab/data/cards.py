"""What a data set is, where it came from, and how to see that at a glance."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from dai_lab.core import Dataset, Examples, Key

BUNDLED = Path(__file__).parent / "bundled"
"""Real files that travel with the package."""


def file_hash(path: Path) -> str:
    """Name a file by its content: the SHA-256 of its bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(*tensors: Tensor) -> str:
    """Name tensors by their content: the SHA-256 over type, shape and bytes of each."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def rows_to_test(rows: int, *, fraction: float) -> Tensor:
    """Mark the rows kept for testing where nobody has published a split.

    The choice depends on the number of rows and the fraction alone, never on a run's seed, so
    all runs are judged on the same examples.

    Args:
        rows: Rows of the table.
        fraction: Share to keep for testing, in 0 < fraction < 1; rounded to whole rows, and
            at least one row stays on either side.

    Returns:
        A boolean mask ``[rows]``.

    Raises:
        ValueError: The fraction is out of range, or there are fewer than two rows.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"data.test must be above 0 and below 1, got {fraction}")
    if rows < 2:
        raise ValueError(f"data: a train and a test part need at least 2 rows, got {rows}")
    count = min(max(round(rows * fraction), 1), rows - 1)
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[torch.randperm(rows, generator=Key(0, ("data", "split")).stream())[:count]] = True
    return mask


def describe(data: Dataset) -> str:
    """Say what a data set is: origin, license, hash, size, shape, and how many of each class."""
    card = data.card
    lines = {
        "source": card.source,
        "license": card.license,
        "sha256": card.sha256,
        "size": f"{len(data.train):,} to train, {len(data.test):,} to test, {_mebibytes(data)}",
        "input": " x ".join(map(str, data.shape)),
        **_targets(data),
        **{f"by {name}": _shares(data, name) for name in data.train.attributes},
    }
    if card.note:
        lines["note"] = card.note
    width = max(map(len, lines))
    return "\n".join([card.name, *(f"  {name:{width}}  {text}" for name, text in lines.items())])


def _mebibytes(data: Dataset) -> str:
    """Size of the inputs in memory."""
    size = sum(part.inputs.numel() * part.inputs.element_size() for part in _parts(data))
    return f"{size / 2**20:.1f} MiB"


def _parts(data: Dataset) -> tuple[Examples, Examples]:
    return data.train, data.test


def _targets(data: Dataset) -> dict[str, str]:
    """Describe the targets: class counts, or the range of a regression."""
    targets = data.train.targets
    if data.classes == 0:
        low, high = float(targets.min()), float(targets.max())
        return {"targets": f"numbers from {low:.4g} to {high:.4g} in train"}
    counts = targets.bincount(minlength=data.classes).tolist()
    return {"classes": f"{data.classes}: {_list(data.names.get('classes'), counts)} (train)"}


def _shares(data: Dataset, name: str) -> str:
    """Describe one attribute by the count of each of its values."""
    counts = data.train.attributes[name].bincount().tolist()
    return f"{sum(count > 0 for count in counts)}: {_list(data.names.get(name), counts)} (train)"


def _list(names: object, counts: list[int], most: int = 12) -> str:
    """Join names and counts, leaving out the tail of a long list."""
    known = names if isinstance(names, (list, tuple)) else ()
    named = [str(known[i]) if i < len(known) else str(i) for i in range(len(counts))]
    shown = [f"{name} {count:,}" for name, count in zip(named, counts, strict=True)][:most]
    left = len(counts) - len(shown)
    return ", ".join(shown) + (f", and {left} more" if left else "")
