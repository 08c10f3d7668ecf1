"""Which examples a poison changes, and which numbers inputs may take."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dai_lab.core import Examples, Plot


def shown(plot: Plot) -> bool:
    """Tell whether the attacker says what the finished model should get wrong."""
    return plot.owners is None


def picked(
    among: Bool[Tensor, "examples"], *, share: float, plot: Plot
) -> Bool[Tensor, "examples"]:
    """Pick a share of these examples in training, and all of them where they are shown.

    Each is picked by a draw of its own, so that a larger share picks the same ones and more.
    """
    if shown(plot):
        return among
    draws = torch.rand(len(among), generator=(plot.key / "share").stream())
    return among & (draws < share).to(among.device)


def of_source(
    targets: Int[Tensor, "examples"], *, source: int | None, target: int
) -> Bool[Tensor, "examples"]:
    """Say which examples are of the source class; without one, which are not of the target's."""
    return targets != target if source is None else targets == source


def span(held: Examples, plot: Plot) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest value of each channel or feature.

    They are those of the test set where it is known, which is the same whenever the poison is
    called.
    """
    known = plot.victims if plot.victims is not None and len(plot.victims) else held
    inputs = known.inputs.to(held.inputs.device)
    over = [0, *range(2, inputs.dim())]
    if not len(inputs):
        zero = inputs.new_zeros((*inputs.shape[1:2], *(1 for _ in over[1:])))
        return zero, zero
    low, high = inputs.amin(over, keepdim=True)[0], inputs.amax(over, keepdim=True)[0]
    return low, high


def victims_of(
    plot: Plot, victims: Examples, *, count: int, source: int | None, target: int, name: str
) -> Int[Tensor, "_"]:
    """Draw test examples to be misjudged; once drawn, they are remembered.

    Raises:
        ValueError: The test set holds fewer of them.
    """
    kept = plot.memory.get("poison/victims")
    if kept is not None:
        return kept
    able = of_source(victims.targets, source=source, target=target).nonzero().flatten()
    if len(able) < count:
        raise ValueError(
            f"poison.victims must be at most the {len(able)} such test examples, got {count}: "
            f"poison={name} takes its victims from them"
        )
    order = torch.randperm(len(able), generator=(plot.key / "victims").stream())
    return able[order[:count].to(able.device)].sort().values


def relabeled(
    held: Examples,
    plot: Plot,
    marked: Float[Tensor, "examples ..."],
    *,
    share: float,
    target: int,
    source: int | None,
) -> Examples:
    """Mark a share of the examples and call them the target class."""
    among = of_source(held.targets, source=source, target=target)
    which = picked(among, share=share, plot=plot)
    targets = held.targets.masked_fill(which, target)
    return replace(held, inputs=where(which, marked, held.inputs), targets=targets)


def where(
    which: Bool[Tensor, "examples"],
    marked: Float[Tensor, "examples ..."],
    plain: Float[Tensor, "examples ..."],
) -> Float[Tensor, "examples ..."]:
    """Take the marked inputs of these examples, and the plain ones of all others."""
    return torch.where(which.reshape(-1, *(1 for _ in plain.shape[1:])), marked, plain)
