"""Which examples a client looks at, and in what order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dai_lab.core import Key


@dataclass(frozen=True)
class Plan:
    """A client's examples in the order it looks at them, and how many each step takes."""

    order: Int[Tensor, "looks"]
    lengths: tuple[int, ...]

    def steps(self) -> tuple[Tensor, ...]:
        """The examples of each step."""
        return tuple(self.order.split(list(self.lengths)))


def epochs_of(held: Int[Tensor, "held"], *, key: Key, epochs: int, batch_size: int) -> Plan:
    """Deal a client's examples into batches, reshuffled every epoch; the last may be short.

    Args:
        held: The client's examples.
        key: Where to draw the order.
        epochs: Passes over the examples.
        batch_size: Examples a step; 0 takes all of them.
    """
    count = len(held)
    if count == 0:
        return Plan(held, ())
    batch = min(batch_size, count) if batch_size else count
    whole, rest = divmod(count, batch)
    stream = key.stream()
    orders = [torch.randperm(count, generator=stream) for _ in range(epochs)]
    order = orders[0] if epochs == 1 else torch.cat(orders)
    return Plan(held[order], ((batch,) * whole + ((rest,) if rest else ())) * epochs)


def one_batch(held: Int[Tensor, "held"], *, key: Key, batch_size: int) -> Plan:
    """Draw a single batch without replacement; all examples where there are fewer."""
    count = len(held)
    if count == 0:
        return Plan(held, ())
    batch = min(batch_size, count) if batch_size else count
    return Plan(held[torch.randperm(count, generator=key.stream())[:batch]], (batch,))


def side_by_side(
    plans: Sequence[Plan],
) -> tuple[Int[Tensor, "clients steps batch"], Int[Tensor, "clients steps"]]:
    """Pad the plans of several clients to one rectangle; what is padded counts for nothing."""
    steps = max(len(plan.lengths) for plan in plans)
    batch = max(max(plan.lengths, default=1) for plan in plans)
    if all(len(plan.order) == steps * batch for plan in plans):
        examples = torch.stack([plan.order for plan in plans]).view(len(plans), steps, batch)
        return examples, torch.full((len(plans), steps), batch)
    examples = torch.zeros((len(plans), steps, batch), dtype=torch.long)
    counts = torch.zeros((len(plans), steps), dtype=torch.long)
    for at, plan in enumerate(plans):
        for step, some in enumerate(plan.steps()):
            examples[at, step, : len(some)] = some
        counts[at, : len(plan.lengths)] = torch.tensor(plan.lengths)
    return examples, counts
