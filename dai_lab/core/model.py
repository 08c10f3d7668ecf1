"""Networks as flat vectors, and what they are charged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

Rows: TypeAlias = Float[Tensor, "_ params"]
"""One flattened update per client, or per group of clients."""


Vector: TypeAlias = Float[Tensor, "params"]
"""One flattened model, or one update to it."""


Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From outputs ``[batch, ...]`` and targets ``[batch]`` to one loss per example."""


def cross_entropy(
    outputs: Float[Tensor, "batch classes"], targets: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Charge each example the negative log-probability of its class."""
    return functional.cross_entropy(outputs, targets, reduction="none")


def squared_error(
    outputs: Float[Tensor, "batch 1"] | Float[Tensor, "batch"], targets: Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Charge each example the square of its error."""
    return (outputs.reshape(targets.shape) - targets).square()


@dataclass(frozen=True)
class Model:
    """A network seen as one flat vector.

    ``module`` is only the recipe: its own parameter values are the initial ones and never
    change. Buffers are constants.
    """

    module: nn.Module
    loss: Loss
    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    initial: Vector

    @property
    def params(self) -> int:
        """Length of the flat vector."""
        return len(self.initial)

    def views(self, flat: Float[Tensor, "... params"]) -> dict[str, Tensor]:
        """See the last dimension of ``flat`` as named parameters, without copying."""
        sizes = [shape.numel() for shape in self.shapes]
        parts = zip(self.names, self.shapes, flat.split(sizes, dim=-1), strict=True)
        return {name: part.unflatten(-1, shape) for name, shape, part in parts}

    def __call__(self, flat: Vector, inputs: Tensor, *, train: bool = False) -> Tensor:
        """Run the network with the parameters ``flat`` on a batch."""
        # The mode is a flag of the shared recipe; training needs it for dropout alone.
        self.module.train(train)
        outputs: Tensor = torch.func.functional_call(self.module, self.views(flat), (inputs,))
        return outputs
