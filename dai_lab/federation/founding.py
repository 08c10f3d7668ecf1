"""A federation: its parts in their places, its data dealt, its first model drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dai_lab.core import (
    Aggregator,
    Attack,
    Cohort,
    Compression,
    Compute,
    Devices,
    Engine,
    Examples,
    Key,
    LocalTraining,
    Pace,
    Partitioner,
    Personal,
    Privacy,
    Profiles,
    SecureAggregation,
    Server,
    Shards,
    Task,
    Watcher,
)
from dai_lab.data import split
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
    compression: Compression
    secagg: SecureAggregation
    aggregator: Aggregator
    server: Server
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
    clip: float | None = None
    every: int = 1
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if self.frame not in FRAMES:
            raise ValueError(f"frame must be one of {FRAMES}, got {self.frame!r}")
        if self.every < 1:
            raise ValueError(f"evaluation.every must be at least 1, got {self.every}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"federation.clip must be above 0 or null, got {self.clip}")


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
    compression: Compression,
    secagg: SecureAggregation,
    aggregator: Aggregator,
    server: Server,
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
) -> Federation:
    """Load the data, deal it, draw the first model, and put the parts in their places.

    The frame ``centralized`` gives the same training examples to a single client and leaves
    everything else out: no attack, no secrecy, plain averaging. ``local_only`` leaves every
    client alone with its own examples. In every frame the ``root`` examples the server has of its
    own, drawn from all that would be trained on, belong to nobody else.

    Raises:
        ValueError: A knob is out of range; the message names it.
    """
    dealt = partition(data(), clients=clients, key=key / "partition")
    held_by = len(dealt.shards)
    if not 0 <= hostile < held_by:
        raise ValueError(f"federation.hostile must be in 0..{held_by - 1}, got {hostile}")
    # Drawn, because a partition may give the first clients the cleanest or the oldest data.
    drawn = torch.randperm(held_by, generator=(key / "hostile").stream())[:hostile]
    kept, held_out = split(dealt.shards, holdout=holdout, key=key / "holdout")
    kept, own = _apart(kept, root, key / "root")
    dataset = dealt.data.to(compute.device)
    network = create(model, shape=dataset.shape, classes=dataset.classes, key=key / "model")
    network = replace(network, initial=network.initial.to(compute.device))
    work = flops(network, dataset.shape)
    network.module.to(compute.device)
    us = Federation(
        task=Task(network, dataset.train, kept),
        test=dataset.test,
        holdout=held_out,
        classes=dataset.classes,
        root=own,
        local=local,
        cohort=cohort,
        pace=pace,
        privacy=privacy,
        attack=attack,
        compression=compression,
        secagg=secagg,
        aggregator=aggregator,
        server=server,
        personal=personal,
        engine=engine,
        profiles=devices(held_by, key=key / "devices"),
        work=work,
        watch=watch,
        frame=frame,
        hostile=tuple(drawn.sort().values.tolist()) if frame == "federated" else (),
        clip=clip,
        every=every,
        compute=compute,
    )
    return us


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
