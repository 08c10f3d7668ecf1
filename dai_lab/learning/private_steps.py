"""Sums of clipped gradients: Opacus' ways and one of our own to the same numbers.

``hooks``
    Opacus' gradients of every example by formulas per layer, clipped when they are whole.
``functorch``
    The same by ``torch.func.vmap`` over every layer.
``ew``
    The same by PyTorch's expanded weights.
``fast``
    Opacus' fast gradient clipping: one pass for norms, a layer at a time, and one for the sum.
``ghost``
    The same, with norms of linear layers from their inputs and slopes alone.
``chain``
    One pass without Opacus for chains of linear, convolution, pooling, ReLU and tanh layers
    (``dai_lab.learning.private_chain``).

The rule behind ``auto`` looks at the model alone, so that two runs of one experiment always choose
alike: ``chain`` where it takes the model, else ``ghost`` where linear layers hold most of the
weights, else ``hooks``. ``benchmarks/private.py`` times the alternatives.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dai_lab.core import Examples, Model, Vector
from dai_lab.learning import private_chain as chains
from dai_lab.learning.private_chain import links_of

Clipped: TypeAlias = Callable[[Tensor, Tensor], tuple[Vector, Tensor, Tensor]]
"""From inputs ``[B, *S]`` and targets ``[B]`` to the sum of their clipped gradients ``[params]``,
the norms these had before ``[B]`` and losses ``[B]``."""

SAMPLERS = ("hooks", "functorch", "ew", "fast", "ghost", "chain")
"""Ways to clip every example's gradient; Opacus' others need several devices or own modules."""

ENTRIES_A_PASS = 2**22
"""Numbers that the gradients of a pass hold where every example's is whole; more only for 8."""

ENTRIES_IN_CACHE = 2**21
"""Numbers that ``chain`` moves in a pass, for all that it reads again to be still near."""

EXAMPLES_A_PASS = 256
"""Examples in one pass at most; larger batches are summed pass by pass."""


def sampler_for(name: str, model: Model, *, rank: int) -> str:
    """Choose by the rule at the top of this file, or check what the user chose.

    Args:
        name: One of ``SAMPLERS``, or ``auto``.
        model: What is trained.
        rank: Dimensions of one example.

    Raises:
        ValueError: No such way, or one that does not take this model.
    """
    if name not in ("auto", *SAMPLERS):
        choices = ", ".join(("auto", *SAMPLERS))
        raise ValueError(f"local.sampler must be one of {choices}, got {name!r}")
    fits = name in ("auto", "chain") and links_of(model, rank) is not None
    if name == "chain" and not fits:
        raise ValueError(
            "local.sampler=chain takes linear, convolution, pooling, ReLU and tanh layers in a "
            "row and nothing else: choose local.sampler=auto"
        )
    if name != "auto":
        return name
    layers = [layer for layer in model.module.modules() if isinstance(layer, nn.Linear)]
    dense = sum(weight.numel() for layer in layers for weight in layer.parameters())
    return "chain" if fits else "ghost" if 2 * dense > model.params else "hooks"


def clipping(
    name: str, model: Model, here: Vector, *, norm: float, example: Tensor
) -> tuple[Clipped, int]:
    """Bind a way to clip to a model.

    Args:
        name: One of ``SAMPLERS``.
        model: What is trained.
        here: Its parameters ``[params]``, read anew at each call: whoever steps, steps in place.
        norm: Longest gradient of an example, above 0; infinite clips nothing.
        example: One input ``[1, *S]``.

    Returns:
        The sum of clipped gradients, where an example whose own is not finite counts for nothing,
        since else the promise would not hold for it; and the examples to give it at most.
    """
    make = {"chain": _by_chain, "ghost": _norms_first, "fast": _norms_first}
    with _naming(name):
        find, size = make.get(name, _one_by_one)(name, model, here, norm, example)

    def finite(inputs: Tensor, targets: Tensor) -> tuple[Vector, Tensor, Tensor]:
        with _naming(name):
            total, norms, losses = find(inputs, targets)
        sound = norms.isfinite()
        if bool(sound.all()):
            return total, norms, losses
        if bool(sound.any()):
            return finite(inputs[sound], targets[sound])[0], norms, losses
        return torch.zeros_like(here), norms, losses

    return finite, size


def factors(norms: Float[Tensor, "batch"], norm: float) -> Float[Tensor, "batch"]:
    """Say by what each gradient is multiplied to be no longer than ``norm``."""
    return (norm / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1)


def refuse_mixing(name: str, model: Model, here: Vector, few: Examples, *, draws: bool) -> None:
    """Refuse a network or a loss in which one example changes what another one is charged.

    Args:
        name: One of ``SAMPLERS``; what ``chain`` takes Opacus need not be asked about.
        model: What is to be trained.
        here: Its parameters ``[params]``.
        few: Some examples to try it on.
        draws: Whether it draws while it trains, and has to be tried as it is when it does not.

    Raises:
        ValueError: Losses are not one an example, or depend on who else is in the batch.
    """
    if name != "chain":
        _validated(model)
    if not len(few):
        return
    with torch.no_grad():
        outputs = model(here, few.inputs, train=not draws)
        losses = model.loss(outputs, few.targets)
        if losses.shape != few.targets.shape[:1]:
            raise ValueError(
                f"model: local=dp_sgd needs a loss for each example, got {tuple(losses.shape)} "
                f"for {len(few)}"
            )
        each = [few.some(at) for at in torch.arange(len(few), device=here.device).unsqueeze(1)]
        alone = [model.loss(model(here, one.inputs, train=not draws), one.targets) for one in each]
    if not torch.allclose(losses, torch.cat(alone), rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ValueError(
            "model: an example's loss depends on who else is in the batch, and local=dp_sgd cannot "
            "bound what it adds: no batch norm, no loss that compares examples"
        )


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say in one line that a sampler does not take a model."""
    with warnings.catch_warnings():
        # Inputs need no gradient, which Opacus' hooks are told of at length.
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, NotImplementedError) and "Expanded Weights" not in str(error):
                raise
            # The network ran by itself before (``refuse_mixing``): this is the sampler's. Where
            # it is bare it says nothing, and its kind has to do.
            why = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"local.sampler={name} does not take this model ({why}): choose another sampler"
            ) from error


def _validated(model: Model) -> None:
    """Let Opacus refuse the layers of which it knows no promise to hold."""
    from opacus.validators import ModuleValidator

    for error in ModuleValidator.validate(model.module.train(), strict=False):
        raise ValueError(f"model: {str(error).split('. ')[0]}: choose another for local=dp_sgd")


def _copied(model: Model, here: Vector) -> tuple[nn.Module, list[Any]]:
    """Copy the recipe, with weights that are parts of ``here``; Opacus adds fields to them."""
    module = copy.deepcopy(model.module).to(here.device).train()
    named = dict(module.named_parameters())
    for name, part in model.views(here).items():
        named[name].data = part
    return module, [named[name] for name in model.names]


def _one_by_one(
    name: str, model: Model, here: Vector, norm: float, example: Tensor
) -> tuple[Clipped, int]:
    """Opacus' samplers that leave every example's gradient with each parameter."""
    from opacus.grad_sample import GradSampleModule, GradSampleModuleExpandedWeights

    module, weights = _copied(model, here)
    wrapped: nn.Module
    if name == "ew":
        wrapped = GradSampleModuleExpandedWeights(module, loss_reduction="sum")
    else:
        whole = name == "functorch"
        wrapped = GradSampleModule(module, loss_reduction="sum", force_functorch=whole)

    def clipped(inputs: Tensor, targets: Tensor) -> tuple[Vector, Tensor, Tensor]:
        for weight in weights:
            weight.grad = weight.grad_sample = None
        losses = model.loss(wrapped(inputs), targets)
        losses.sum().backward()
        # A weight that the outputs do not depend on has a slope of zero, not none.
        samples: list[Tensor | None] = [weight.grad_sample for weight in weights]
        squares = [each.flatten(1).square().sum(1) for each in samples if each is not None]
        norms = torch.stack(squares).sum(0).sqrt()
        share = factors(norms, norm)
        parts = [
            weight.new_zeros(weight.numel()) if each is None else share @ each.flatten(1)
            for weight, each in zip(weights, samples, strict=True)
        ]
        return torch.cat(parts).detach(), norms, losses.detach()

    return clipped, min(max(ENTRIES_A_PASS // model.params, 8), EXAMPLES_A_PASS)


def _norms_first(
    name: str, model: Model, here: Vector, norm: float, example: Tensor
) -> tuple[Clipped, int]:
    """Opacus' samplers that find norms in one pass back and the sum in another."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    module, weights = _copied(model, here)
    wrapped = GradSampleModuleFastGradientClipping(
        module, loss_reduction="sum", max_grad_norm=norm, use_ghost_clipping=name == "ghost"
    )

    def clipped(inputs: Tensor, targets: Tensor) -> tuple[Vector, Tensor, Tensor]:
        for weight in weights:
            weight.grad = None
        wrapped.enable_hooks()
        losses = model.loss(wrapped(inputs), targets)
        losses.sum().backward(retain_graph=True)
        found = [weight._norm_sample for weight in weights if hasattr(weight, "_norm_sample")]
        norms = torch.stack(found).square().sum(0).sqrt()
        wrapped.disable_hooks()
        for weight in weights:
            weight.grad = None
        # Opacus' own wrapper divides by the norm plus a millionth, which clips by a little more.
        (losses * factors(norms, norm)).sum().backward()
        slopes = [torch.zeros_like(one) if one.grad is None else one.grad for one in weights]
        return torch.cat([one.flatten() for one in slopes]), norms, losses.detach()

    return clipped, EXAMPLES_A_PASS


def _by_chain(
    name: str, model: Model, here: Vector, norm: float, example: Tensor
) -> tuple[Clipped, int]:
    """Our own, by ``dai_lab.learning.private_chain``."""
    links = links_of(model, example.dim() - 1)
    assert links is not None
    weights = list(model.views(here).values())

    def clipped(inputs: Tensor, targets: Tensor) -> tuple[Vector, Tensor, Tensor]:
        with torch.no_grad():
            outputs, kept = chains.forward(links, weights, inputs)
        outputs.requires_grad_()
        losses = model.loss(outputs, targets)
        (slope,) = torch.autograd.grad(losses.sum(), outputs)
        with torch.no_grad():
            squares, found = chains.backward(links, weights, kept, slope)
            norms = squares.sqrt()
            total = torch.empty_like(here)
            chains.total(found, factors(norms, norm), list(model.views(total).values()))
        return total, norms, losses.detach()

    with torch.no_grad():
        width = chains.width(links, weights, example)
    return clipped, min(max(ENTRIES_IN_CACHE // max(width, 1), 16), EXAMPLES_A_PASS)
