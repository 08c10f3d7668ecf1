"""Two-by-two max pooling and ReLU as one pass over channels-last images, and its way back.

torch's pooling writes and reads an eight-byte index for every output, and zeroes the whole input's
gradient before it scatters into it; here the place of the maximum takes two bits of one byte.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
from numba import njit
from torch import Tensor


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _forward(z, out, where):
    images, height, width, channels = out.shape
    for image in range(images):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    best, place = z[image, 2 * y, 2 * x, c], np.uint8(0)
                    # NaN compares false with everything, so it must be asked for.
                    v = z[image, 2 * y, 2 * x + 1, c]
                    if v > best or v != v:
                        best, place = v, np.uint8(1)
                    v = z[image, 2 * y + 1, 2 * x, c]
                    if v > best or v != v:
                        best, place = v, np.uint8(2)
                    v = z[image, 2 * y + 1, 2 * x + 1, c]
                    if v > best or v != v:
                        best, place = v, np.uint8(3)
                    out[image, y, x, c] = np.float32(0) if best < 0 else best
                    where[image, y, x, c] = np.uint8(4) if best <= 0 else place


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _backward(slope, where, back):
    images, height, width, channels = where.shape
    none = np.float32(0)
    for image in range(images):
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    g, place = slope[image, y, x, c], where[image, y, x, c]
                    back[image, 2 * y, 2 * x, c] = g if place == 0 else none
                    back[image, 2 * y, 2 * x + 1, c] = g if place == 1 else none
                    back[image, 2 * y + 1, 2 * x, c] = g if place == 2 else none
                    back[image, 2 * y + 1, 2 * x + 1, c] = g if place == 3 else none
            if back.shape[2] % 2:
                back[image, 2 * y : 2 * y + 2, back.shape[2] - 1] = none
        if back.shape[1] % 2:
            back[image, back.shape[1] - 1] = none


def _last(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1)


def halve(z: Tensor) -> tuple[Tensor, Tensor]:
    """Pool ``[B, C, H, W]`` (channels last) two by two, then ReLU; return it and where from."""
    batch, channels, height, width = z.shape
    shape = (batch, height // 2, width // 2, channels)
    out, where = torch.empty(shape), torch.empty(shape, dtype=torch.uint8)
    z = _last(z).contiguous()
    _forward(z.numpy(), out.numpy(), where.numpy())
    return out.permute(0, 3, 1, 2), where


def unhalve(slope: Tensor, where: Tensor, height: int, width: int) -> Tensor:
    """Send a slope ``[B, C, H // 2, W // 2]`` back to ``[B, C, H, W]``, both channels last."""
    back = torch.empty((len(slope), height, width, slope.shape[1]))
    _backward(_last(slope).contiguous().numpy(), where.numpy(), back.numpy())
    return back.permute(0, 3, 1, 2)
