"""Whom the server waits for."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dai_lab.core import Arrivals, Key


def everyone(finish: Float[Tensor, "_"], staleness: Int[Tensor, "_"], *, key: Key) -> Arrivals:
    """Wait for the last client of the cohort.

    Args:
        finish: Seconds from now at which each client would answer.
        staleness: Unused; nobody is stale.
        key: Unused; nothing is drawn.
    """
    taken = torch.ones(len(finish), dtype=torch.bool)
    until = float(finish.max()) if len(finish) else 0.0
    return Arrivals(taken, torch.ones(len(finish)), until)


def deadline(
    finish: Float[Tensor, "_"],
    staleness: Int[Tensor, "_"],
    *,
    key: Key,
    seconds: float | None = None,
    share: float = 1.0,
) -> Arrivals:
    """Step when enough clients have answered, or when time is up; send the rest home.

    To over-select, draw a larger cohort and wait for a share of it: with ``cohort.fraction``
    1.3 times as large and a share of 1/1.3 the server steps on as many updates as it wanted,
    and the slowest never delay it. The share counts those whose device did not fail; a failure
    is known at once. Whoever answers in the same instant as the last one needed is taken too.
    Time that is up before anyone answered is spent, and the model stays as it is.

    Args:
        finish: Seconds from now at which each client would answer.
        staleness: Unused; nobody is stale.
        key: Unused; nothing is drawn.
        seconds: The server's patience, above 0; ``None`` for no limit.
        share: Share of the clients that is enough, in (0, 1]; rounded up to whole clients.

    Raises:
        ValueError: A knob out of range.

    Source:
        Bonawitz et al. 2019, arXiv:1902.01046, sections 2.2 and 9: a reporting window, and
        130 % of the clients wanted are selected.
    """
    if seconds is not None and not seconds > 0:
        raise ValueError(f"pace.seconds must be above 0 or null, got {seconds}")
    if not 0 < share <= 1:
        raise ValueError(f"pace.share must be above 0 and at most 1, got {share}")
    one = torch.ones(len(finish))
    if not len(finish):
        return Arrivals(one.bool(), one, 0.0)
    # A little less, because 13 * (1 / 1.3) is a little more than 10.
    needed = max(1, math.ceil(share * len(finish) - 1e-9))
    enough = float(finish.sort().values[needed - 1])
    until = enough if seconds is None else min(enough, seconds)
    return Arrivals(finish <= until, one, max(until, 0.0))


def buffered(
    finish: Float[Tensor, "_"],
    staleness: Int[Tensor, "_"],
    *,
    key: Key,
    size: int = 10,
    exponent: float = 0.5,
) -> Arrivals:
    """Step on the first few that arrive, however old the model they started from; the rest fly on.

    Clients still at work keep their places in the cohort, so the cohort's size is the number at
    work at once. Places left are filled when the server steps. The paper's server fills a place
    as soon as it is left; the model given out is the same one, but here its client starts later,
    at the step. With a ``size`` of the whole cohort or more nobody is ever late, and this is
    ``everyone``.

    Args:
        finish: Seconds from now at which each client answers; at most 0 where it already has.
        staleness: Steps of the server since each client was given its model. Of clients that
            arrive together the stalest are taken first, then those first in the list.
        key: Unused; nothing is drawn.
        size: Updates the server waits for, at least 1; all there are, where they are fewer.
        exponent: An update counts ``(1 + staleness) ** -exponent``; 0 or more, 0 counts all alike.

    Raises:
        ValueError: A knob out of range.

    Source:
        FedBuff: Nguyen et al. 2022, arXiv:2106.06639, algorithm 1, and with ``exponent`` 1/2 the
        staleness scaling of its experiments; the form is that of FedAsync, Xie et al. 2019,
        arXiv:1903.03934.
    """
    if size < 1:
        raise ValueError(f"pace.size must be at least 1, got {size}")
    if not exponent >= 0:
        raise ValueError(f"pace.exponent must be 0 or more, got {exponent}")
    # Stalest first where all answer at once: else who is first in the list would always win.
    order = staleness.argsort(descending=True, stable=True)
    order = order[finish[order].argsort(stable=True)][:size]
    taken = torch.zeros(len(finish), dtype=torch.bool)
    taken[order] = True
    until = max(0.0, float(finish[order].max())) if len(order) else 0.0
    return Arrivals(taken, (1.0 + staleness.double()) ** -exponent, until, flying=True)
