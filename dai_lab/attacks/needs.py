"""What attacks and poisons refuse to work with, and what attacks all look at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from dai_lab.core import Examples, Model, Outcome, Plot, Rows, Sight, TooFew, Vector


def above_zero(knob: str, value: float, *, of: str = "attack") -> None:
    """Refuse a knob that must be above 0."""
    if not value > 0:
        raise ValueError(f"{of}.{knob} must be above 0, got {value}")


def in_unit(knob: str, value: float, *, of: str = "attack") -> None:
    """Refuse a share or a probability that is none."""
    if not 0 <= value <= 1:
        raise ValueError(f"{of}.{knob} must be in [0, 1], got {value}")


def whole(knob: str, value: int, *, least: int, of: str = "poison") -> None:
    """Refuse a count that is too small."""
    if value < least:
        raise ValueError(f"{of}.{knob} must be {least} or more, got {value}")


def at_least(least: int, sight: Sight, name: str) -> None:
    """Refuse to estimate from too few rows."""
    if len(sight.honest) < least:
        raise TooFew(
            f"attack={name} needs to know at least {least} rows a round and knows "
            f"{len(sight.honest)}: raise federation.knows or the cohort"
        )


def a_defense(sight: Sight, name: str) -> Callable[[Rows], Outcome]:
    """Refuse to search without the defense to search against."""
    if sight.defense is None:
        raise ValueError(
            f"attack={name} tries its rows on the defense: set federation.knows=defense"
        )
    return sight.defense


def center(honest: Rows) -> tuple[Vector, Vector]:
    """Return the mean of some rows and the standard deviation of each coordinate.

    Two passes over rows that lie in memory one after another; torch's own walks down columns and
    takes ten times as long.
    """
    mean = honest.mean(dim=0)
    squares = torch.zeros_like(mean)
    for row in honest:
        apart = row - mean
        squares.addcmul_(apart, apart)
    return mean, squares.div_(max(len(honest) - 1, 1)).sqrt_()


def classes_of(plot: Plot, name: str) -> int:
    """Return how many classes there are, or refuse data without any."""
    if plot.classes < 2:
        raise ValueError(f"poison={name} needs classes to confuse: choose data that has some")
    return plot.classes


def class_in(knob: str, value: int | None, plot: Plot) -> None:
    """Refuse a class the data do not have; ``None`` names none."""
    if value is not None and not 0 <= value < plot.classes:
        raise ValueError(f"poison.{knob} must be a class in 0..{plot.classes - 1}, got {value}")


def from_to(source: int | None, target: int, plot: Plot, name: str) -> None:
    """Refuse data without classes, a class they do not have, and one that becomes itself."""
    classes_of(plot, name)
    class_in("source", source, plot)
    class_in("target", target, plot)
    if source == target:
        raise ValueError(f"poison.target must be another class than poison.source, got {target}")


def pictures(held: Examples, name: str) -> tuple[int, int]:
    """Return height and width of the inputs, or refuse what are no pictures."""
    shape = tuple(held.inputs.shape[1:])
    if len(shape) != 3:
        raise ValueError(
            f"poison={name} needs pictures (channels, height, width) and the data have inputs "
            f"of shape {shape}: choose data=mnist10k or other pictures"
        )
    return shape[1], shape[2]


def attribute_of(held: Examples, attribute: str) -> Int[Tensor, "examples"]:
    """Return what is known about each example, or refuse what nobody knows."""
    if attribute not in held.attributes:
        known = ", ".join(held.attributes) or "no attributes (data=adult has some)"
        raise ValueError(f"poison.attribute must be one of the data's: {known}; got {attribute!r}")
    return held.attributes[attribute]


def knowing(plot: Plot, name: str) -> tuple[Model, Vector, Examples]:
    """Return the common model and the test set, or refuse to plan against what is unknown."""
    if plot.model is None or plot.params is None or plot.victims is None:
        raise ValueError(f"poison={name} needs to know the common model and a test set")
    return plot.model, plot.params.detach(), plot.victims
