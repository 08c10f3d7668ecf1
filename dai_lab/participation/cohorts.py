"""Who takes part in a round."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from dai_lab.core import Key

FEW = 100_000
"""Registered clients up to which a draw may take a look at every one of them."""


def uniform(
    sizes: Int[Tensor, "clients"], *, now: float = 0.0, key: Key, fraction: float = 1.0
) -> tuple[int, ...]:
    """Draw a fixed share of all clients, everyone equally likely.

    Args:
        sizes: One entry for each registered client.
        now: Unused; everyone is always there.
        key: Where they are drawn.
        fraction: Share to draw, in (0, 1]; rounded to whole clients, but at least one.

    Raises:
        ValueError: A fraction out of range.

    Source:
        McMahan et al. 2017, arXiv:1602.05629, algorithm 1.
    """
    clients = len(sizes)
    size = places(fraction, clients)
    if clients > FEW and size < clients / 4:
        return tuple(sorted(_few_of_many(clients, size, key.stream())))
    drawn = torch.randperm(clients, generator=key.stream())[:size]
    return tuple(drawn.sort().values.tolist())


def _few_of_many(clients: int, size: int, stream: torch.Generator) -> list[int]:
    """Draw again and again until ``size`` differ; whoever comes twice counts once."""
    seen: dict[int, None] = {}
    while len(seen) < size:
        again = torch.randint(clients, (size - len(seen),), generator=stream)
        seen.update(dict.fromkeys(again.tolist()))
    return list(seen)


def poisson(
    sizes: Int[Tensor, "clients"], *, now: float = 0.0, key: Key, rate: float = 0.1
) -> tuple[int, ...]:
    """Let every client join by its own coin; the cohort's size varies and can be 0.

    An empty cohort is returned as it is: to draw again would break the independence that
    privacy accountants rely on. Whoever plays the round must take it for one without change.

    Args:
        sizes: One entry for each registered client.
        now: Unused; everyone is always there.
        key: Where the coins fall.
        rate: Probability of joining, in (0, 1].

    Raises:
        ValueError: A rate out of range.

    Source:
        Abadi et al. 2016, arXiv:1607.00133, section 3.1; McMahan et al. 2018,
        arXiv:1710.06963, algorithm 1.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"cohort.rate must be above 0 and at most 1, got {rate}")
    # In float64 a coin of 1 - 2**-24 or less cannot round up and miss a rate near 1.
    coins = torch.rand(len(sizes), generator=key.stream(), dtype=torch.float64)
    return tuple((coins < rate).nonzero().flatten().tolist())


def by_size(
    sizes: Int[Tensor, "clients"], *, now: float = 0.0, key: Key, fraction: float = 1.0
) -> tuple[int, ...]:
    """Draw a fixed share of all clients, each place with chances as its candidates' examples.

    Nobody is drawn twice, and who holds nothing is never drawn. So who holds twice as much is
    twice as likely to be drawn first, but less than twice as likely to take part, and with
    ``fraction`` 1 all who hold something do. Scheme I of Li et al. 2020
    (arXiv:1907.02189) draws with replacement instead, lets a client count as often as it was
    drawn, and takes the plain mean, which is unbiased; here a mean by examples counts size once
    in the draw and once more in the mean.

    Args:
        sizes: Examples every registered client holds.
        now: Unused; everyone is always there.
        key: Where they are drawn.
        fraction: Share to draw, in (0, 1]; rounded to whole clients, but at least one, and no
            more than hold something.

    Raises:
        ValueError: A fraction out of range.

    Source:
        Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir", Information
        Processing Letters 97(5), algorithm A; in logarithms, as a race of exponential clocks.
    """
    size = places(fraction, len(sizes))
    holding = sizes.nonzero().flatten()
    coins = torch.rand(len(holding), generator=key.stream(), dtype=torch.float64)
    # Not exponential_, whose numbers depend on how torch was built.
    clocks = -torch.log1p(-coins) / sizes[holding]
    first = clocks.topk(min(size, len(holding)), largest=False).indices
    return tuple(holding[first].sort().values.tolist())


def places(fraction: float, clients: int) -> int:
    """Count the places in a cohort: a share of all clients in whole ones, but at least one.

    Raises:
        ValueError: A fraction out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"cohort.fraction must be above 0 and at most 1, got {fraction}")
    return max(1, round(fraction * clients))
