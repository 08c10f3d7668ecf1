"""What has been released about whom so far, as a run remembers it from round to round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dai_lab.core import Event

EVERYBODY = -1
"""Who is charged where nobody can tell who took part."""

FEW = 16
"""Clients with different bills that are priced one by one; more are bounded together."""

SPENT, LAST = "privacy/spent/", "privacy/last_round"


def charged(
    memory: Mapping[str, Tensor],
    bills: Iterable[tuple[Event, Sequence[int] | None]],
    *,
    round: int,
) -> dict[str, Tensor]:
    """Return the memories after a round's releases, for ``State.remember``.

    Args:
        memory: A state's.
        bills: Events, each with the clients it was about; ``None`` is everybody.
        round: Number of the round, from 1.

    Raises:
        ValueError: This round, or a later one, has been charged already.
    """
    last = int(memory.get(LAST, torch.zeros((), dtype=torch.long)))
    if round <= last:
        raise ValueError(
            f"accounting: round {round} is charged already (up to {last}): the run would count "
            "twice, go on from its last checkpoint"
        )
    found: dict[str, dict[int, int]] = {}
    for event, clients in bills:
        name = SPENT + _name(event)
        if name not in found:
            ids, counts = memory.get(name, torch.zeros((2, 0), dtype=torch.long)).tolist()
            found[name] = dict(zip(ids, counts, strict=True))
        for client in [EVERYBODY] if clients is None else clients:
            found[name][client] = found[name].get(client, 0) + 1
    tables = {
        name: torch.tensor([list(counts), list(counts.values())])
        for name, counts in found.items()
        if counts
    }
    return {**tables, LAST: torch.tensor(round)}


def spent(memory: Mapping[str, Tensor]) -> dict[str, list[Mapping[Event, int]]]:
    """Return, by unit, the bills that may be the largest: one of them is somebody's largest.

    Where bills cannot be compared and there are many, one that is larger than all stands for them.
    """
    common: dict[str, dict[Event, int]] = defaultdict(dict)
    own: dict[str, dict[int, dict[Event, int]]] = defaultdict(lambda: defaultdict(dict))
    for name, table in memory.items():
        if not name.startswith(SPENT):
            continue
        event = _event(name.removeprefix(SPENT))
        for client, count in zip(*table.tolist(), strict=True):
            if client == EVERYBODY:
                common[event.unit][event] = count
            else:
                own[event.unit][client][event] = count
    found = {}
    for unit in {*common, *own}:
        bills = [_sum(common[unit], one) for one in own[unit].values()] or [common[unit]]
        unlike = {frozenset(one.items()): one for one in bills}
        found[unit] = _largest([*unlike.values()])
    return found


def repeated(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], times: int = 1
) -> dict[str, Tensor]:
    """Return what the ledger would be after as much again as was charged in between."""
    found = {}
    for name, table in after.items():
        if not name.startswith(SPENT):
            continue
        old = before.get(name, torch.zeros((2, 0), dtype=torch.long))
        known = dict(zip(*old.tolist(), strict=True))
        then = [
            [client, count + times * (count - known.get(client, 0))]
            for client, count in zip(*table.tolist(), strict=True)
        ]
        found[name] = torch.tensor(then).T
    return found


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Tell whether two ledgers are the same."""
    tables = [
        {name: table for name, table in of.items() if name.startswith(SPENT)} for of in (one, other)
    ]
    return tables[0].keys() == tables[1].keys() and all(
        torch.equal(table, tables[1][name]) for name, table in tables[0].items()
    )


def _largest(bills: list[Mapping[Event, int]]) -> list[Mapping[Event, int]]:
    kept: list[Mapping[Event, int]] = []
    # Whoever is below another is below one that comes before it here.
    for one in sorted(bills, key=lambda bill: -sum(e.rate * n for e, n in bill.items())):
        if not any(_covers(other, one) for other in kept):
            kept.append(one)
    if len(kept) <= FEW:
        return kept
    most: dict[Event, int] = {}
    for family in {_family(event) for bill in kept for event in bill}:
        some = [[(e, n) for e, n in bill.items() if _family(e) == family] for bill in kept]
        highest = max((event for bill in some for event, _ in bill), key=lambda e: e.rate)
        most[highest] = max(sum(count for _, count in bill) for bill in some)
    return [most]


def _covers(more: Mapping[Event, int], less: Mapping[Event, int]) -> bool:
    """Tell whether for each release of ``less`` there is one in ``more`` sampled as often."""

    def counted(bill: Mapping[Event, int], family: Event, rate: float) -> int:
        return sum(n for e, n in bill.items() if _family(e) == family and e.rate >= rate)

    return all(
        counted(more, _family(event), event.rate) >= counted(less, _family(event), event.rate)
        for event in less
    )


def _family(event: Event) -> Event:
    """Return what an event has in common with those that differ in how often they happen."""
    return replace(event, rate=1.0)


def _sum(one: Mapping[Event, int], other: Mapping[Event, int]) -> Mapping[Event, int]:
    return {event: one.get(event, 0) + other.get(event, 0) for event in {*one, *other}}


def _name(event: Event) -> str:
    numbers = ",".join(map(repr, event.numbers))
    return f"{event.unit}/{event.mechanism}/{numbers}/{event.rate!r}/{event.times}"


def _event(name: str) -> Event:
    unit, mechanism, numbers, rate, times = name.split("/")
    parsed = tuple(float(one) for one in numbers.split(",") if one)
    return Event(mechanism, parsed, float(rate), unit, int(times))
