"""Attacks that need to know nothing but what they would honestly send."""

from __future__ import annotations

import math
from typing import Literal

import torch

from dai_lab.attacks.needs import above_zero
from dai_lab.core import Lies, Rows, Sight


def none(own: Rows, sight: Sight) -> Lies:
    """Send what was computed: honest, or poisoned where the data are.

    Args:
        own: Rows the hostile computed, sent as they are.
        sight: Unused.
    """
    return Lies(own, quiet=True)


def sign_flip(
    own: Rows,
    sight: Sight,
    *,
    scale: float = 1.0,
    of: Literal["own", "mean", "sum"] = "own",
) -> Lies:
    """Push the model backwards.

    Args:
        own: Rows the hostile computed.
        sight: What they know of the others, unless each flips its ``own``.
        scale: Length of what is sent in lengths of what is flipped, above 0.
        of: What is flipped: each its ``own`` row; the ``mean`` of the honest; or their ``sum``
            shared among the hostile, with which the sum of all rows is exactly zero.

    Raises:
        ValueError: A scale that flips nothing.

    Source:
        Li et al. 2019, arXiv:1811.03761, the sign-flipping attack of the experiments (own);
        Allouah et al. 2023, arXiv:2302.01772, section 5 (mean); Li et al. 2019, the
        experiments' zero-gradient attack (sum).
    """
    above_zero("scale", scale)
    if of == "own":
        return Lies(-scale * own)
    row = -scale * sight.honest.mean(dim=0)
    if of == "sum":
        row = row * (sight.good / max(len(own), 1))
    return Lies(row.expand(len(own), -1))


def gaussian(own: Rows, sight: Sight, *, std: float = 1.0) -> Lies:
    """Send noise that has nothing to do with the task.

    Args:
        own: Rows to replace.
        sight: Where the noise is drawn, anew for each row.
        std: Standard deviation of each coordinate, above 0; the source uses 200.

    Raises:
        ValueError: Noise without spread.

    Source:
        Blanchard et al. 2017, arXiv:1703.02757, the Gaussian attack of the experiments.
    """
    above_zero("std", std)
    noise = torch.randn(own.shape, generator=sight.key.stream(), dtype=own.dtype)
    return Lies(std * noise.to(own.device))


def not_finite(
    own: Rows,
    sight: Sight,
    *,
    value: Literal["nan", "inf", "-inf"] = "nan",
    share: float = 1.0,
) -> Lies:
    """Send what is no number, which one careless sum spreads over the whole model.

    Args:
        own: Rows to spoil.
        sight: Where coordinates are drawn, the same for all rows.
        value: What to send.
        share: Share of the coordinates to spoil, in (0, 1]; at least one is.

    Raises:
        ValueError: A share out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"attack.share must be in (0, 1], got {share}")
    count = max(1, math.ceil(share * own.shape[1])) if own.shape[1] else 0
    spoiled = torch.randperm(own.shape[1], generator=sight.key.stream())[:count]
    lies = own.clone()
    lies[:, spoiled.to(own.device)] = float(value)
    return Lies(lies)


def zero(own: Rows, sight: Sight) -> Lies:
    """Send zeros: no work, and a mean that moves less far.

    Args:
        own: Rows to replace.
        sight: Unused.
    """
    return Lies(torch.zeros_like(own))
