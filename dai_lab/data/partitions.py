"""Who holds what: ways to deal a data set to clients, each a pure function of data and key.

Every example goes to exactly one client. A client's examples are listed in ascending order.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from dai_lab.core import Dataset, Key, Partition, Shards

Owners = Int[Tensor, "examples"]
Sizes = Int[Tensor, "clients"]


def iid(data: Dataset, *, clients: int, key: Key) -> Partition:
    """Deal at random in equal parts; sizes differ by at most one.

    Raises:
        ValueError: No client, or more clients than examples.
    """
    _refuse_crowd(data, clients, minimum=1)
    return Partition(data, _shards(_evenly(data, clients, key), clients))


def dirichlet(
    data: Dataset,
    *,
    clients: int,
    key: Key,
    alpha: float = 0.5,
    minimum: int = 1,
    by: str | None = None,
) -> Partition:
    """Deal each class, or each group, by proportions drawn from a symmetric Dirichlet distribution.

    Where a client ends below ``minimum``, random examples move to it from the largest clients,
    which are leveled down together; nothing is drawn again, so this always ends.

    Args:
        data: Classified examples, or with ``by`` any that have attributes.
        clients: Clients to deal to.
        key: Decides the proportions and who gets which example.
        alpha: Concentration, above 0: large is close to iid, small gives a class to few.
        minimum: Examples every client holds at least; 0 allows clients that hold nothing.
        by: Attribute, or several joined by ``+``, whose values are dealt in place of the classes:
            clients then differ in whom they know, not in what they answer.

    Raises:
        ValueError: ``alpha`` or ``minimum`` is out of range, the clients together need more
            examples than there are, or the data has no classes or no such attribute.

    Source:
        Yurochkin et al. 2019, arXiv:1905.12022, the experiments; Li et al. 2022 (NIID-Bench),
        arXiv:2102.02079, "Distribution-based label imbalance". Of a sensitive attribute: Ezzeldin
        et al. 2023 (FairFed), arXiv:2110.00857, the experiments.
    """
    labels = _labels(data, "dirichlet") if by is None else values_of(data, by)
    _refuse_alpha(alpha)
    _refuse_crowd(data, clients, minimum=minimum)
    draw = np.random.default_rng((key / "proportions").number())
    order = torch.randperm(len(labels), generator=(key / "order").stream())
    owner = torch.empty(len(labels), dtype=torch.long)
    for label in range(data.classes if by is None else int(labels.max()) + 1):
        members = order[labels[order] == label]
        ends = np.floor(np.cumsum(_dirichlet(draw, alpha, clients)) * len(members) + 1e-9)
        ends[-1] = len(members)
        owner[members] = torch.from_numpy(np.searchsorted(ends, np.arange(len(members)), "right"))
    return Partition(data, _shards(_raise_to(owner, clients, minimum, key / "repair"), clients))


def classes(data: Dataset, *, clients: int, key: Key, classes_per_client: int = 2) -> Partition:
    """Give every client a few shards of the examples sorted by label, as in the FedAvg paper.

    A shard that spans two labels gives its client one class more, as it does in the paper.

    Args:
        data: Classified examples.
        clients: Clients to deal to.
        key: Decides who gets which shards.
        classes_per_client: Shards a client gets; at least 1.

    Raises:
        ValueError: ``classes_per_client`` is below 1, there are more shards than examples, or
            the data has no classes.

    Source:
        McMahan et al. 2017, arXiv:1602.05629, section 3.
    """
    labels = _labels(data, "classes")
    if classes_per_client < 1:
        raise ValueError(
            f"partition.classes_per_client must be at least 1, got {classes_per_client}"
        )
    _refuse_crowd(data, clients, minimum=1)
    shards = clients * classes_per_client
    if shards > len(labels):
        raise ValueError(
            f"partition.classes_per_client: {clients} clients with {classes_per_client} shards "
            f"each need {shards} examples and there are {len(labels)}: lower it or "
            "federation.clients"
        )
    order = torch.randperm(len(labels), generator=(key / "order").stream())
    order = order[labels[order].sort(stable=True).indices]
    holder = torch.randperm(shards, generator=(key / "shards").stream()) % clients
    owner = torch.empty_like(order)
    owner[order] = holder[torch.arange(len(order)) * shards // len(order)]
    return Partition(data, _shards(owner, clients))


def similarity(data: Dataset, *, clients: int, key: Key, similarity: float = 0.33) -> Partition:
    """Deal a share of the examples at random, and the rest in the order of their labels.

    Sizes differ by at most two.

    Args:
        data: Classified examples.
        clients: Clients to deal to.
        key: Decides which examples are dealt at random, and who gets which.
        similarity: That share, in [0, 1]: 0 gives every client a run of classes, 1 is iid.

    Raises:
        ValueError: ``similarity`` is out of range, the data has no classes, no client, or fewer
            than two examples for each.

    Source:
        Karimireddy et al. 2020 (SCAFFOLD), arXiv:1910.06378, section 7; the gamma-similarity of
        ByzFL, Gonzalez et al. 2025, arXiv:2505.24802.
    """
    labels = _labels(data, "similarity")
    if not 0 <= similarity <= 1:
        raise ValueError(f"partition.similarity must be in [0, 1], got {similarity}")
    _refuse_crowd(data, clients, minimum=2)
    order = torch.randperm(len(labels), generator=(key / "order").stream())
    cut = round(similarity * len(labels))
    alike, rest = order[:cut], order[cut:]
    rest = rest[labels[rest].sort(stable=True).indices]
    owner = torch.empty_like(order)
    # From the last client on, so that whoever gets one less of these gets one more of the rest.
    owner[alike] = clients - 1 - torch.arange(cut) * clients // max(cut, 1)
    owner[rest] = torch.arange(len(rest)) * clients // max(len(rest), 1)
    return Partition(data, _shards(owner, clients))


def quantity(
    data: Dataset,
    *,
    clients: int,
    key: Key,
    law: str = "dirichlet",
    alpha: float = 0.5,
    minimum: int = 1,
) -> Partition:
    """Give clients very different numbers of examples, of labels dealt at random.

    Everyone gets ``minimum``; the rest is shared out by the law.

    Args:
        data: Examples.
        clients: Clients to deal to.
        key: Decides the sizes and who gets which example.
        law: ``dirichlet``: shares drawn from a symmetric Dirichlet distribution; ``power``: the
            client of rank r, ranks drawn at random, gets a share in proportion to r^-alpha.
        alpha: Above 0. Concentration of the Dirichlet law (small is unequal), or exponent of
            the power law (large is unequal).
        minimum: Examples every client holds at least.

    Raises:
        ValueError: A knob is out of range, or the clients together need more examples than
            there are.

    Source:
        Li et al. 2022 (NIID-Bench), arXiv:2102.02079, "Quantity skew".
    """
    _refuse_alpha(alpha)
    _refuse_crowd(data, clients, minimum=minimum)
    draw = np.random.default_rng((key / "sizes").number())
    if law == "dirichlet":
        shares = _dirichlet(draw, alpha, clients)
    elif law == "power":
        shares = draw.permutation(np.arange(1, clients + 1) ** -float(alpha))
        shares /= shares.sum()
    else:
        raise ValueError(f"partition.law must be 'dirichlet' or 'power', got {law!r}")
    sizes = minimum + _apportion(shares, len(data.train) - clients * minimum)
    owner = torch.empty(len(data.train), dtype=torch.long)
    order = torch.randperm(len(owner), generator=(key / "order").stream())
    owner[order] = torch.arange(clients).repeat_interleave(sizes)
    return Partition(data, _shards(owner, clients))


def values_of(data: Dataset, by: str) -> Owners:
    """Number the values of an attribute, or of several joined by ``+``, that training data show.

    Values count up from 0 in ascending order, the first attribute changing slowest.

    Raises:
        ValueError: There is no such attribute.
    """
    known, words = sorted(data.train.attributes), [word.strip() for word in by.split("+")]
    if strange := [word for word in words if word not in known]:
        has = f"one of {known}" if known else f"an attribute, and {data.card.name} has none"
        raise ValueError(f"partition.by must be {has}, got {strange[0]!r}")
    columns = torch.stack([data.train.attributes[word].cpu() for word in words], dim=1)
    owner: Owners = columns.unique(dim=0, return_inverse=True)[1]
    return owner


def _labels(data: Dataset, name: str) -> Owners:
    """Return the class labels.

    Raises:
        ValueError: The targets are numbers to predict, not classes.
    """
    if data.classes == 0:
        raise ValueError(
            f"partition={name} deals by class and {data.card.name} has none: use partition=iid, "
            "quantity or natural"
        )
    return data.train.targets.cpu()


def _refuse_alpha(alpha: float) -> None:
    if not 0 < alpha < float("inf"):
        raise ValueError(f"partition.alpha must be above 0, got {alpha}")


def _refuse_crowd(data: Dataset, clients: int, *, minimum: int) -> None:
    """Refuse more clients than the examples can serve."""
    if clients < 1:
        raise ValueError(f"federation.clients must be at least 1, got {clients}")
    if minimum < 0:
        raise ValueError(f"partition.minimum must be at least 0, got {minimum}")
    if clients * minimum > len(data.train):
        raise ValueError(
            f"federation.clients={clients} with at least {minimum} examples each need "
            f"{clients * minimum} examples and {data.card.name} has {len(data.train)} to train on"
        )


def _evenly(data: Dataset, clients: int, key: Key) -> Owners:
    """Own examples at random, sizes differing by at most one."""
    count = len(data.train)
    owner = torch.empty(count, dtype=torch.long)
    order = torch.randperm(count, generator=(key / "order").stream())
    owner[order] = torch.arange(count) * clients // count
    return owner


def _dirichlet(draw: np.random.Generator, alpha: float, size: int) -> NDArray[np.float64]:
    """Draw one symmetric Dirichlet vector, however small ``alpha`` is.

    A gamma variable of shape ``alpha`` underflows to 0 for small ``alpha``, and all of them
    doing so leaves 0/0; its logarithm never does.
    """
    uniform = 1 - draw.random(size)
    logs = np.log(draw.standard_gamma(alpha + 1, size)) + np.log(uniform) / alpha
    shares: NDArray[np.float64] = np.exp(logs - logs.max())
    shares /= shares.sum()
    return shares


def _apportion(shares: NDArray[np.float64], total: int) -> Sizes:
    """Share out ``total`` whole examples, largest remainders first."""
    exact = shares * total
    sizes = np.floor(exact).astype(np.int64)
    short = total - int(sizes.sum())
    sizes[np.argsort(sizes - exact, kind="stable")[:short]] += 1
    return torch.from_numpy(sizes)


def _raise_to(owner: Owners, clients: int, minimum: int, key: Key) -> Owners:
    """Move random examples from the largest clients until nobody holds less than ``minimum``."""
    sizes = owner.bincount(minlength=clients)
    missing = (minimum - sizes).clamp(min=0)
    need = int(missing.sum())
    if need == 0:
        return owner
    low, high = minimum, int(sizes.max())
    while low < high:  # the highest level that frees enough when all above it come down to it
        level = (low + high + 1) // 2
        enough = int((sizes - level).clamp(min=0).sum()) >= need
        low, high = (level, high) if enough else (low, level - 1)
    giving = (sizes - low).clamp(min=0)
    spared = giving.nonzero().flatten()[: int(giving.sum()) - need]
    giving[spared] -= 1
    moving = (places(owner, sizes, key / "which") < giving[owner]).nonzero().flatten()
    moving = moving[torch.randperm(need, generator=(key / "where").stream())]
    repaired = owner.clone()
    repaired[moving] = torch.arange(clients).repeat_interleave(missing)
    return repaired


def places(owner: Owners, sizes: Sizes, key: Key) -> Owners:
    """Number each client's examples 0, 1, 2, ... in random order."""
    order = torch.randperm(len(owner), generator=key.stream())
    order = order[owner[order].sort(stable=True).indices]
    places = torch.empty_like(owner)
    places[order] = torch.arange(len(owner)) - offsets(sizes)[owner[order]]
    return places


def _shards(owner: Owners, clients: int) -> Shards:
    """List what each client owns."""
    sizes = owner.bincount(minlength=clients)
    return Shards(owner.sort(stable=True).indices, offsets(sizes))


def offsets(sizes: Sizes) -> Tensor:
    """Where each client's list begins, and where the last one ends."""
    return torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
