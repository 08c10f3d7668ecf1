"""The flat view: any module as one vector of weights and a loss per example."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dai_lab.core import Key, Model, cross_entropy, squared_error


def flat(module: nn.Module, *, classes: int) -> Model:
    """See ``module`` as a function of one flat vector.

    Frozen weights (``requires_grad=False``) and buffers are constants, not entries of the
    vector; a weight that several layers share is one entry.

    Args:
        module: Any network, on the CPU; its present weights are the initial ones.
        classes: Classes to tell apart (cross-entropy); 0 for regression (squared error).

    Raises:
        ValueError: One class, batch norm, nothing to train, or weights of several types.
    """
    if classes < 0 or classes == 1:
        raise ValueError(f"data: classes must be 0 (regression) or at least 2, got {classes}")
    _refuse_batch_norm(module)
    weights = {name: each for name, each in module.named_parameters() if each.requires_grad}
    types = {each.dtype for each in weights.values()}
    if len(types) != 1:
        found = f"weights of types {sorted(map(str, types))}" if types else "no weights to train"
        raise ValueError(f"model: {type(module).__name__} has {found}; it needs exactly one type")
    return Model(
        module=module,
        loss=cross_entropy if classes else squared_error,
        names=tuple(weights),
        shapes=tuple(each.shape for each in weights.values()),
        initial=torch.cat([each.detach().flatten() for each in weights.values()]),
    )


def create(
    factory: Callable[..., nn.Module], *, shape: tuple[int, ...], classes: int, key: Key
) -> Model:
    """Build a model whose initial weights come from ``key``.

    A factory that takes ``shape`` and ``classes``, as every network here does, is given both.
    Any other (``torch.nn.Linear``, ``torchvision.models.resnet18``) is called with its own
    settings alone and must fit the data by them.

    Args:
        factory: Makes the module; its knobs are filled in already.
        shape: Shape of one input.
        classes: Classes to tell apart; 0 for regression.
        key: Where initial weights are drawn.

    Raises:
        ValueError: A module that does not fit the data, or that learns more than weights.
    """
    takes = inspect.signature(factory).parameters
    given = (shape, classes) if {"shape", "classes"} <= takes.keys() else ()
    name = getattr(getattr(factory, "func", factory), "__name__", type(factory).__name__)
    with key.seeded():
        try:
            inspect.signature(factory).bind(*given)
        except TypeError as error:
            raise ValueError(f"model: {name} cannot be built, {error}") from error
        module = factory(*given)
        if not isinstance(module, nn.Module):
            raise ValueError(f"model: {name} made {type(module).__name__}, not a network")
        _refuse_batch_norm(module)
        _try(module, name, shape=shape, classes=classes)
    return flat(module, classes=classes)


_WAY_OUT = "choose model=resnet8 or model=resnet18, or a norm without memory such as group norm"


def _refuse_batch_norm(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            place = f"layer {name!r}" if name else "the network"
            raise ValueError(
                f"model: {place} is {type(layer).__name__}, whose running statistics are no "
                f"weights: {_WAY_OUT}"
            )


def _try(module: nn.Module, name: str, *, shape: tuple[int, ...], classes: int) -> None:
    """Run one training pass and look at what came out and what it left behind.

    The inputs are random because zeros would leave a running mean where it was.
    """
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.train()
    try:
        with torch.no_grad():
            outputs = module(torch.randn(2, *shape))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"model: {name} does not take inputs of shape {shape}: {str(error).splitlines()[0]}"
        ) from error
    fits = [(2, classes)] if classes else [(2, 1), (2,)]
    if not isinstance(outputs, Tensor) or tuple(outputs.shape) not in fits:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"model: {name} must map 2 examples of shape {shape} to {fits[0]}, got {got}"
        )
    for place, buffer in module.named_buffers():
        if place not in before or not torch.equal(buffer, before[place]):
            raise ValueError(
                f"model: buffer {place!r} of {name} changes while it trains, so it is no "
                f"constant: {_WAY_OUT}"
            )


def flops(model: Model, shape: tuple[int, ...]) -> float:
    """Count the floating-point operations of one example's gradient, forward and back.

    Products and convolutions are counted, two operations a multiply-add; what is done element by
    element is not.

    Args:
        model: The network.
        shape: Shape of one input.
    """
    from torch.utils.flop_counter import FlopCounterMode

    point = model.initial.detach().clone().requires_grad_()
    with torch.enable_grad(), _no_compiler(), FlopCounterMode(display=False) as counter:
        outputs = model(point, model.initial.new_zeros((1, *shape)))
        outputs.sum().backward()
    return float(counter.get_total_flops())


@contextmanager
def _no_compiler() -> Iterator[None]:
    """Count without torch's compiler: torch imports it only to keep it away from the counter.

    That takes longer than many an experiment. Torch looks for this attribute first.
    """
    from torch.utils.flop_counter import _FlopCounterMode

    call: Any = getattr(_FlopCounterMode.__torch_dispatch__, "__wrapped__", None)
    if call is None or "torch._dynamo" in sys.modules:
        yield
        return
    call.__dynamo_disable = call
    try:
        yield
    finally:
        del call.__dynamo_disable
