"""The attacker who has read the defense, and optimizes against it."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.attacks.needs import a_defense, at_least, center
from dai_lab.core import Lies, Rows, Sight

REACHES = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 100.0)
"""Lengths at which every direction is tried first, in lengths of the honest spread."""


def adaptive(
    own: Rows,
    sight: Sight,
    *,
    aim: Literal["back", "far"] = "back",
    evals: int = 100,
) -> Lies:
    """Optimize the rows sent against the whole defense, as many as it takes.

    Every known way of hiding is tried at several lengths: back along the honest mean, against
    its sign, below the mean by its spread, beside each of the clients. From the best, rows are
    changed at random, all alike or one alone, in the space of the honest rows and those ways;
    what harms more is kept.

    Args:
        own: Rows to replace.
        sight: Rows the attacker knows, at least two; the defense; and where changes are drawn.
        aim: What harm is: the update's way ``back``, against the honest mean, in lengths of it;
            or how ``far`` it is from the honest mean, in any direction.
        evals: How often the defense is run, 1 or more.

    Raises:
        TooFew: Fewer than two rows are known.
        ValueError: The attacker does not know the defense, or does not run it.

    Source:
        Tramer et al. 2020, arXiv:2002.08347 (defenses are to be judged by attacks made for
        them); the search is a (1+1) evolution strategy with the one-fifth rule.
    """
    at_least(2, sight, "adaptive")
    defense, honest = a_defense(sight, "adaptive"), sight.honest
    if evals < 1:
        raise ValueError(f"attack.evals must be 1 or more, got {evals}")
    mean = honest.mean(dim=0)
    unit = mean / mean.norm().clamp_min(torch.finfo(mean.dtype).tiny)
    ways = _ways(honest)
    best, top, left = torch.zeros(len(own), len(ways), dtype=honest.dtype), -torch.inf, evals

    def harm(weights: Float[Tensor, "hostile ways"]) -> float:
        update = defense(mean + weights.to(ways) @ ways).update
        lost = update - mean
        return float(lost.norm()) if aim == "far" else -float(lost @ unit)

    for weights in _first(len(own), len(ways)):
        if left and (found := harm(weights)) > top:
            best, top = weights, found
        left -= left > 0
    stream, length = sight.key.stream(), 0.3
    for number in range(left):
        change = torch.randn(best.shape, generator=stream, dtype=best.dtype)
        if number % 2:
            change = change[:1].expand_as(change)  # all alike
        # A change is as large as what is there, so that rows may grow as they may shrink.
        scale = best.norm(dim=1, keepdim=True).clamp_min(0.1) / len(ways) ** 0.5
        weights = best + length * scale * change
        if (found := harm(weights)) > top:
            best, top, length = weights, found, min(1.5 * length, 2.0)
        else:
            length = max(length * 1.5**-0.25, 1e-3)
    return Lies(mean + best.to(ways) @ ways, record={"harm": top})


def _ways(honest: Rows) -> Rows:
    """List ways to go from the mean, each as long as the honest are spread."""
    mean, spread = center(honest)
    apart = honest - mean
    radius = apart.norm(dim=1).max()
    ways = torch.stack([-mean, -mean.sign(), -spread * mean.sign(), -spread])
    lengths = ways.norm(dim=1, keepdim=True).clamp_min(torch.finfo(ways.dtype).tiny)
    return torch.cat([ways * (radius / lengths), apart])


def _first(hostile: int, ways: int) -> list[Float[Tensor, "hostile ways"]]:
    """List what is tried first: known attacks at several lengths, then copies of clients."""
    tried = []
    for reach in REACHES:
        for way in range(4):
            weights = torch.zeros(hostile, ways)
            weights[:, way] = reach
            tried.append(weights)
    for client in range(4, ways):
        weights = torch.zeros(hostile, ways)
        weights[:, client] = 1.0
        tried.append(weights)
    return tried
