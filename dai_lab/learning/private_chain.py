"""Clipped sums for a plain chain of layers: one pass forward, one back, no gradient held twice.

A linear layer's gradient for one example is a product of two vectors, so its norm is that of one
times that of the other, and the clipped sum one product of matrices. A convolution's are as many
small products of matrices, whose results are small and are kept for the sum.

Legend: B examples a pass, P places a filter is laid on, K inputs it sees there, O filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dai_lab.core import Model

aten = torch.ops.aten


@dataclass(frozen=True)
class Link:
    """One layer; ``first`` is where its parameters start among the model's."""

    layer: nn.Module
    first: int = -1


def _simple(layer: nn.Module) -> bool:
    """Tell whether a layer is one of ours, and nothing is hooked on it."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
    named = dict(layer.named_parameters(recurse=False))
    if any(hooks) or not all(each.requires_grad for each in named.values()):
        return False
    if type(layer) is nn.Conv2d:
        spelled = isinstance(layer.padding, str)
        return not spelled and layer.padding_mode == "zeros" and layer.groups == 1
    if type(layer) is nn.MaxPool2d:
        return not layer.ceil_mode and not layer.return_indices
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    return type(layer) in (nn.Linear, nn.ReLU, nn.Tanh)


def links_of(model: Model, rank: int) -> tuple[Link, ...] | None:
    """Read a model as a chain for inputs of ``rank`` dimensions, or return ``None``."""

    def leaves(module: nn.Module) -> list[nn.Module]:
        if type(module) is nn.Sequential:
            return [leaf for child in module for leaf in leaves(child)]
        return [module]

    if len(list(model.module.parameters())) != len(model.names):
        return None  # something is frozen
    links: list[Link] = []
    first = 0
    for layer in leaves(model.module):
        if not _simple(layer):
            return None
        takes = {nn.Linear: 1, nn.Conv2d: 3, nn.MaxPool2d: 3}.get(type(layer), rank)
        if rank != takes:
            return None
        rank = 1 if type(layer) is nn.Flatten else rank
        links.append(Link(layer, first))
        first += len(list(layer.parameters()))
    if first != len(model.names) or not links or type(links[-1].layer) is not nn.Linear:
        return None
    # Pooling before what only rises gives the same numbers and gradients from less work.
    for at, (one, two) in enumerate(pairwise(links)):
        if type(one.layer) in (nn.ReLU, nn.Tanh) and type(two.layer) is nn.MaxPool2d:
            links[at], links[at + 1] = two, one
    return tuple(links)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _knobs(layer: nn.MaxPool2d) -> list[list[int]]:
    stride = layer.kernel_size if layer.stride is None else layer.stride
    each = (layer.kernel_size, stride, layer.padding, layer.dilation)
    return [list(_pair(one)) for one in each]


def _laid(weight: Tensor) -> Tensor:
    """See filters ``[O, C, h, w]`` as a matrix ``[O, K]``, channels last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _windows(images: Tensor, layer: nn.Conv2d) -> Tensor:
    """See what a filter sees at every place: ``[B, H, W, h, w, C]`` of ``[B, height, width, C]``.

    Nothing is copied: windows lie over each other.
    """
    batch, height, width, channels = images.shape
    (h, w), (down, right) = layer.kernel_size, layer.stride
    (deep, wide), (a, b, c, d) = layer.dilation, images.stride()
    high = (height - deep * (h - 1) - 1) // down + 1
    broad = (width - wide * (w - 1) - 1) // right + 1
    sizes = (batch, high, broad, h, w, channels)
    return images.as_strided(sizes, (a, b * down, c * right, b * deep, c * wide, d))


def forward(
    links: Sequence[Link], weights: Sequence[Tensor], inputs: Tensor
) -> tuple[Tensor, list[Any]]:
    """Run the network on ``[B, *S]``; return outputs and what going back needs."""
    images = inputs.dim() == 4
    here = inputs.permute(0, 2, 3, 1) if images else inputs
    kept: list[Any] = []
    for link in links:
        layer = link.layer
        bias = None if getattr(layer, "bias", None) is None else weights[link.first + 1]
        if isinstance(layer, nn.Linear):
            kept.append(here)
            here = functional.linear(here, weights[link.first], bias)
        elif isinstance(layer, nn.Conv2d):
            high, wide = _pair(layer.padding)  # type: ignore[arg-type]
            padded = functional.pad(here, (0, 0, wide, wide, high, high)).contiguous()
            windows = _windows(padded, layer)
            columns = windows.reshape(-1, windows.shape[3:].numel())
            kept.append((columns, padded.shape))
            here = functional.linear(columns, _laid(weights[link.first]), bias)
            here = here.view(*windows.shape[:3], -1)
        elif isinstance(layer, nn.MaxPool2d):
            before = here.permute(0, 3, 1, 2)
            after, where = aten.max_pool2d_with_indices(before, *_knobs(layer))
            kept.append((before, where))
            here = after.permute(0, 2, 3, 1)
        elif isinstance(layer, nn.Flatten):
            images = here.dim() == 4
            kept.append(here.shape)
            here = (here.permute(0, 3, 1, 2) if images else here).reshape(len(here), -1)
        else:
            here = here.tanh() if isinstance(layer, nn.Tanh) else here.clamp_min(0)
            kept.append(here)
    return here, kept


def backward(
    links: Sequence[Link], weights: Sequence[Tensor], kept: Sequence[Any], slope: Tensor
) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor | None]]]:
    """Walk back from the slope at the outputs ``[B, ...]``, the loss's own for each example.

    Returns:
        Squared norms of gradients ``[B]``, and two factors for each parameter whose product,
        summed over examples, is its gradient: ``[B, O]`` and ``[B, K]``, or the gradients
        themselves ``[B, *shape]`` and ``None``.
    """
    squares = slope.new_zeros(len(slope))
    found: dict[int, tuple[Tensor, Tensor | None]] = {}
    lowest = next(at for at, link in enumerate(links) if list(link.layer.parameters()))
    for at in range(len(links) - 1, lowest - 1, -1):
        layer, first, was = links[at].layer, links[at].first, kept[at]
        if isinstance(layer, nn.Linear):
            length = _square(slope)
            squares.addcmul_(length, _square(was))
            found[first] = (slope, was)
            if layer.bias is not None:
                squares.add_(length)
                found[first + 1] = (slope, None)
            if at > lowest:
                slope = slope @ weights[first]
        elif isinstance(layer, nn.Conv2d):
            columns, padded = was
            rise = slope.reshape(len(slope), -1, slope.shape[-1])
            slopes = torch.bmm(rise.mT, columns.view(len(rise), -1, columns.shape[1]))
            squares.add_(_square(slopes.flatten(1)))
            h, w = layer.kernel_size
            found[first] = (slopes.view(*slopes.shape[:2], h, w, -1).permute(0, 1, 4, 2, 3), None)
            if layer.bias is not None:
                raised = rise.sum(1)
                squares.add_(_square(raised))
                found[first + 1] = (raised, None)
            if at > lowest:
                slope = _below(layer, weights[first], slope, padded)
        elif isinstance(layer, nn.MaxPool2d):
            before, where = was
            above = slope.permute(0, 3, 1, 2)
            below = aten.max_pool2d_with_indices_backward(
                above, before, *_knobs(layer), False, where
            )
            slope = below.permute(0, 2, 3, 1)
        elif isinstance(layer, nn.Flatten):
            if len(was) == 4:
                batch, high, wide, channels = was
                slope = slope.view(batch, channels, high, wide).permute(0, 2, 3, 1).contiguous()
            else:
                slope = slope.view(was)
        elif isinstance(layer, nn.Tanh):
            slope = aten.tanh_backward(slope, was)
        else:
            slope = aten.threshold_backward(slope, was, 0)
    return squares, found


def _square(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths.square()


def _below(layer: nn.Conv2d, weight: Tensor, slope: Tensor, padded: torch.Size) -> Tensor:
    """Bring a convolution's slope ``[B, H, W, O]`` back to its inputs ``[B, height, width, C]``."""
    rise = slope.reshape(-1, slope.shape[-1]) @ _laid(weight)
    h, w = layer.kernel_size
    rise = rise.view(*slope.shape[:3], h, w, -1)
    into = rise.new_zeros(padded)
    windows = _windows(into, layer)
    for row in range(h):
        for column in range(w):  # windows lie over each other, one number of each does not
            windows[:, :, :, row, column].add_(rise[:, :, :, row, column])
    high, wide = _pair(layer.padding)  # type: ignore[arg-type]
    return into[:, high : padded[1] - high, wide : padded[2] - wide]


def total(
    found: dict[int, tuple[Tensor, Tensor | None]], share: Tensor, out: Sequence[Tensor]
) -> None:
    """Write the sum of gradients, each times its example's ``share`` ``[B]``, into ``out``."""
    for at, (rise, run) in found.items():
        if run is None:
            out[at].copy_((share @ rise.flatten(1)).view(out[at].shape))
        else:
            torch.mm((rise * share.unsqueeze(1)).mT, run, out=out[at])


def width(links: Sequence[Link], weights: Sequence[Tensor], example: Tensor) -> int:
    """Count the numbers of one example ``[1, *S]`` that convolutions look at, and its own."""
    _, kept = forward(links, weights, example)
    layers = zip(kept, links, strict=True)
    looks: list[Tensor] = [was[0] for was, link in layers if isinstance(link.layer, nn.Conv2d)]
    return example.numel() + sum(columns.numel() for columns in looks)
