"""Which networks are plain chains of layers, and of which."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from dai_lab.core import Model, cross_entropy


@dataclass(frozen=True)
class Layer:
    """One link of the chain; ``first`` is where its parameters start in the blocks."""

    kind: str
    first: int = -1
    bias: bool = False
    knobs: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Chain:
    """A chain of layers that ends in logits for cross-entropy."""

    layers: tuple[Layer, ...]

    @property
    def dense(self) -> bool:
        """Whether there is nothing but linear layers and ReLU, in turn."""
        kinds = [layer.kind for layer in self.layers if layer.kind != "flatten"]
        deep = len(kinds) // 2
        return kinds == [*["linear", "relu"] * deep, "linear"]


TWO_BY_TWO = ((2, 2), (2, 2), (0, 0), (1, 1))
"""Kernel, stride, padding and dilation of the pooling that a pass of our own does, with ReLU."""

RANKS = {"linear": 1, "conv": 3, "pool": 3}
"""Dimensions of one example that a layer takes here."""


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _plain(module: nn.Module) -> bool:
    """Tell whether calling a module does what its class says, and nothing that was hooked on."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    names = [name for name, _ in module.named_parameters(recurse=False)]
    return not any(hooks) and names in ([], ["weight"], ["weight", "bias"])


def _read(module: nn.Module, first: int) -> Layer | None:
    """Describe one module, or say that it is not one of ours."""
    if not _plain(module):
        return None
    if type(module) is nn.Linear:
        return Layer("linear", first, module.bias is not None)
    if type(module) is nn.ReLU:
        return Layer("relu")
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return Layer("flatten")
    if type(module) is nn.Conv2d and module.padding_mode == "zeros" and module.groups == 1:
        padding = module.padding
        kernel, dilation = module.kernel_size, module.dilation
        if padding == "valid":
            padding = (0, 0)
        elif padding == "same":
            whole = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            if any(total % 2 for total in whole):
                return None
            padding = tuple(total // 2 for total in whole)
        assert not isinstance(padding, str)
        return Layer(
            "conv",
            first,
            module.bias is not None,
            (tuple(module.stride), tuple(padding), tuple(dilation)),
        )
    if type(module) is nn.MaxPool2d and not module.ceil_mode and not module.return_indices:
        stride = module.kernel_size if module.stride is None else module.stride
        return Layer(
            "pool",
            knobs=(
                _pair(module.kernel_size),
                _pair(stride),
                _pair(module.padding),
                _pair(module.dilation),
            ),
        )
    return None


def chain_of(model: Model, rank: int) -> Chain | None:
    """Read a model as a chain for inputs of ``rank`` dimensions, or return ``None``."""

    def links(module: nn.Module) -> list[nn.Module]:
        if type(module) is nn.Sequential and _plain(module):
            return [leaf for child in module for leaf in links(child)]
        return [module]

    if model.loss is not cross_entropy:
        return None
    layers: list[Layer] = []
    first = 0
    for module in links(model.module):
        layer = _read(module, first)
        if layer is None:
            return None
        if layer.kind in RANKS and rank != RANKS[layer.kind]:
            return None
        rank = 1 if layer.kind == "flatten" else rank
        layers.append(layer)
        first += len(list(module.parameters()))
    if first != len(model.names) or not layers or layers[-1].kind != "linear":
        return None
    # Pooling before ReLU gives the same numbers and gradients from a quarter of the work.
    for at, (one, two) in enumerate(pairwise(layers)):
        if (one.kind, two.kind) == ("relu", "pool"):
            layers[at], layers[at + 1] = two, one
    for at, (one, two) in reversed(list(enumerate(pairwise(layers)))):
        if (one, two) == (Layer("pool", knobs=TWO_BY_TWO), Layer("relu")):
            layers[at : at + 2] = [Layer("halve", knobs=TWO_BY_TWO)]
    return Chain(tuple(layers))
