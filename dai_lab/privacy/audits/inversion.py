"""Pictures from gradients: what a curious server reads in an update.

A client that takes one step sends a gradient, and a gradient is a fact about the examples it was
computed from: one searches for inputs that would have sent the same. An attack here gets what
the server has, which is the model, its parameters, what arrived and how many examples are behind
it, and nothing else. What arrives may be one client's gradient, or the mean of many behind a secure
sum, shortened or noisy; ``clients`` and ``norm`` are public, and the search shortens what it tries
as clients do. Behind several local steps there is no gradient, and this is no measure of them.

Searches follow the slope of a slope: they need networks without ReLU or max pooling (tanh,
sigmoid), whose second derivatives are nowhere zero all around.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from dai_lab.core import Key, Model, Vector
from dai_lab.privacy.audits.labels import last_layer


@dataclass(frozen=True)
class Recovered:
    """What an attack believes the examples behind a gradient to be, in no order."""

    inputs: Float[Tensor, "examples ..."]
    labels: Int[Tensor, "examples"]
    distance: float
    """How far from what was seen they would be, on the attack's own scale; 0 fits exactly."""


def gradient(
    model: Model,
    params: Vector,
    inputs: Float[Tensor, "examples ..."],
    targets: Float[Tensor, "examples classes"],
    *,
    clients: int = 1,
    norm: float = math.inf,
) -> Vector:
    """Compute the mean of what clients would send that hold these examples, in this order.

    Args:
        model: A network that tells classes apart.
        params: Where.
        inputs: As many for each client.
        targets: Probability of each class.
        clients: How many clients share the examples.
        norm: Each shortens its gradient to this length, above 0; infinite for none.
    """

    def loss(flat: Vector, some: Tensor, wanted: Tensor) -> Tensor:
        return -(wanted * model(flat, some).log_softmax(1)).sum(1).mean()

    if norm == math.inf:
        with torch.enable_grad():
            point = params.detach().clone().requires_grad_()
            charged = loss(point, inputs, targets)
            (found,) = torch.autograd.grad(charged, point, create_graph=inputs.requires_grad)
        return found
    shares = (inputs.unflatten(0, (clients, -1)), targets.unflatten(0, (clients, -1)))
    rows = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(params, *shares)
    lengths = rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    shortened: Tensor = rows * (norm / lengths).clamp_max(1.0)
    return shortened.mean(0)


def deep_leakage(
    model: Model,
    params: Vector,
    seen: Vector,
    *,
    examples: int,
    shape: tuple[int, ...],
    key: Key,
    labels: Int[Tensor, "examples"] | None = None,
    clients: int = 1,
    norm: float = math.inf,
    iterations: int = 200,
    tries: int = 1,
    enough: float = 1e-9,
) -> Recovered:
    """Search inputs and labels whose gradient is nearest to the one seen (DLG).

    Args:
        model: A smooth network that tells classes apart.
        params: Where the gradient was taken; its precision is that of the search.
        seen: The mean gradient over the examples, as it arrived.
        examples: How many are behind it, as many for each client.
        shape: Shape of one input.
        key: Where searches begin: standard normal.
        labels: Of the examples, where they are known; ``None`` searches them, too.
        clients: How many are behind it.
        norm: To which each of them shortened its own, above 0; infinite for none.
        iterations: Steps of L-BFGS, 1 or more.
        tries: Beginnings, of which the best end counts; 1 or more.
        enough: Distance at which a search ends.

    Returns:
        Inputs and labels, and the squared distance over the squared length of ``seen``.

    Raises:
        ValueError: A knob out of range.

    Source:
        Zhu et al. 2019, arXiv:1906.08935, algorithm 1 (with a line search).
    """
    classes = _checked(model, seen, examples, clients, norm, iterations=iterations, tries=tries)
    length = seen.square().sum().clamp_min(torch.finfo(seen.dtype).tiny)

    def search(place: Key) -> tuple[Tensor, Tensor, float]:
        stream = place.stream()
        inputs = torch.randn(examples, *shape, generator=stream).to(params).requires_grad_()
        scores = torch.randn(examples, classes, generator=stream).to(params).requires_grad_()
        known = None if labels is None else functional.one_hot(labels, classes).to(params)
        searched = [inputs, scores] if known is None else [inputs]

        def apart() -> Tensor:
            targets = scores.softmax(1) if known is None else known
            found = gradient(model, params, inputs, targets, clients=clients, norm=norm)
            return (found - seen).square().sum() / length

        end = _lbfgs(searched, apart, iterations, enough)
        best = scores.detach().argmax(1) if labels is None else labels
        return inputs.detach(), best, end

    ends = [search(key / "deep_leakage" / one) for one in range(tries)]
    return Recovered(*min(ends, key=lambda end: end[2]))


def cosine(
    model: Model,
    params: Vector,
    seen: Vector,
    *,
    labels: Int[Tensor, "examples"],
    shape: tuple[int, ...],
    key: Key,
    low: float,
    high: float,
    clients: int = 1,
    norm: float = math.inf,
    iterations: int = 300,
    rate: float = 0.1,
    smooth: float = 1e-3,
    tries: int = 1,
) -> Recovered:
    """Search smooth pictures whose gradient points where the one seen does.

    Args:
        model: A smooth network that tells classes apart.
        params: Where the gradient was taken; its precision is that of the search.
        seen: The mean gradient over the examples, on any scale above 0.
        labels: Of the examples; :func:`~dai_lab.privacy.audits.labels.counts` reads them.
        shape: Channels, height and width.
        key: Where searches begin: standard normal.
        low: Darkest a pixel can be.
        high: Brightest.
        clients: How many are behind it, as many examples each.
        norm: To which each of them shortened its own, above 0; infinite for none.
        iterations: Steps of Adam on the slope's signs, 1 or more; they shorten to a tenth
            after 3/8, 5/8 and 7/8 of them.
        rate: Length of the first steps, above 0, in units of an input.
        smooth: What total variation counts, 0 or more, beside one minus the cosine.
        tries: Beginnings, of which the best end counts; 1 or more.

    Returns:
        Inputs and labels, and one minus the cosine.

    Raises:
        ValueError: A knob out of range, or inputs that are no pictures.

    Source:
        Geiping et al. 2020, arXiv:2003.14053, equation 4 and section 5.
    """
    examples = len(labels)
    classes = _checked(model, seen, examples, clients, norm, iterations=iterations, tries=tries)
    if len(shape) != 3:
        raise ValueError(f"audit: cosine is for pictures, got inputs of shape {shape}")
    if not low < high or not rate > 0 or not smooth >= 0:
        raise ValueError(
            f"audit: low < high, rate > 0 and smooth >= 0 are needed, got {low}, {high}, {rate}, "
            f"{smooth}"
        )
    targets = functional.one_hot(labels, classes).to(params)
    falls = [iterations * eighths // 8 for eighths in (3, 5, 7)]

    def apart(inputs: Tensor) -> Tensor:
        found = gradient(model, params, inputs, targets, clients=clients, norm=norm)
        return 1 - functional.cosine_similarity(found, seen, dim=0)

    def search(place: Key) -> tuple[Tensor, Tensor, float]:
        start = torch.randn(examples, *shape, generator=place.stream()).to(params)
        inputs = start.clamp_(low, high).requires_grad_()
        adam = torch.optim.Adam([inputs], lr=rate)
        slower = torch.optim.lr_scheduler.MultiStepLR(adam, falls)
        for _ in range(iterations):
            charged = apart(inputs) + smooth * variation(inputs)
            (slope,) = torch.autograd.grad(charged, inputs)
            inputs.grad = slope.sign()
            adam.step()
            slower.step()
            inputs.data.clamp_(low, high)
        with torch.no_grad():
            return inputs.detach(), labels, float(apart(inputs.detach()))

    ends = [search(key / "cosine" / one) for one in range(tries)]
    return Recovered(*min(ends, key=lambda end: end[2]))


def analytic(model: Model, seen: Vector, *, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Read an input off the gradient of a linear first layer, without a search.

    A unit's weights move by the input times what its bias moves by. With one example behind the
    gradient the input is exact, on any scale; with more it is a mixture of theirs.

    Args:
        model: Its first layer is linear, with a bias.
        seen: The gradient as it arrived.
        shape: Shape of one input.

    Returns:
        The input ``shape`` that explains the whole first layer best, in least squares.

    Raises:
        ValueError: Another first layer.

    Source:
        Phong et al. 2017, ePrint 2017/715, section 3; Geiping et al. 2020, arXiv:2003.14053,
        proposition 3.1.
    """
    layers = [one for one in model.module.modules() if list(one.parameters(recurse=False))]
    first = layers[0]
    fits = isinstance(first, nn.Linear) and first.in_features == math.prod(shape)
    if not fits or first.bias is None:
        raise ValueError(
            f"audit: analytic reads a linear first layer with a bias, and this one is {first}: "
            "choose model=mlp or model=logistic"
        )
    weights, bias, *_ = model.views(seen).values()
    # Squares of a gradient's entries would be lost where it has all but vanished.
    bias, weights = (one / bias.abs().max() for one in (bias, weights))
    return (bias @ weights / bias.square().sum()).reshape(shape)


def variation(inputs: Float[Tensor, "examples channels height width"]) -> Float[Tensor, ""]:
    """Give the mean difference between neighboring pixels (total variation)."""
    return inputs.diff(dim=-1).abs().mean() + inputs.diff(dim=-2).abs().mean()


def _lbfgs(
    searched: list[Tensor], apart: Callable[[], Tensor], iterations: int, enough: float
) -> float:
    """Go downhill in place and return where that ended; what blew up goes back to its best."""
    best, kept = math.inf, [one.detach().clone() for one in searched]
    steps = torch.optim.LBFGS(
        searched, max_iter=iterations, max_eval=2 * iterations, history_size=50,
        tolerance_grad=0.0, tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> float:
        nonlocal best, kept
        charged = apart()
        slopes = torch.autograd.grad(charged, searched)
        here = float(charged.detach())
        if here < best:
            best, kept = here, [one.detach().clone() for one in searched]
        # A slope of nothing ends the search.
        for one, slope in zip(searched, slopes, strict=True):
            one.grad = slope if best > enough else torch.zeros_like(slope)
        return here

    steps.step(closure)
    for one, place in zip(searched, kept, strict=True):
        one.data.copy_(place)
    return best


def _checked(
    model: Model,
    seen: Vector,
    examples: int,
    clients: int,
    norm: float,
    **counted: int,
) -> int:
    """Refuse knobs out of range; return the number of classes."""
    for name, value in {"examples": examples, "clients": clients, **counted}.items():
        if value < 1:
            raise ValueError(f"audit.{name} must be at least 1, got {value}")
    if examples % clients:
        raise ValueError(f"audit.clients must divide {examples} examples, got {clients}")
    if not norm > 0:
        raise ValueError(f"audit.norm must be above 0, got {norm}")
    if not bool(seen.isfinite().all()):
        raise ValueError("audit: what was seen holds NaN or infinity, which nothing fits")
    return len(last_layer(model, seen)[0])
