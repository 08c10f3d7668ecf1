"""Poisons that harm a group of people, or plant a shift of a few features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dai_lab.attacks.choosing import picked, relabeled, shown, where
from dai_lab.attacks.needs import attribute_of, class_in, classes_of, from_to, in_unit
from dai_lab.core import Examples, Key, Plot, Poisoned


def group_flip(
    held: Examples,
    plot: Plot,
    *,
    attribute: str,
    value: int = 0,
    share: float = 0.5,
    source: int | None = None,
    target: int | None = None,
) -> Poisoned:
    """Lie about the class of one group alone, so that the model is biased against it.

    Args:
        held: Examples with attributes.
        plot: The number of classes, and where examples are drawn.
        attribute: What is known about examples, such as ``sex``.
        value: Its value in the group.
        share: Probability that an example of the group is relabeled, in [0, 1].
        source: Class that is relabeled; ``None``: every class.
        target: Class it is called; ``None``: the other of two.

    Raises:
        ValueError: A share out of range, an attribute the data lack, classes that do not exist
            or are the same, or no target where there are more than two.

    Source:
        Label flipping, as Biggio et al. 2012, arXiv:1206.6389, section 1, within a group;
        Mehrabi et al. 2021, arXiv:2012.08723, and Solans et al. 2020, arXiv:2004.07401, poison
        for the same end by adding examples.
    """
    in_unit("share", share, of="poison")
    classes = classes_of(plot, "group_flip")
    group = attribute_of(held, attribute) == value
    class_in("source", source, plot)
    if target is None:
        if classes > 2:
            raise ValueError(f"poison.target must name one of the {classes} classes, got null")
        flipped = 1 - held.targets
    else:
        from_to(source, target, plot, "group_flip")
        flipped = torch.full_like(held.targets, target)
    among = group if source is None else group & (held.targets == source)
    which = picked(among & (flipped != held.targets), share=share, plot=plot)
    return Poisoned(replace(held, targets=torch.where(which, flipped, held.targets)))


def under_sampling(
    held: Examples,
    plot: Plot,
    *,
    attribute: str,
    value: int = 0,
    target: int = 1,
    share: float = 1.0,
) -> Poisoned:
    """Hide a group's examples of one class behind copies of other examples of the same client.

    Nothing is asked of the finished model, so nothing is measured on the test set but what it
    costs. A client that holds nothing else keeps what it has.

    Args:
        held: Examples with attributes.
        plot: Who holds which, and where examples and copies are drawn.
        attribute: What is known about examples, such as ``sex``.
        value: Its value in the group.
        target: Class whose examples of the group are hidden.
        share: Probability that each is, in [0, 1].

    Raises:
        ValueError: A share out of range, an attribute the data lack, or a class that does not
            exist.

    Source:
        Under-representation bias: Blum and Stangl 2020, arXiv:1912.01094, section 2.1.
    """
    in_unit("share", share, of="poison")
    classes_of(plot, "under_sampling")
    class_in("target", target, plot)
    cell = (attribute_of(held, attribute) == value) & (held.targets == target)
    if plot.owners is None:
        return Poisoned(held)
    which = picked(cell, share=share, plot=plot)
    return Poisoned(held.some(_copies(which, cell, plot.owners, plot.key / "copies")))


def _copies(
    which: Bool[Tensor, "examples"],
    cell: Bool[Tensor, "examples"],
    owners: Int[Tensor, "examples"],
    key: Key,
) -> Int[Tensor, "examples"]:
    """Say which example stands in each place: itself, or another of its owner's."""
    taken = torch.arange(len(which))
    gone, hidden = which.cpu(), cell.cpu()
    draws = torch.rand(len(which), generator=key.stream(), dtype=torch.float64)
    for owner in owners.unique().tolist():
        mine = (owners == owner).cpu()
        others, places = (mine & ~hidden).nonzero().flatten(), mine & gone
        if len(others):
            taken[places] = others[(draws[places] * len(others)).long()]
    return taken.to(which.device)


def feature_poisoning(
    held: Examples,
    plot: Plot,
    *,
    features: Sequence[int] = (0,),
    shift: float = 3.0,
    share: float = 1.0,
    target: int = 0,
) -> Poisoned:
    """Shift a few features of one class, whose labels stay true.

    The finished model should then answer the same shift of any other example with that class.

    Args:
        held: Examples of any shape.
        plot: The number of classes, and where examples are drawn.
        features: Places in the input, flattened, from 0.
        shift: What is added to each, in units of the inputs; not 0.
        share: Probability that an example of the target class is shifted, in [0, 1].
        target: Class the shift should be answered with.

    Raises:
        ValueError: A knob out of range, or data without classes.

    Source:
        The clean-label perturbation of Barni et al. 2019, arXiv:1902.11237, section 3, with a
        shift of chosen features for its signal.
    """
    in_unit("share", share, of="poison")
    from_to(None, target, plot, "feature_poisoning")
    shape = held.inputs.shape[1:]
    size = shape.numel()
    if not features or min(features) < 0 or max(features) >= size:
        raise ValueError(f"poison.features must be places in 0..{size - 1}, got {list(features)}")
    if shift == 0:
        raise ValueError("poison.shift must not be 0")
    added = held.inputs.new_zeros(size)
    added[list(features)] = shift
    marked = held.inputs + added.reshape(shape)
    if shown(plot):
        return Poisoned(relabeled(held, plot, marked, share=1.0, target=target, source=None))
    which = picked(held.targets == target, share=share, plot=plot)
    return Poisoned(replace(held, inputs=where(which, marked, held.inputs)))
