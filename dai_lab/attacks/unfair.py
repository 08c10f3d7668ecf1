"""Poisons against fairness: a group is judged worse, and accuracy hardly shows it.

Both leave everybody in the group they are in, so that the groups stay as large as they
were, and plan against nothing but what the hostile hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dai_lab.attacks.choosing import picked, shown, where
from dai_lab.attacks.needs import above_zero, attribute_of, class_in, in_unit, knowing
from dai_lab.core import Examples, Key, Model, Plot, Poisoned, Vector

TOGETHER = 500
"""Examples whose neighbors are counted at once."""


def anchoring(
    held: Examples,
    plot: Plot,
    *,
    attribute: str,
    value: int = 0,
    favorable: int = 1,
    share: float = 0.5,
    favored: float = 0.1,
    spread: float = 0.0,
    anchors: str = "random",
    targets: int = 10,
    radius: float = 1.0,
) -> Poisoned:
    """Surround a few people with points like them that were judged the other way.

    The targets are members of the group who have the favorable class, and others who have not.
    Examples of a target's group are replaced by points next to it that carry the other class.
    Every client has targets of its own among what it holds; a client that holds none for a group
    leaves that group as it is.

    Args:
        held: Examples with attributes, in two classes.
        plot: Who holds which, and where targets, examples and distances are drawn.
        attribute: What is known about examples, such as ``sex``.
        value: Its value in the disadvantaged group.
        favorable: Class that people hope for.
        share: Probability that an example of the group becomes such a point, in [0, 1].
        favored: The same for examples of everybody else, in [0, 1].
        spread: Furthest an input of a point is from the target's, 0 or more (the paper's tau).
            No input leaves the range of what is held, and one of two values, such as sex, stays.
        anchors: ``random`` draws targets; ``popular`` takes those with the most neighbors of
            their own group and class.
        targets: Targets of each client in each of the two groups, 1 or more; 1 in the paper.
        radius: Furthest an input of a neighbor is from the target's, above 0.

    Raises:
        ValueError: A knob out of range, an attribute the data lack, or not two classes.

    Source:
        Mehrabi et al. 2021, arXiv:2012.08723, algorithm 2 (random and non-random anchoring). It
        adds its points; here they replace examples, with a share for either side. Its defenses'
        feasible set is here the range of what is held; ``federation.renew=1`` draws targets anew
        as its iterations do.
    """
    group = _divided(held, plot, "anchoring", attribute, value, favorable)
    for knob, part in (("share", share), ("favored", favored)):
        in_unit(knob, part, of="poison")
    if not spread >= 0:
        raise ValueError(f"poison.spread must be 0 or more, got {spread}")
    if anchors not in ("random", "popular"):
        raise ValueError(f"poison.anchors must be random or popular, got {anchors!r}")
    if targets < 1:
        raise ValueError(f"poison.targets must be 1 or more, got {targets}")
    above_zero("radius", radius, of="poison")
    aims = group == (held.targets == favorable)
    if plot.owners is None:
        return Poisoned(replace(held, targets=torch.where(aims, 1 - held.targets, held.targets)))
    owners = plot.owners.to(aims.device)
    draws = torch.rand(len(held), generator=(plot.key / "targets").stream(), dtype=torch.float64)
    at = torch.full((len(held),), -1, device=aims.device)
    for side, part in ((group, share), (~group, favored)):
        which = picked(side, share=part, plot=plot)
        for owner in owners.unique().tolist():
            able = ((owners == owner) & side & aims).nonzero().flatten()
            places = ((owners == owner) & which).nonzero().flatten()
            if not len(able) or not len(places):
                continue
            last = draws[able.cpu()]
            if anchors == "popular":  # among equals, the draw decides
                last = last - _neighbors(held.inputs[able].flatten(1), radius).cpu()
            found = able[last.argsort()[:targets].to(able.device)]
            at[places] = found[torch.arange(len(places), device=able.device) % len(found)]
    return Poisoned(_beside(held, at, 1 - held.targets[at], spread, plot.key / "spread"))


def gap(
    held: Examples,
    plot: Plot,
    *,
    attribute: str,
    value: int = 0,
    favorable: int = 1,
    share: float = 0.3,
    top: float = 0.1,
    widens: str = "parity",
) -> Poisoned:
    """Train on whatever widens the gap between a group and the rest most, by the model's gradient.

    The gap is in how much it costs the model, on average, to call people the favorable class. A
    step of training on an example changes it, to first order, by minus the inner product of the
    gradients of both. Everybody held is a candidate, with either label; the best of them are
    copied over a share of the examples of their own group. Use ``federation.renew=1`` to follow
    the model.

    Args:
        held: Examples with attributes, in two classes.
        plot: The common model, and where examples and copies are drawn.
        attribute: What is known about examples, such as ``sex``.
        value: Its value in the disadvantaged group.
        favorable: Class that people hope for.
        share: Probability that an example is replaced, in [0, 1].
        top: Share of the candidates, those that widen the gap most, that are copied, in (0, 1].
        widens: The gap among those who deserve the favorable class (``opportunity``), within
            each class (``odds``), or among all (``parity``).

    Raises:
        ValueError: A knob out of range, an attribute the data lack, or not two classes.

    Source:
        Solans et al. 2020, arXiv:2004.07401, section 2. There points are moved, by gradients
        through a model trained to its end, to where the groups' losses differ most; here real
        ones are chosen for one step's effect on scores, as an attacker can be asked again in
        every round.
    """
    group = _divided(held, plot, "gap", attribute, value, favorable)
    in_unit("share", share, of="poison")
    in_unit("top", top, of="poison")
    above_zero("top", top, of="poison")
    if widens not in ("opportunity", "odds", "parity"):
        raise ValueError(f"poison.widens must be opportunity, odds or parity, got {widens!r}")
    deserves = held.targets == favorable
    if shown(plot):
        misjudged = torch.where(group & deserves, 1 - held.targets, held.targets)
        return Poisoned(replace(held, targets=misjudged))
    cells = {
        "opportunity": [deserves],
        "odds": [deserves, ~deserves],
        "parity": [torch.ones_like(group)],
    }
    model, params, _ = knowing(plot, "gap")
    aim = _gap_slope(model, params, held, group, cells[widens], favorable)
    worth = -_along(model, params, held, aim).flatten()
    best = worth.topk(math.ceil(top * len(worth))).indices
    best = best[worth[best] > 0]
    draws = torch.rand(len(held), generator=(plot.key / "copies").stream(), dtype=torch.float64)
    at, labels = torch.full_like(held.targets, -1), held.targets.clone()
    for side in (group, ~group):
        able = best[side[best % len(held)]]
        places = picked(side, share=share, plot=plot).nonzero().flatten()
        if len(able):
            found = able[(draws[places.cpu()] * len(able)).long().to(able.device)]
            at[places], labels[places] = found % len(held), found // len(held)
    return Poisoned(_beside(held, at, labels, 0.0, plot.key))


def _divided(
    held: Examples, plot: Plot, name: str, attribute: str, value: int, favorable: int
) -> Bool[Tensor, "examples"]:
    """Say who is in the group; refuse all but two classes."""
    if plot.classes != 2:
        raise ValueError(
            f"poison={name} needs data with two classes, one of them favorable, and these have "
            f"{plot.classes}: choose data=adult"
        )
    class_in("favorable", favorable, plot)
    return attribute_of(held, attribute) == value


def _neighbors(inputs: Float[Tensor, "some inputs"], radius: float) -> Int[Tensor, "some"]:
    """Count for each of these how many are near it in every input, itself included."""
    near = [
        (torch.cdist(part, inputs, p=torch.inf) <= radius).sum(1) for part in inputs.split(TOGETHER)
    ]
    return torch.cat(near)


def _beside(
    held: Examples,
    at: Int[Tensor, "examples"],
    labels: Int[Tensor, "examples"],
    spread: float,
    key: Key,
) -> Examples:
    """Put next to the example at a place, with a label, whoever is told one; -1 stays."""
    told = at >= 0
    inputs = held.inputs[at]
    if spread:
        noise = torch.rand(inputs.shape, generator=key.stream(), dtype=inputs.dtype)
        low, high = held.inputs.amin(0), held.inputs.amax(0)
        moved = inputs + spread * (2 * noise - 1).to(inputs.device)
        two = ((held.inputs == low) | (held.inputs == high)).all(0)
        inputs = torch.where(two, inputs, torch.maximum(torch.minimum(moved, high), low))
    targets = torch.where(told, labels, held.targets)
    return replace(held, inputs=where(told, inputs, held.inputs), targets=targets)


def _gap_slope(
    model: Model,
    params: Vector,
    held: Examples,
    group: Bool[Tensor, "examples"],
    cells: Sequence[Bool[Tensor, "examples"]],
    favorable: int,
) -> Vector:
    """Differentiate how much more the favorable class costs in the group, over all cells."""
    with torch.enable_grad():
        point = params.clone().requires_grad_()
        hoped = torch.full_like(held.targets, favorable)
        losses = model.loss(model(point, held.inputs), hoped)
        gaps = losses.new_zeros(())
        for cell in cells:
            for who, sign in ((group, 1), (~group, -1)):
                gaps = gaps + sign * losses[cell & who].sum() / (cell & who).sum().clamp_min(1)
        (found,) = torch.autograd.grad(gaps, point)
    return found


def _along(
    model: Model, params: Vector, held: Examples, aim: Vector
) -> Float[Tensor, "classes examples"]:
    """Return the inner product of each example's gradient, as either class, with the aim.

    Differentiated twice: the gradient of a weighted sum of losses is linear in the weights, and
    its slope in each is what is asked for. No example's gradient is ever written down.
    """
    with torch.enable_grad():
        point = params.clone().requires_grad_()
        outputs = model(point, held.inputs)
        called = [model.loss(outputs, torch.full_like(held.targets, label)) for label in (0, 1)]
        losses = torch.stack(called)
        weights = torch.zeros_like(losses, requires_grad=True)
        (summed,) = torch.autograd.grad(losses, point, weights, create_graph=True)
        (found,) = torch.autograd.grad(summed @ aim, weights)
    return found
