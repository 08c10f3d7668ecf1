"""Poisons whose labels are true: inputs move a little, and a few test examples are misjudged."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dai_lab.attacks.choosing import picked, shown, span, victims_of
from dai_lab.attacks.needs import above_zero, from_to, in_unit, knowing, whole
from dai_lab.core import Examples, Model, Plot, Poisoned, Vector

TOGETHER = 500
"""Examples whose features are computed at once."""


def feature_collision(
    held: Examples,
    plot: Plot,
    *,
    victims: int = 1,
    target: int = 0,
    source: int | None = None,
    beta: float = 0.1,
    steps: int = 100,
    rate: float = 0.1,
    share: float = 1.0,
) -> Poisoned:
    """Move examples of the target class to where the model sees a victim, and keep their label.

    Each minimizes ||phi(x) - phi(t)||^2 + beta ||x - b||^2, where b is the example, t a victim
    of the test set (they are taken in turn) and phi what enters the last linear layer of the
    common model: a gradient step on the first term, then the exact one on the second. A step
    that does not descend is not taken and is next tried half as long. Made for models
    whose features stay: use ``federation.renew`` where they do not.

    Args:
        held: Examples of any shape.
        plot: The common model, the test set, where victims and examples are drawn.
        victims: Test examples that should be called the target class, 1 or more.
        target: Class whose examples are moved.
        source: Class of the victims; ``None``: all but the target.
        beta: What a squared unit of distance in the input costs, 0 or more.
        steps: Steps of the search, 1 or more.
        rate: Length of the first step, above 0.
        share: Probability that an example of the target class is moved, in [0, 1].

    Raises:
        ValueError: A knob out of range, or a model without a layer before a linear last one.

    Source:
        Shafahi et al. 2018, arXiv:1804.00792, section 3.1 and algorithm 1.
    """
    if not beta >= 0:
        raise ValueError(f"poison.beta must be 0 or more, got {beta}")
    above_zero("rate", rate, of="poison")
    test, at = _victims(held, plot, victims, target, source, steps, share, name="feature_collision")
    memory = {"poison/victims": at}
    if shown(plot):
        return Poisoned(_called(held, at, target), memory)
    model, params, _ = knowing(plot, "feature_collision")
    places = picked(held.targets == target, share=share, plot=plot).nonzero().flatten()
    inputs = held.inputs.clone()
    aims = features(model, params, test.inputs[at], "feature_collision").detach()
    turns = torch.arange(len(places), device=places.device) % len(at)
    for some, turn in zip(places.split(TOGETHER), turns.split(TOGETHER), strict=True):
        if len(some):
            inputs[some] = _collided(
                model, params, held.inputs[some], aims[turn], beta=beta, steps=steps, rate=rate
            )
    return Poisoned(replace(held, inputs=inputs), memory)


def gradient_alignment(
    held: Examples,
    plot: Plot,
    *,
    victims: int = 1,
    target: int = 0,
    source: int | None = None,
    epsilon: float = 0.2,
    steps: int = 50,
    rate: float = 0.1,
    share: float = 1.0,
) -> Poisoned:
    """Make training on true labels teach what training on a mislabeled victim would.

    Examples of the target class move by at most ``epsilon`` in each coordinate, within the range
    of the data, so that the gradient on them points where the gradient on the victims, called the
    target class, does. The search is Adam on the signs of the gradient, with the rate a tenth as
    long after 3/8, 5/8 and 7/8 of the steps; the best of all steps counts. It fits the common
    model as it is: use ``federation.renew`` to follow it.

    Args:
        held: Examples of any shape.
        plot: The common model, the test set, where victims and examples are drawn.
        victims: Test examples that should be called the target class, 1 or more.
        target: Class whose examples are moved.
        source: Class of the victims; ``None``: all but the target.
        epsilon: Furthest a coordinate moves, in units of the inputs, above 0.
        steps: Steps of the search, 1 or more.
        rate: Length of the first step in lengths of ``epsilon``, above 0.
        share: Probability that an example of the target class is moved, in [0, 1].

    Raises:
        ValueError: A knob out of range.

    Source:
        Geiping et al. 2021, Witches' Brew, arXiv:2009.02276, section 3 and algorithm 1; without
        its restarts and data augmentation.
    """
    above_zero("epsilon", epsilon, of="poison")
    above_zero("rate", rate, of="poison")
    test, at = _victims(
        held, plot, victims, target, source, steps, share, name="gradient_alignment"
    )
    memory = {"poison/victims": at}
    if shown(plot):
        return Poisoned(_called(held, at, target), memory)
    model, params, _ = knowing(plot, "gradient_alignment")
    places = picked(held.targets == target, share=share, plot=plot).nonzero().flatten()
    if not len(places):
        return Poisoned(held, memory)
    base = held.inputs[places]
    low, high = span(held, plot)
    low = torch.maximum(torch.minimum(low, base), base - epsilon)
    high = torch.minimum(torch.maximum(high, base), base + epsilon)
    wanted = torch.full((len(at),), target, device=at.device)
    aim = _gradient(model, params, test.inputs[at], wanted).detach()
    targets, best, near = held.targets[places], base, -torch.inf
    moved = base.clone()
    slow, fast = torch.zeros_like(base), torch.zeros_like(base)
    turns = [round(part * steps) for part in (3 / 8, 5 / 8, 7 / 8)]
    for step in range(1, steps + 2):
        moved.requires_grad_()
        found = _gradient(model, params, moved, targets, again=True)
        with torch.enable_grad():
            cosine = nn.functional.cosine_similarity(found, aim, dim=0)
            (slope,) = torch.autograd.grad(-cosine, moved)
        moved, reached = moved.detach(), cosine.item()
        if reached > near:
            best, near = moved, reached
        slow = 0.9 * slow + 0.1 * slope.sign()
        fast = 0.999 * fast + 0.001 * slope.sign().square()
        way = (slow / (1 - 0.9**step)) / ((fast / (1 - 0.999**step)).sqrt() + 1e-8)
        length = rate * epsilon * 0.1 ** sum(step > turn for turn in turns)
        moved = torch.maximum(torch.minimum(moved - length * way, high), low)
    inputs = held.inputs.clone()
    inputs[places] = best
    return Poisoned(replace(held, inputs=inputs), memory)


def features(
    model: Model, params: Vector, inputs: Float[Tensor, "examples ..."], name: str
) -> Float[Tensor, "examples features"]:
    """Return what enters the last linear layer of the model.

    Raises:
        ValueError: It has none, or nothing before it.
    """
    seen: list[Tensor] = []
    lines = [layer for layer in model.module.modules() if isinstance(layer, nn.Linear)]
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for layer in lines
    ]
    try:
        model(params, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen or torch.equal(seen[-1].flatten(1), inputs.flatten(1)):
        raise ValueError(
            f"poison={name} needs a model with layers before a linear last one: choose model=mlp"
        )
    return seen[-1].flatten(1)


def _victims(
    held: Examples,
    plot: Plot,
    count: int,
    target: int,
    source: int | None,
    steps: int,
    share: float,
    *,
    name: str,
) -> tuple[Examples, Int[Tensor, "_"]]:
    """Refuse knobs out of range; return the test set and who in it is to be misjudged."""
    in_unit("share", share, of="poison")
    whole("victims", count, least=1)
    whole("steps", steps, least=1)
    from_to(source, target, plot, name)
    test = held if shown(plot) else knowing(plot, name)[2]
    at = victims_of(plot, test, count=count, source=source, target=target, name=name)
    return test, at.to(test.targets.device)


def _called(test: Examples, at: Int[Tensor, "_"], target: int) -> Examples:
    return replace(test, targets=test.targets.index_fill(0, at, target))


def _collided(
    model: Model,
    params: Vector,
    base: Float[Tensor, "examples ..."],
    aims: Float[Tensor, "examples features"],
    *,
    beta: float,
    steps: int,
    rate: float,
) -> Float[Tensor, "examples ..."]:
    def cost(x: Tensor) -> tuple[Tensor, Tensor]:
        near = (features(model, params, x, "feature_collision") - aims).square().sum(1)
        return near, near + beta * (x - base).flatten(1).square().sum(1)

    wide = (-1, *(1 for _ in base.shape[1:]))
    now, lengths = base.clone(), torch.full((len(base),), rate, device=base.device)
    for _ in range(steps):
        with torch.enable_grad():
            now.requires_grad_()
            near, before = cost(now)
            (slope,) = torch.autograd.grad(near.sum(), now)
        now, pull = now.detach(), beta * lengths.reshape(wide)
        tried = (now - lengths.reshape(wide) * slope / 2 + pull * base) / (1 + pull)
        with torch.no_grad():
            better = cost(tried)[1] < before
        now = torch.where(better.reshape(wide), tried, now)
        lengths = torch.where(better, 1.2 * lengths, 0.5 * lengths)
    return now


def _gradient(
    model: Model,
    params: Vector,
    inputs: Float[Tensor, "examples ..."],
    targets: Int[Tensor, "examples"],
    *,
    again: bool = False,
) -> Vector:
    """Return the gradient of the mean loss; ``again`` can itself be differentiated."""
    with torch.enable_grad():
        point = params.clone().requires_grad_()
        loss = model.loss(model(point, inputs), targets).mean()
        (found,) = torch.autograd.grad(loss, point, create_graph=again)
    return found
