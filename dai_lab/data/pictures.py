"""Who holds what, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from dai_lab.core import Partition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"
"""Two colors that stay apart for every kind of color vision (Okabe and Ito)."""


def picture(partition: Partition, *, most: int = 40) -> Figure:
    """Draw who holds what: a bubble per client and class, a bar per client above it.

    A bubble's area is the number of examples. With more than ``most`` clients an evenly spaced
    sample is drawn, and the title says so. A regression, or more than 100 classes, has bars only.
    A notebook shows the figure once it has run ``%matplotlib inline``.

    Args:
        partition: What to draw.
        most: Clients to draw at most; at least 1.

    Raises:
        ValueError: ``most`` is below 1.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    data, shards = partition.data, partition.shards
    shown = _evenly_spaced(len(shards), most)
    bubbles = 0 < data.classes <= 100
    high = min(max(0.32 * data.classes, 1.6), 7.0) if bubbles else 0.0
    figure = Figure(figsize=(8.0, 1.9 + high), dpi=120, layout="constrained", facecolor="white")
    axes = figure.subplots(
        2 if bubbles else 1, 1, sharex=True, squeeze=False,
        height_ratios=[1.3, high] if bubbles else [1.0],
    )[:, 0]  # fmt: skip
    places = range(len(shown))
    axes[0].bar(places, shards.sizes.cpu()[shown].tolist(), color=ORANGE, width=0.7)
    axes[0].set_ylabel("examples")
    axes[0].yaxis.set_major_locator(MaxNLocator(4, integer=True))
    if bubbles:
        _bubbles(axes[1], holdings(partition)[shown], data.names.get("classes", ()))
    for axis in axes:
        axis.set_facecolor("white")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    ticks = [place for place in places if len(shown) <= 20 or place % 5 == 0]
    axes[-1].set_xticks(ticks, [str(int(shown[place])) for place in ticks])
    axes[-1].set_xlabel("client")
    axes[-1].set_xlim(-0.8, len(shown) - 0.2)
    number = f"{len(shards):,} clients"
    sampled = f"{len(shown)} of {number}, evenly spaced" if len(shown) < len(shards) else number
    axes[0].set_title(f"Who holds what: {data.card.name}, {sampled}", loc="left", fontsize=11)
    return figure


def holdings(partition: Partition) -> Int[Tensor, "clients classes"]:
    """Count every client's examples of every class.

    Raises:
        ValueError: The data has no classes.
    """
    data, shards = partition.data, partition.shards
    if data.classes == 0:
        raise ValueError(f"data: {data.card.name} has no classes to count")
    owner = torch.arange(len(shards)).repeat_interleave(shards.sizes.cpu())
    pairs = owner * data.classes + data.train.targets.cpu()[shards.indices.cpu()]
    return pairs.bincount(minlength=len(shards) * data.classes).view(-1, data.classes)


def _evenly_spaced(clients: int, most: int) -> Int[Tensor, "shown"]:
    """Choose the clients to draw."""
    shown = min(clients, most)
    return torch.arange(shown) * clients // shown


def _bubbles(axis: Axes, counts: Int[Tensor, "clients classes"], names: Sequence[str]) -> None:
    """Draw one bubble per client and class; areas in proportion to counts."""
    clients, classes = counts.shape
    client, label = counts.nonzero(as_tuple=True)
    share = counts[client, label].double() / max(int(counts.max()), 1)
    step = 72 * min(6.5 / max(clients, 8), 0.32, 7.0 / classes)
    area = (share * (0.9 * step) ** 2).clamp(min=0.6)
    axis.scatter(client.tolist(), label.tolist(), s=area.tolist(), color=BLUE, linewidths=0)
    ticks = [place for place in range(classes) if classes <= 20 or place % 10 == 0]
    axis.set_yticks(ticks, [names[place] if place < len(names) else str(place) for place in ticks])
    axis.set_ylim(-0.7, classes - 0.3)
    axis.set_ylabel("class")
