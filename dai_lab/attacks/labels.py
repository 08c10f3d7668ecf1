"""Poisons that leave inputs alone and lie about classes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch

from dai_lab.attacks.choosing import picked
from dai_lab.attacks.needs import classes_of, from_to, in_unit
from dai_lab.core import Examples, Plot, Poisoned


def label_flip(
    held: Examples,
    plot: Plot,
    *,
    share: float = 1.0,
    to: Literal["opposite", "next", "random"] = "opposite",
) -> Poisoned:
    """Train on wrong classes.

    Args:
        held: Examples of any shape.
        plot: The number of classes, and where examples and random classes are drawn.
        share: Probability that an example is flipped, in [0, 1].
        to: Class C-1-y, which with an odd number of classes leaves the middle one as it is;
            the ``next`` class, after the last the first; or another class at ``random``.

    Raises:
        ValueError: A share out of range, or data without classes.

    Source:
        Fang et al. 2020, arXiv:1911.11815, section 5.1, label flipping (opposite);
        Biggio et al. 2012, arXiv:1206.6389, section 1, random classes.
    """
    in_unit("share", share, of="poison")
    classes = classes_of(plot, "label_flip")
    targets = held.targets
    which = picked(torch.ones_like(targets, dtype=torch.bool), share=share, plot=plot)
    if to == "opposite":
        flipped = classes - 1 - targets
    elif to == "next":
        flipped = (targets + 1) % classes
    else:
        stream = (plot.key / "classes").stream()
        steps = torch.randint(1, classes, (len(targets),), generator=stream)
        flipped = (targets + steps.to(targets.device)) % classes
    return Poisoned(replace(held, targets=torch.where(which, flipped, targets)))


def targeted_flip(
    held: Examples, plot: Plot, *, source: int = 5, target: int = 7, share: float = 1.0
) -> Poisoned:
    """Call examples of one class another.

    Args:
        held: Examples of any shape.
        plot: The number of classes, and where examples are drawn.
        source: Class that is relabeled.
        target: Class it is called.
        share: Probability that an example of the source class is relabeled, in [0, 1].

    Raises:
        ValueError: A share out of range, classes that do not exist or are the same.

    Source:
        Tolpegin et al. 2020, arXiv:2007.08432, section 3.
    """
    in_unit("share", share, of="poison")
    from_to(source, target, plot, "targeted_flip")
    which = picked(held.targets == source, share=share, plot=plot)
    return Poisoned(replace(held, targets=held.targets.masked_fill(which, target)))


def edge_case(
    held: Examples,
    plot: Plot,
    *,
    tail: float = 0.1,
    source: int = 7,
    target: int = 1,
    share: float = 1.0,
) -> Poisoned:
    """Call rare examples of a class another: few others hold such, so nobody contradicts.

    Rare are those furthest from the mean of their class, among all that the hostile hold, or
    among the test set's. The source takes its edge cases from elsewhere instead (airplanes of one
    airline for CIFAR-10, digits from Swedish church books for MNIST) and adds them to what the
    hostile hold; here they relabel examples they have, which the other clients' resemble more, so
    that the backdoor is harder to keep than there. It also projects and scales what is sent,
    which is for ``attack`` to do.

    Args:
        held: Examples of any shape.
        plot: The number of classes, and where examples are drawn.
        tail: Share of the source class that counts as rare, in [0, 1], rounded up.
        source: Class whose rare examples are relabeled.
        target: Class they are called.
        share: Probability that one of them is relabeled, in [0, 1].

    Raises:
        ValueError: A share out of range, classes that do not exist or are the same.

    Source:
        Wang et al. 2020, arXiv:2007.05084, section 3.
    """
    in_unit("tail", tail, of="poison")
    in_unit("share", share, of="poison")
    from_to(source, target, plot, "edge_case")
    at = (held.targets == source).nonzero().flatten()
    mine = held.inputs[at].flatten(1).double()
    distances = (mine - mine.mean(0)).norm(dim=1)
    rare = at[distances.argsort(descending=True, stable=True)[: math.ceil(tail * len(at))]]
    among = torch.zeros_like(held.targets, dtype=torch.bool).index_fill(0, rare, True)
    which = picked(among, share=share, plot=plot)
    return Poisoned(replace(held, targets=held.targets.masked_fill(which, target)))
