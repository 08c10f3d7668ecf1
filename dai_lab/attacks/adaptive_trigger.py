"""A backdoor whose trigger is found, against a model that tries to unlearn it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dai_lab.attacks.choosing import relabeled, shown, span
from dai_lab.attacks.needs import above_zero, from_to, in_unit, knowing, pictures, whole
from dai_lab.core import Examples, Model, Plot, Poisoned, Vector


def a3fl(
    held: Examples,
    plot: Plot,
    *,
    size: int = 5,
    margin: int = 2,
    steps: int = 30,
    rate: float = 0.02,
    balance: float = 1.0,
    unlearn: int = 5,
    unlearn_rate: float = 0.05,
    batch: int = 256,
    share: float = 0.5,
    target: int = 0,
    source: int | None = None,
) -> Poisoned:
    """Search the square patch that is answered with the target class, now and once unlearned.

    The trigger minimizes its loss on the common model plus lambda times that on a copy which
    is trained, from the common model on and anew in every step, to answer the trigger with the
    true classes; lambda is ``balance`` times the cosine of the two models. Steps are signs of the
    gradient, within the range of the data. It is remembered: renewed poison
    (``federation.renew``) goes on from it, and what is shown has the last. It begins gray.

    Args:
        held: Pictures.
        plot: The common model, the last trigger, the test set, where examples are drawn.
        size: Height and width of the patch in pixels, 1 or more.
        margin: Pixels between it and the top left edges, 0 or more.
        steps: Steps of the search, 0 or more.
        rate: Length of a step as a share of each channel's range, above 0.
        balance: lambda_0, 0 or more; 0 leaves the unlearning model out.
        unlearn: Steps of unlearning, 0 or more.
        unlearn_rate: Learning rate of unlearning, above 0.
        batch: Examples, drawn anew for each step, on which all this is done, 1 or more.
        share: Probability that an example is poisoned, in [0, 1].
        target: What the trigger should be answered with.
        source: Class whose examples are poisoned, and judged; ``None``: all but the target.

    Raises:
        ValueError: A knob out of range, a patch larger than the pictures, or no pictures.

    Source:
        Zhang et al. 2023, A3FL: Adversarially Adaptive Backdoor Attacks to Federated Learning
        (NeurIPS), section 4 and algorithm 1.
    """
    in_unit("share", share, of="poison")
    for knob, count, least in (
        ("size", size, 1),
        ("margin", margin, 0),
        ("steps", steps, 0),
        ("unlearn", unlearn, 0),
        ("batch", batch, 1),
    ):
        whole(knob, count, least=least)
    above_zero("rate", rate, of="poison")
    above_zero("unlearn_rate", unlearn_rate, of="poison")
    if not balance >= 0:
        raise ValueError(f"poison.balance must be 0 or more, got {balance}")
    from_to(source, target, plot, "a3fl")
    height, width = pictures(held, "a3fl")
    if size + margin > min(height, width):
        raise ValueError(
            f"poison.size must leave the patch, {margin} from the edges, within pictures of "
            f"{height} x {width}, got {size}: lower it or poison.margin"
        )
    low, high = span(held, plot)
    trigger = plot.memory.get("poison/trigger")
    if trigger is None:
        trigger = ((low + high) / 2).expand(held.inputs.shape[1], size, size)
    trigger = trigger.clone()
    mask = torch.zeros(height, width, dtype=torch.bool, device=held.inputs.device)
    mask[margin : margin + size, margin : margin + size] = True
    room = (margin, width - margin - size, margin, height - margin - size)

    def marked(inputs: Tensor, trigger: Tensor) -> Tensor:
        return torch.where(mask, nn.functional.pad(trigger, room), inputs)

    if not shown(plot) and len(held):
        model, params, _ = knowing(plot, "a3fl")
        stream = (plot.key / "batches").stream()
        for _ in range(steps):
            few = torch.randperm(len(held), generator=stream)[:batch].to(held.targets.device)
            inputs, truth = held.inputs[few], held.targets[few]
            wary = params
            if balance:
                with torch.no_grad():
                    bad = marked(inputs, trigger)
                for _ in range(unlearn):
                    wary = wary - unlearn_rate * _slope(model, wary, bad, truth)
            weight = balance * float(nn.functional.cosine_similarity(params, wary, dim=0))
            wanted = torch.full_like(truth, target)
            with torch.enable_grad():
                trigger.requires_grad_()
                bad = marked(inputs, trigger)
                loss = model.loss(model(params, bad), wanted).mean()
                if weight:
                    loss = loss + weight * model.loss(model(wary, bad), wanted).mean()
                (slope,) = torch.autograd.grad(loss, trigger)
            trigger = trigger.detach() - rate * (high - low) * slope.sign()
            trigger = torch.maximum(torch.minimum(trigger, high), low)
    bad = marked(held.inputs, trigger)
    examples = relabeled(held, plot, bad, share=share, target=target, source=source)
    return Poisoned(examples, memory={"poison/trigger": trigger})


def _slope(
    model: Model,
    params: Vector,
    inputs: Float[Tensor, "examples ..."],
    targets: Int[Tensor, "examples"],
) -> Vector:
    with torch.enable_grad():
        point = params.clone().requires_grad_()
        (found,) = torch.autograd.grad(model.loss(model(point, inputs), targets).mean(), point)
    return found
