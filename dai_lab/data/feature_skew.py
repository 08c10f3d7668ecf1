"""Clients that see the same things differently."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Dataset, Examples, Key, Partition
from dai_lab.data.partitions import iid


def features(
    data: Dataset, *, clients: int, key: Key, noise: float = 0.5, rotation: float = 0.0
) -> Partition:
    """Deal at random, then change each client's inputs: a noisier or a tilted view of each.

    Client ``i`` of ``n``, counted from 1, gets Gaussian noise of standard deviation
    ``noise * i / n``, as if every client had a worse camera than the one before; and its images
    are turned by an angle that runs evenly from ``-rotation`` (first) to ``+rotation`` (last).
    Test inputs stay as they are.

    Args:
        data: Examples; for ``rotation`` their inputs must be images ``[channels, height, width]``.
        clients: Clients to deal to.
        key: Decides who gets which example, and the noise.
        noise: Standard deviation at the last client, in the inputs' unit; at least 0. The paper
            gives a variance.
        rotation: Degrees at the last client, counterclockwise; the border is stretched into the
            corners.

    Raises:
        ValueError: ``noise`` is negative, or ``rotation`` is asked of what is not an image.

    Source:
        Noise: Li et al. 2022 (NIID-Bench), arXiv:2102.02079, "Noise-based feature imbalance".
        Rotation: Ghosh et al. 2020, arXiv:2006.04088, the experiments on rotated MNIST.
    """
    if not 0 <= noise < math.inf:
        raise ValueError(f"partition.noise must be at least 0, got {noise}")
    if not math.isfinite(rotation):
        raise ValueError(f"partition.rotation must be a number of degrees, got {rotation}")
    if rotation and len(data.shape) != 3:
        raise ValueError(
            f"partition.rotation turns images and {data.card.name} has inputs of shape "
            f"{data.shape}: set it to 0"
        )
    shards = iid(data, clients=clients, key=key / "deal").shards
    owner = torch.empty(len(data.train), dtype=torch.long)
    owner[shards.indices] = torch.arange(clients).repeat_interleave(shards.sizes)
    inputs = data.train.inputs
    if rotation:
        inputs = _turned(inputs, torch.linspace(-rotation, rotation, clients)[owner])
    if noise:
        level = (noise * (owner + 1) / clients).view(-1, *[1] * len(data.shape))
        drawn = torch.randn(inputs.shape, generator=(key / "noise").stream())
        inputs = drawn.mul_(level).to(inputs.device).add_(inputs)
    train = Examples(inputs, data.train.targets, data.train.attributes)
    return Partition(replace(data, train=train), shards)


def _turned(
    images: Float[Tensor, "examples channels height width"],
    degrees: Float[Tensor, "examples"],
    batch: int = 4096,
) -> Float[Tensor, "examples channels height width"]:
    """Turn each image counterclockwise about its center, by bilinear interpolation."""
    functional = torch.nn.functional
    stretch = images.shape[-2] / images.shape[-1]
    angle = torch.deg2rad(degrees).to(images)
    sine, cosine, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
    maps = torch.stack([cosine, -sine * stretch, zero, sine / stretch, cosine, zero], dim=1)
    turned = torch.empty_like(images)
    # A batch at a time: the sampling grid is as large as the images themselves.
    for start in range(0, len(images), batch):
        rows = slice(start, start + batch)
        grid = functional.affine_grid(
            maps[rows].view(-1, 2, 3), list(images[rows].shape), align_corners=False
        )
        turned[rows] = functional.grid_sample(
            images[rows], grid, padding_mode="border", align_corners=False
        )
    return turned
