"""A federation: its parts in their places, its data dealt, its first model drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dai_lab.attacks import unpoisoned
from dai_lab.core import (
    Aggregator,
    Attack,
    Card,
    Cohort,
    Compression,
    Compute,
    Decision,
    Devices,
    Engine,
    Examples,
    Key,
    Ledger,
    LocalTraining,
    Pace,
    Partitioner,
    Personal,
    Poison,
    Privacy,
    Profiles,
    SecureAggregation,
    Sensitive,
    Server,
    Shards,
    Task,
    Watcher,
)
from dai_lab.data import split
from dai_lab.federation.terms import Accounting, Audit, Canaries, plant
from dai_lab.learning import choose
from dai_lab.models import create, flops

FRAMES = ("federated", "centralized", "local_only")


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Who learns what from whom, and what happens at each stage of a round."""

    task: Task
    test: Examples
    holdout: Shards
    """Each client's own examples that it never trains on."""
    classes: int
    root: Int[Tensor, "_"]
    """Training examples the server has of its own; no client holds them."""
    local: LocalTraining
    cohort: Cohort
    pace: Pace
    privacy: Privacy
    attack: Attack
    poison: Poison
    compression: Compression
    secagg: SecureAggregation
    aggregator: Aggregator
    server: Server
    decision: Decision
    personal: Personal
    engine: Engine
    profiles: Profiles | None = None
    """What devices can do; ``None`` where time is not simulated."""
    work: float = 0.0
    """Floating-point operations to compute one example's gradient."""
    watch: Mapping[str, Watcher] = field(default_factory=dict)
    frame: str = "federated"
    hostile: tuple[int, ...] = ()
    """Clients that lie."""
    knows: str = "rows"
    """What liars know of what the others send: nothing but their own, the mean, every row, or
    every row and the whole defense."""
    renew: int = 0
    """Rounds after which liars poison their examples anew; 0 is once, before the first."""
    clean: Task | None = None
    """What everybody held before liars poisoned what they hold; ``None`` if they did not."""
    spoiled: Mapping[int, int] = field(default_factory=dict)
    """How many examples each liar changed."""
    probe: Examples | None = None
    """Examples as liars want them judged."""
    clip: float | None = None
    every: int = 1
    compute: Compute = field(default_factory=Compute)
    accounting: Accounting = field(default_factory=Accounting)
    audit: Audit = field(default_factory=Audit)
    canaries: Canaries | None = None
    """Records planted for an audit."""
    card: Card | None = None
    """Where the data come from."""
    ledger: Ledger | None = None
    """Takes down who sent what, and what was made of it."""

    def __post_init__(self) -> None:
        if self.frame not in FRAMES:
            raise ValueError(f"frame must be one of {FRAMES}, got {self.frame!r}")
        if self.every < 1:
            raise ValueError(f"evaluation.every must be at least 1, got {self.every}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"federation.clip must be above 0 or null, got {self.clip}")
        if self.knows not in ("own", "mean", "rows", "defense"):
            raise ValueError(
                f"federation.knows must be own, mean, rows or defense, got {self.knows!r}"
            )
        if self.renew < 0:
            raise ValueError(f"federation.renew must be 0 (once) or more rounds, got {self.renew}")

    @property
    def poisons(self) -> bool:
        """Whether there is a poison, used or only measured."""
        return getattr(self.poison, "func", self.poison) is not unpoisoned


def found(
    *,
    data: Callable[[], Any],
    partition: Partitioner,
    model: Callable[..., Any],
    local: LocalTraining,
    cohort: Cohort,
    devices: Devices,
    pace: Pace,
    privacy: Privacy,
    attack: Attack,
    poison: Poison,
    compression: Compression,
    secagg: SecureAggregation,
    aggregator: Aggregator,
    server: Server,
    decision: Decision,
    personal: Personal,
    engine: Engine,
    watch: Mapping[str, Watcher],
    frame: str,
    clients: int,
    hostile: int,
    holdout: float,
    clip: float | None,
    every: int,
    compute: Compute,
    key: Key,
    root: int = 0,
    who: str = "random",
    holds: str = "dealt",
    knows: str = "rows",
    renew: int = 0,
    accounting: Accounting | None = None,
    audit: Audit | None = None,
    fairness: Mapping[str, Any] | None = None,
) -> Federation:
    """Load the data, deal it, draw the first model, and put the parts in their places.

    The frame ``centralized`` gives the same training examples to a single client and leaves
    everything else out: no attack, no secrecy, plain averaging. ``local_only`` leaves every
    client alone with its own examples. In every frame the ``root`` examples the server has of its
    own, drawn from all that would be trained on, belong to nobody else.

    Raises:
        ValueError: A knob is out of range; the message names it.
    """
    if holds not in ("dealt", "drawn"):
        raise ValueError(f"federation.holds must be dealt or drawn, got {holds!r}")
    # Who comes from outside was dealt nothing; without a federation, nobody does.
    outside = hostile if holds == "drawn" else 0
    dealt = partition(data(), clients=max(clients - outside, 0), key=key / "partition")
    outside *= frame == "federated"
    held_by = len(dealt.shards) + outside
    if not 0 <= hostile < held_by:
        raise ValueError(f"federation.hostile must be in 0..{held_by - 1}, got {hostile}")
    kept, held_out = split(dealt.shards, holdout=holdout, key=key / "holdout")
    kept, own = _apart(kept, root, key / "root")
    liars = _hostile(who, hostile, held_by, None if outside else kept.sizes, key / "hostile")
    if outside:
        kept, held_out = _joined(kept, held_out, liars, key / "drawn")
    audit = audit or Audit()
    marked, kept, canaries = plant(dealt.data, kept, audit.records, key / "audit" / "records")
    dataset = marked.to(compute.device)
    network = create(model, shape=dataset.shape, classes=dataset.classes, key=key / "model")
    network = replace(network, initial=network.initial.to(compute.device))
    knobs = dict(fairness or {})
    attribute = knobs.pop("attribute", None)
    sensitive = Sensitive.in_data(dataset, attribute, **knobs) if attribute else None
    work = flops(network, dataset.shape)
    network.module.to(compute.device)
    us = Federation(
        task=Task(network, dataset.train, kept, sensitive),
        test=dataset.test,
        holdout=held_out,
        classes=dataset.classes,
        root=own,
        local=local,
        cohort=cohort,
        pace=pace,
        privacy=privacy,
        attack=attack,
        poison=poison,
        compression=compression,
        secagg=secagg,
        aggregator=aggregator,
        server=server,
        decision=decision,
        personal=personal,
        engine=engine,
        profiles=devices(held_by, key=key / "devices"),
        work=work,
        watch=watch,
        frame=frame,
        hostile=liars if frame == "federated" else (),
        knows=knows,
        renew=renew,
        clip=clip,
        every=every,
        compute=compute,
        accounting=accounting or Accounting(),
        audit=audit,
        canaries=canaries,
        card=dataset.card,
    )
    return us


def _hostile(
    who: str, hostile: int, clients: int, sizes: Int[Tensor, "clients"] | None, key: Key
) -> tuple[int, ...]:
    """Say which clients lie, in ascending order."""
    if who not in ("random", "first", "largest", "smallest"):
        raise ValueError(f"federation.who must be random, first, largest or smallest, got {who!r}")
    if who == "first":
        return tuple(range(hostile))
    if who == "random":
        # Drawn, because a partition may give the first clients the cleanest or the oldest data.
        drawn = torch.randperm(clients, generator=key.stream())[:hostile]
    elif sizes is None:
        raise ValueError(f"federation.who={who} needs federation.holds=dealt")
    else:
        drawn = sizes.argsort(descending=who == "largest", stable=True)[:hostile]
    return tuple(drawn.sort().values.tolist())


def _joined(
    kept: Shards, held_out: Shards, liars: tuple[int, ...], key: Key
) -> tuple[Shards, Shards]:
    """Add liars who hold as much as others do on average, drawn from what all of them train on.

    They hold back nothing: what they would be judged on, others train on.
    """
    everything, size = kept.indices, round(len(kept.indices) / len(kept))
    training, apart = iter([kept[at] for at in range(len(kept))]), iter(range(len(held_out)))
    lists, backs = [], []
    for client in range(len(kept) + len(liars)):
        if client in liars:
            stream = (key / client).stream()
            lists.append(everything[torch.randperm(len(everything), generator=stream)[:size]])
            backs.append(everything[:0])
        else:
            lists.append(next(training))
            backs.append(held_out[next(apart)])
    return Shards.of(lists), Shards.of(backs)


def _apart(shards: Shards, root: int, key: Key) -> tuple[Shards, Int[Tensor, "_"]]:
    """Draw the server's own examples; return what is left to the clients, and those."""
    total = len(shards.indices)
    if not 0 <= root < max(total, 1):
        raise ValueError(f"federation.root must be in 0..{total - 1} (examples), got {root}")
    if not root:
        return shards, shards.indices[:0]
    stays = torch.ones(total, dtype=torch.bool)
    stays[torch.randperm(total, generator=key.stream())[:root]] = False
    left = torch.cat([torch.zeros(1, dtype=torch.long), stays.cumsum(0)])[shards.offsets]
    return Shards(shards.indices[stays], left), shards.indices[~stays]


def choice(us: Federation) -> dict[str, Any]:
    """Say which method computes gradients, and how many clients go side by side."""
    method = choose(us.task.model, us.compute, rank=us.test.inputs.dim() - 1)
    return {"method": method.name, "group": method.group}
