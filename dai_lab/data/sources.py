"""Who holds what, where clients are what the data itself tells apart: people, trades, places."""

from __future__ import annotations

import torch

from dai_lab.core import Dataset, Key, Partition, Shards
from dai_lab.data.partitions import Owners, Sizes, offsets, places, values_of


def natural(data: Dataset, *, clients: int = 0, key: Key, by: str = "subject") -> Partition:
    """Make one client of each person, hospital or group that the data itself names.

    Args:
        data: Examples with attributes.
        clients: As many as the attribute has values in the training data, or 0 for "that many".
        key: Unused; nothing is drawn.
        by: Attribute, or several joined by ``+``, whose values become clients, in ascending order.

    Raises:
        ValueError: There is no such attribute, or ``clients`` is another number.
    """
    owner = values_of(data, by)
    count = int(owner.max()) + 1
    if clients not in (0, count):
        raise ValueError(
            f"federation.clients must be {count}, one for each {by} of {data.card.name}, "
            f"or 0, got {clients}"
        )
    return Partition(data, _held(owner, count))


def sources(
    data: Dataset,
    *,
    clients: int = 0,
    key: Key,
    by: str = "race",
    sources: int = 0,
    examples: int = 1000,
    order: str = "largest",
) -> Partition:
    """Let a few or all of the values of an attribute take part, with equal data in total.

    One source is the homogeneous silo, all of them the diverse federation, and what they hold
    together is the same, so a difference between them is one of diversity, not of quantity.
    Sources hold equally much; one that is too small for that gives all it has, and the others
    make up for it in equal parts. Examples left over belong to nobody.

    With one key more sources are the fewer and others, and a source that gives less gives some
    of the same examples.

    Args:
        data: Examples with attributes.
        clients: Clients to deal to, listed source by source: every source has at least one, and
            the more it gives the more. 0 is one for each source.
        key: Decides which examples take part and who gets them, and the order if it is drawn.
        by: Attribute, or several joined by ``+``, whose values are the sources.
        sources: How many of them take part; 0 is all.
        examples: Examples that all clients hold together.
        order: Which take part first: the ``largest`` (of equal ones that with the lower value),
            or as ``drawn``, so that seeds differ in who is there.

    Raises:
        ValueError: There is no such attribute, a knob is out of range, the sources that take
            part hold too little, or there are fewer clients than sources or more than examples.
    """
    owner = values_of(data, by)
    sizes = owner.bincount()
    if not 0 <= sources <= len(sizes):
        raise ValueError(
            f"partition.sources must be in 0..{len(sizes)}, as {data.card.name} has {len(sizes)} "
            f"values of {by}, got {sources}"
        )
    count = sources or len(sizes)
    if order == "largest":
        chosen = sizes.sort(descending=True, stable=True).indices[:count]
    elif order == "drawn":
        chosen = torch.randperm(len(sizes), generator=(key / "sources").stream())[:count]
    else:
        raise ValueError(f"partition.order must be 'largest' or 'drawn', got {order!r}")
    shares = _level(sizes[chosen], examples, by)
    if clients and not count <= clients <= examples:
        raise ValueError(
            f"federation.clients must be 0 or in {count}..{examples}, from one a source to one an "
            f"example, got {clients}"
        )
    seats = _clients(shares, clients or count)
    # By value of the attribute: what its source gives, in how many parts, from which client on.
    gives, parts, first = (torch.zeros_like(sizes) for _ in range(3))
    gives[chosen], parts[chosen], first[chosen] = shares, seats, offsets(seats)[:-1]
    place = places(owner, sizes, key / "examples")
    client = first[owner] + place * parts[owner] // gives[owner].clamp(min=1)
    return Partition(data, _held(torch.where(place < gives[owner], client, -1), clients or count))


def _level(sizes: Sizes, total: int, by: str) -> Sizes:
    """Take ``total`` of these like water: equally much of each, or all of what holds less."""
    most = int(sizes.sum())
    if not len(sizes) <= total <= most:
        raise ValueError(
            f"partition.examples must be in {len(sizes)}..{most}, as many as there are sources to "
            f"as many as these {len(sizes)} of {by} hold, got {total}: change it or "
            "partition.sources"
        )
    low, high = 0, int(sizes.max())
    while low < high:  # the highest level that takes no more than the total
        level = (low + high + 1) // 2
        low, high = (
            (level, high) if int(sizes.clamp(max=level).sum()) <= total else (low, level - 1)
        )
    shares = sizes.clamp(max=low)
    shares[(sizes > low).nonzero().flatten()[: total - int(shares.sum())]] += 1
    return shares


def _clients(shares: Sizes, clients: int) -> Sizes:
    """Give each source one client, and every further one to where clients hold most.

    This is D'Hondt's way to hand out seats: the largest quotients of a share by 1, 2, 3, ...
    """
    further = shares - 1  # as each client needs an example
    source = torch.arange(len(shares)).repeat_interleave(further)
    divisor = torch.arange(len(source)) - offsets(further)[source] + 1
    quotients = shares[source].double() / divisor
    seats = quotients.sort(descending=True, stable=True).indices[: clients - len(shares)]
    return 1 + source[seats].bincount(minlength=len(shares))


def _held(owner: Owners, clients: int) -> Shards:
    """List what each client owns; -1 is nobody."""
    taken = (owner >= 0).nonzero().flatten()
    holder = owner[taken]
    sizes = holder.bincount(minlength=clients)
    return Shards(taken[holder.sort(stable=True).indices], offsets(sizes))
