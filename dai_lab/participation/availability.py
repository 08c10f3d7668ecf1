"""Who is there when a round begins."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dai_lab.core import Key
from dai_lab.participation import columns
from dai_lab.participation.cohorts import places


def available(
    sizes: Int[Tensor, "clients"],
    *,
    now: float = 0.0,
    key: Key,
    fraction: float = 1.0,
    low: float = 0.1,
    high: float = 0.4,
    zones: float = 0.125,
    day_seconds: float = 86400.0,
    trace: int = 0,
) -> tuple[int, ...]:
    """Draw from the clients that are there at this hour: many at night, few at noon.

    A client is there with a probability that follows its own clock as a cosine, ``high`` at its
    midnight and ``low`` at its noon; a phone that learns is idle and charging. The first round
    begins at midnight in the first time zone. The coins of one round tell nothing about the
    next; where a stay should last, give the stays themselves to ``trace``.

    Time moves only where it is simulated, that is with ``devices=alike``, ``phones`` or
    ``table``. Without them, and for clients that stay alone, it is always the first midnight.

    Args:
        sizes: One entry for each registered client.
        now: Simulated seconds since the first round began.
        key: Where the coins fall, and who of those there is drawn.
        fraction: Share of all registered clients to draw, in (0, 1]; rounded to whole clients,
            at least one, and no more than are there, which may be nobody.
        low: Probability of being there at noon, in [0, ``high``]. The swing from 1 to 4 is
            published, the level is not.
        high: Probability of being there at midnight, at most 1.
        zones: Share of a day over which clients' clocks are spread evenly, in [0, 1]: three
            hours for one country as wide as the United States; 1 for the whole earth, of which
            as many are there at any hour.
        day_seconds: Length of a day, above 0.
        trace: Names the draw of clients' time zones, the same for every seed of a run.

    Raises:
        ValueError: A knob out of range.

    Source:
        Bonawitz et al. 2019, arXiv:1902.01046, section 9: four times as many phones take part at
        night as by day. FedScale: Lai et al. 2022, arXiv:2105.11367, the availability traces.
    """
    size = places(fraction, len(sizes))
    if not 0 <= low <= high <= 1:
        raise ValueError(f"cohort.low and high must be 0 <= low <= high <= 1, got {low} and {high}")
    if not 0 <= zones <= 1:
        raise ValueError(f"cohort.zones must be in 0..1, got {zones}")
    if not 0 < day_seconds < math.inf:
        raise ValueError(f"cohort.day_seconds must be above 0, got {day_seconds}")
    clocks = (Key(trace) / "zones").stream()
    ahead = zones * torch.rand(len(sizes), generator=clocks, dtype=torch.float64)
    night = (1 + torch.cos(2 * math.pi * (now / day_seconds - ahead))) / 2
    coins = torch.rand(len(sizes), generator=(key / "coins").stream(), dtype=torch.float64)
    there = (coins < low + (high - low) * night).nonzero().flatten()
    return _drawn(there, size, key / "drawn")


def trace(
    sizes: Int[Tensor, "clients"],
    *,
    now: float = 0.0,
    key: Key,
    path: str,
    period: float | None = None,
    fraction: float = 1.0,
) -> tuple[int, ...]:
    """Draw from the clients that are there according to your own CSV file.

    Each line is a stay: its client is there from ``start`` until just before ``end``. A client
    may have any number of stays; one without is never there. When the trace is over it begins
    again.

    Time moves only where it is simulated, that is with ``devices=alike``, ``phones`` or
    ``table``. Without them, and for clients that stay alone, it is always 0.

    Args:
        sizes: One entry for each registered client.
        now: Simulated seconds since the first round began.
        key: Who of those there is drawn.
        path: A file with the columns ``client`` (from 0), ``start`` and ``end`` (seconds).
        period: Seconds after which the trace repeats, at least the latest end; ``None`` for
            exactly then.
        fraction: Share of all registered clients to draw, in (0, 1]; rounded to whole clients,
            at least one, and no more than are there, which may be nobody.

    Raises:
        ValueError: A knob is out of range, the file cannot be read, or a stay begins before 0 or
            ends before it begins; the line is named.

    Source:
        The format is that of FedScale's availability traces, one stay a line: Lai et al. 2022,
        arXiv:2105.11367.
    """
    size = places(fraction, len(sizes))
    where = Path(path).expanduser()
    changed = where.stat().st_mtime_ns if where.is_file() else 0
    client, start, end = _stays(path, len(sizes), changed)
    latest = float(end.max())
    if period is not None and not period >= latest:
        raise ValueError(
            f"cohort.period must be at least the latest end in cohort.path, {latest:g}, "
            f"got {period}"
        )
    then = now % (latest if period is None else period)
    return _drawn(client[(start <= then) & (then < end)].unique(), size, key)


@lru_cache(maxsize=4)
def _stays(
    path: str, clients: int, changed: int
) -> tuple[Int[Tensor, "_"], Float[Tensor, "_"], Float[Tensor, "_"]]:
    """Read a trace once and not in every round, and again when the file has changed."""
    found = columns.read(path, ("start", "end"), clients=clients, knob="cohort.path")
    client, start, end = found["client"], found["start"], found["end"]
    if bool((wrong := (start < 0) | (end <= start)).any()):
        at = int(wrong.nonzero()[0])
        raise ValueError(
            f"cohort.path={path}, line {int(found['line'][at])}: start must be 0 or more and "
            f"below end, got {float(start[at]):g} and {float(end[at]):g}"
        )
    return client, start, end


def _drawn(there: Int[Tensor, "_"], size: int, key: Key) -> tuple[int, ...]:
    """Draw among those who are there, everyone equally likely."""
    order = torch.randperm(len(there), generator=key.stream())[:size]
    return tuple(there[order].sort().values.tolist())
