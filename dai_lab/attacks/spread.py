"""Attacks that go as far from the honest mean as honest rows are from each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.attacks.needs import at_least, center
from dai_lab.core import Lies, Rows, Sight, Vector

Direction: TypeAlias = Literal["unit", "sign", "std"]


def min_max(own: Rows, sight: Sight, *, direction: Direction = "std") -> Lies:
    """Go as far as no honest row is further from than two honest rows are from each other.

    Args:
        own: Rows to replace, all by the same one.
        sight: Rows the attacker knows; at least two.
        direction: Where to go from the mean: back along it (``unit``), along its negated
            ``sign``, or along the negated standard deviation of each coordinate (``std``).

    Raises:
        TooFew: Fewer than two rows are known.

    Source:
        Shejwalkar and Houmansadr 2021, NDSS, "Manipulating the Byzantine", section IV-C. The
        bound is a square in the distance for each row, so the largest is solved for, not
        searched; the authors' search cannot get beyond 20.
    """
    return _farthest(own, sight, direction, "min_max", _within_diameter)


def min_sum(own: Rows, sight: Sight, *, direction: Direction = "std") -> Lies:
    """Go as far as the distances to all honest rows add up to no more than an honest row's do.

    Args:
        own: Rows to replace, all by the same one.
        sight: Rows the attacker knows; at least two.
        direction: As for :func:`min_max`.

    Raises:
        TooFew: Fewer than two rows are known.

    Source:
        Shejwalkar and Houmansadr 2021, NDSS, section IV-D, with squared distances and the
        smallest of the sums, as the authors' code has them. Solved for, not searched.
    """
    return _farthest(own, sight, direction, "min_sum", _within_sums)


def away(honest: Rows, direction: Direction) -> Vector:
    """Return the way from the mean of some rows that an attack goes, for a step of 1."""
    mean, spread = center(honest)
    if direction == "unit":
        return torch.neg(mean / mean.norm().clamp_min(torch.finfo(mean.dtype).tiny))
    return -mean.sign() if direction == "sign" else -spread


Bound: TypeAlias = Callable[
    [Float[Tensor, "n n"], Float[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, ""]],
    Float[Tensor, ""],
]


def _farthest(own: Rows, sight: Sight, direction: Direction, name: str, bound: Bound) -> Lies:
    at_least(2, sight, name)
    mean, way = sight.honest.mean(dim=0), away(sight.honest, direction)
    apart = sight.honest - mean
    inner = (apart @ apart.T).double()
    lengths = inner.diagonal()
    between = (lengths.unsqueeze(1) + lengths - 2 * inner).clamp_min(0).fill_diagonal_(0)
    along, square = (apart @ way).double(), way.double().square().sum()
    # With no way to go there is nothing but the mean.
    gamma = float(bound(between, lengths, along, square)) if float(square) > 0 else 0.0
    return Lies((mean + gamma * way).expand(len(own), -1), record={"gamma": gamma})


def _within_diameter(
    between: Float[Tensor, "n n"],
    lengths: Float[Tensor, "n"],
    along: Float[Tensor, "n"],
    square: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Solve ``|x_i - mean - gamma way|^2 <= max |x_i - x_j|^2`` for each row; take the least."""
    room = (between.max() - lengths).clamp_min(0)
    return ((along + (along.square() + square * room).sqrt()) / square).min()


def _within_sums(
    between: Float[Tensor, "n n"],
    lengths: Float[Tensor, "n"],
    along: Float[Tensor, "n"],
    square: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Solve ``sum_i |x_i - mean - gamma way|^2 <= min_i sum_j |x_i - x_j|^2``."""
    room = (between.sum(1).min() - lengths.sum()).clamp_min(0)
    return (room / (len(lengths) * square)).sqrt()  # rows are to all sides of their mean
