"""One step of SGD, and what every way to train shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dai_lab.core import Key, Task
from dai_lab.learning.chain import Blocks
from dai_lab.learning.methods import Method


@dataclass(frozen=True)
class Descent:
    """The knobs of one step of local SGD, checked."""

    rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = None
    proximal: float = 0.0
    second: str | None = None
    """``adam`` or ``adagrad``: divide by the root of a second moment, forgotten between rounds."""
    beta2: float = 0.0
    epsilon: float = 0.0
    frozen: tuple[bool, ...] = ()
    """Which parameter tensors stay as they are; none unless given."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"local.momentum must be in [0, 1), got {self.momentum}")
        if not self.weight_decay >= 0:
            raise ValueError(f"local.weight_decay must be 0 or more, got {self.weight_decay}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"local.clip must be above 0 or null, got {self.clip}")
        if not self.proximal >= 0:
            raise ValueError(f"local.proximal must be 0 or more, got {self.proximal}")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"local.beta2 must be in [0, 1), got {self.beta2}")
        if self.second and not self.epsilon > 0:
            raise ValueError(f"local.epsilon must be above 0, got {self.epsilon}")

    @property
    def plain(self) -> bool:
        """Whether a step is the gradient times the rate, added where it stands."""
        return not (self.momentum or self.clip is not None or self.second or any(self.frozen))


def rate_of(rate: float, schedule: Callable[[int], float], round: int) -> float:
    """Give the learning rate of a round."""
    if not rate > 0:
        raise ValueError(f"local.rate must be above 0, got {rate}")
    factor = schedule(round)
    if not factor >= 0:
        raise ValueError(f"local.schedule must stay at 0 or more, gives {factor} in round {round}")
    return rate * factor


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a whole number that is too small."""
    if value < least:
        raise ValueError(f"local.{name} must be {least} or more, got {value}")


def drawing(
    method: Method, key: Key, client: int, device: torch.device
) -> AbstractContextManager[None]:
    """Let a module that draws (dropout) draw from the client's own stream."""
    if method.name != "flat":
        return nullcontext()  # the others take no module that draws
    return (key / "client" / client / "dropout").seeded(device)


def held_by(task: Task, cohort: Sequence[int]) -> Float[Tensor, "_"]:
    """Count the examples behind each row."""
    return task.shards.sizes[list(cohort)].to(torch.float32)


def abreast(steps: Sequence[int], group: int) -> Iterator[list[int]]:
    """Deal clients to groups of similar length, longest first; equal ones keep their order."""
    order = sorted(range(len(steps)), key=lambda at: -steps[at])
    for first in range(0, len(order), group):
        yield order[first : first + group]


def fetch(task: Task, examples: Tensor) -> tuple[Tensor, Tensor]:
    """Collect inputs ``[G, B, *S]`` and targets ``[G, B]`` from the one copy of the data."""
    at = examples.flatten().to(task.data.inputs.device)
    inputs = task.data.inputs.index_select(0, at).unflatten(0, examples.shape)
    return inputs, task.data.targets.index_select(0, at).view(examples.shape)


def share_of(counts: Tensor, batch: int) -> Tensor:
    """Say what each example counts for in its client's mean ``[G, batch]``; padding, nothing."""
    real = torch.arange(batch) < counts.unsqueeze(1)
    return real / counts.clamp_min(1).unsqueeze(1)


def clipped(slopes: Blocks, bound: float) -> Blocks:
    """Scale each client's gradient to at most ``bound`` in L2 norm."""
    squares = torch.stack([slope.flatten(1).square().sum(1) for slope in slopes]).sum(0)
    factors = (bound / squares.sqrt().clamp_min(1e-12)).clamp_max(1)
    return [slope * factors.view(-1, *[1] * (slope.dim() - 1)) for slope in slopes]


def add(blocks: Blocks, others: Blocks, factor: float) -> None:
    """Add ``factor`` times the others, in place."""
    torch._foreach_add_(blocks, others, alpha=factor)


@dataclass
class Memory:
    """What an optimizer remembers while a group of clients trains."""

    rule: Descent
    first: Blocks
    second: Blocks
    steps: int = 0

    @classmethod
    def of(cls, rule: Descent, blocks: Blocks) -> Memory:
        """Begin with nothing."""
        first = rule.momentum or rule.second == "adam"
        return cls(
            rule,
            [torch.zeros_like(block) for block in blocks] if first else [],
            [torch.zeros_like(block) for block in blocks] if rule.second else [],
        )

    def step(self, blocks: Blocks, slopes: Blocks, anchor: Blocks, tilt: Blocks) -> None:
        """Take one step in place with the clients in front; the others have finished.

        The penalties go where ``torch.optim`` users put them: what pulls at the objective is
        clipped with the gradient, weight decay is not.
        """
        rule, active = self.rule, len(blocks[0])
        self.steps += 1
        if rule.proximal:
            add(slopes, blocks, rule.proximal)
            add(slopes, anchor, -rule.proximal)
        if tilt:
            add(slopes, tilt, 1.0)
        kept = [block.clone() for block in blocks] if any(rule.frozen) else []
        for at, stays in enumerate(rule.frozen):
            if stays:
                slopes[at] = torch.zeros_like(slopes[at])
        if rule.clip is not None:
            slopes = clipped(slopes, rule.clip)
        first = [block[:active] for block in self.first]
        second = [block[:active] for block in self.second]
        if rule.second == "adam":
            torch._foreach_mul_(blocks, 1 - rule.rate * rule.weight_decay)
            torch._foreach_lerp_(first, slopes, 1 - rule.momentum)
            torch._foreach_mul_(second, rule.beta2)
            torch._foreach_addcmul_(second, slopes, slopes, value=1 - rule.beta2)
            lift = (1 - rule.beta2**self.steps) ** 0.5
            roots = torch._foreach_sqrt(second)
            torch._foreach_div_(roots, lift)
            torch._foreach_add_(roots, rule.epsilon)
            slopes = list(torch._foreach_div(first, roots))
            rate = 1 - rule.momentum**self.steps
            add(blocks, slopes, -rule.rate / rate)
        else:
            if rule.weight_decay:
                add(slopes, blocks, rule.weight_decay)
            if rule.momentum:
                torch._foreach_mul_(first, rule.momentum)
                add(first, slopes, 1.0)
                slopes = first
            if rule.second == "adagrad":
                torch._foreach_addcmul_(second, slopes, slopes)
                roots = torch._foreach_sqrt(second)
                torch._foreach_add_(roots, rule.epsilon)
                slopes = list(torch._foreach_div(slopes, roots))
            add(blocks, slopes, -rule.rate)
        for at, stays in enumerate(rule.frozen):
            if stays:
                blocks[at].copy_(kept[at])
