"""Which classes a gradient was computed from: the last layer tells before any search begins.

Of one example, the gradient of the last layer's bias is what the network thinks of each class minus
what is true: below zero for one class only. Of many it is the mean of that, and what the
network thinks of a class can be guessed from inputs of one's own.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dai_lab.core import Key, Model, Vector, cross_entropy


def last_layer(model: Model, flat: Vector) -> tuple[Tensor, Tensor | None]:
    """See the weights ``[classes, features]`` and the bias ``[classes]`` of the last layer.

    Args:
        model: Its parameters lie in the order in which they are used.
        flat: Parameters, or a gradient of them.

    Raises:
        ValueError: No classes are told apart, or the last layer is not linear.
    """
    if model.loss is not cross_entropy:
        raise ValueError("audit: gradients are read for their classes: choose data with classes")
    *others, last = model.views(flat).values()
    if last.ndim == 2:
        return last, None
    if last.ndim == 1 and others and others[-1].shape[:1] == last.shape and others[-1].ndim == 2:
        return others[-1], last
    raise ValueError(
        "audit: labels are read from a linear last layer, and this one's parameters have the "
        f"shape {tuple(last.shape)}: choose another model"
    )


def one_label(model: Model, seen: Vector) -> int:
    """Read the class of a single example from its gradient.

    With a bias this is always right; without one, where there are three classes or more and the
    network does not give one wrong class all of its belief.

    Args:
        model: See :func:`last_layer`.
        seen: The gradient, on any scale above 0.

    Raises:
        ValueError: See :func:`last_layer`.

    Source:
        Zhao et al. 2020 (iDLG), arXiv:2001.02610, section 3.
    """
    weights, bias = last_layer(model, seen)
    if bias is not None:
        return int(bias.argmin())
    # Row c is what is thought of c too much, times the same features: only the true one's factor
    # is negative, so it is opposed to all the others.
    return int((weights @ weights.sum(0) - weights.square().sum(1)).argmin())


def counts(
    model: Model,
    params: Vector,
    seen: Vector,
    *,
    examples: int,
    shape: tuple[int, ...],
    key: Key,
    probes: int = 256,
    clipped: bool = False,
) -> Int[Tensor, "classes"]:
    """Estimate how many of the examples behind a mean gradient are of each class.

    The bias's gradient is the mean belief in a class minus the share of the class. That belief is
    guessed from random inputs, which is exact for a network that believes the same of every
    input, close for one that has not learned yet, and worse the more it knows.

    Args:
        model: See :func:`last_layer`.
        params: Where the gradient was taken.
        seen: The mean gradient over the examples.
        examples: How many, 1 or more.
        shape: Shape of one input.
        key: Where the random inputs, standard normal, are drawn.
        probes: How many of them, 1 or more.
        clipped: Whether clients shortened what they sent, so that the scale must be guessed,
            too: as if the class that is least there were not there at all.

    Raises:
        ValueError: A knob out of range, or see :func:`last_layer`.

    Source:
        Wainakh et al. 2022 (LLG), arXiv:2105.09369, section 4 (impact and offset of a class,
        estimated from dummy inputs).
    """
    for name, value in {"examples": examples, "probes": probes}.items():
        if value < 1:
            raise ValueError(f"audit.{name} must be at least 1, got {value}")
    believed, features = _probed(model, params, shape, key=key, probes=probes)
    weights, bias = last_layer(model, seen)
    slope = weights @ features / features.square().sum() if bias is None else bias
    if clipped:
        slope = slope / (slope / believed).max().clamp_min(torch.finfo(slope.dtype).tiny)
    found: Float[Tensor, "classes"] = examples * (believed - slope)
    return _rounded(found.clamp_min(0.0), examples)


def labels(counted: Int[Tensor, "classes"]) -> Int[Tensor, "examples"]:
    """Write counts of classes as a list of labels, in ascending order."""
    return torch.arange(len(counted), device=counted.device).repeat_interleave(counted)


def label_accuracy(found: Int[Tensor, "examples"], real: Int[Tensor, "examples"]) -> float:
    """Give the share of the real labels that were found, in whatever order.

    Args:
        found: As many labels as ``real``.
        real: At least one.
    """
    classes = int(torch.cat([found, real]).max()) + 1
    both = torch.minimum(found.bincount(minlength=classes), real.bincount(minlength=classes))
    return int(both.sum()) / len(real)


def _probed(
    model: Model, params: Vector, shape: tuple[int, ...], *, key: Key, probes: int
) -> tuple[Float[Tensor, "classes"], Float[Tensor, "features"]]:
    """Return the mean belief in each class, and the mean of what the last layer is given."""
    inputs = torch.randn(probes, *shape, generator=key.stream()).to(params)
    point = params.detach().clone().requires_grad_()
    outputs = model(point, inputs)
    # A score's slope in its weights is the feature they are multiplied with.
    (slope,) = torch.autograd.grad(outputs[:, 0].mean(), point)
    weights, _ = last_layer(model, slope)
    return outputs.detach().softmax(1).mean(0), weights[0]


def _rounded(found: Float[Tensor, "classes"], total: int) -> Int[Tensor, "classes"]:
    """Round to whole numbers with this sum; what is cut off longest is rounded up first."""
    share = found / found.sum() if bool(found.sum() > 0) else torch.full_like(found, 1 / len(found))
    exact = share * total
    whole = exact.floor().long()
    left = total - int(whole.sum())
    whole[(exact - whole).argsort(descending=True, stable=True)[:left]] += 1
    return whole
