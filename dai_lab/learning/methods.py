"""How gradients are computed: four ways to the same numbers, and the rule that picks one.

``flat``
    Autograd, one client after another. Takes any module.
``vmap``
    ``torch.func.vmap`` over the stacked parameters of many clients. Takes modules without
    dropout or control flow that depends on data.
``chain``
    Forward and backward by hand on torch's kernels (``dai_lab.learning.chain``). Takes chains of
    linear, convolution, pooling and ReLU layers under cross-entropy.
``compiled``
    A cohort's whole round in one compiled call (``dai_lab.learning.compiled``). Takes chains of
    linear layers and ReLU under cross-entropy, in float32 on a CPU.

The rule looks at the model and the device alone, never at a stopwatch, so that two runs of one
experiment always choose alike and end bit-identical: on a CPU the last of these that takes the
model (``vmap`` never: it pays only for tiny steps and loses twofold on convolutions); on a GPU
``vmap`` where it can, as many clients at once as ``compute.memory`` allows, else ``flat``.
``benchmarks/simulation.py --calibrate`` times the alternatives, to check the rule on a machine.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dai_lab.core import Compute, Model, Vector
from dai_lab.learning import chain as chains
from dai_lab.learning.balance import Charge, gap
from dai_lab.learning.chain import Blocks
from dai_lab.learning.layers import Chain, chain_of

CPU_ABREAST = 25
"""Clients side by side where a user asks for ``vmap`` on a CPU: more no longer fit the cache."""

COPIES = 4
"""Copies of a client's parameters on a GPU: weights, gradients, momentum and where it started."""

GPU_ABREAST = 64
"""Clients side by side on a GPU at most, since their activations count for nothing above."""


@dataclass(frozen=True)
class Method:
    """One way to compute gradients, bound to a model."""

    name: str
    group: int
    """Clients trained side by side."""
    model: Model
    chain: Chain | None
    draws: bool
    """Whether the module itself draws random numbers (dropout)."""
    compute: Compute = field(default_factory=Compute)

    def load(self, start: Tensor) -> Blocks:
        """Copy flat parameters ``[G, params]`` into blocks ``[G, *shape]``."""
        blocks = self.model.views(start).values()
        if self.chain is not None:
            return [chains.lay_out(block.clone()) for block in blocks]
        return [block.clone(memory_format=torch.contiguous_format) for block in blocks]

    def unload(self, blocks: Blocks) -> Tensor:
        """Return blocks as flat parameters ``[G, params]``."""
        return torch.cat([block.flatten(1) for block in blocks], dim=1)

    def slopes(
        self,
        blocks: Blocks,
        inputs: Tensor,
        targets: Tensor,
        share: Tensor | None,
        charge: Charge | None = None,
    ) -> tuple[Blocks, Tensor]:
        """Return each client's gradient ``[G, *shape]`` and losses ``[G, B]``.

        Args:
            blocks: Parameters ``[G, *shape]``; G is 1 except under ``vmap``.
            inputs: Batches ``[G, B, *S]``.
            targets: ``[G, B]``.
            share: What each example counts for ``[G, B]``, or ``None`` for a plain mean.
            charge: What gaps between groups cost, beside the losses; needs ``share``.
        """
        if self.chain is not None and share is None:
            into = [torch.zeros_like(block) for block in blocks]
            return into, chains.descend(
                self.chain, blocks, into, inputs, targets, alpha=1.0, beta=0.0
            )
        if self.name == "vmap":
            if share is None:
                share = inputs.new_full(targets.shape, 1 / targets.shape[1])
            with _products_in(self.compute):
                if charge is not None:
                    slope = partial(_slope, self.model, charge=charge)
                    stacked = torch.func.vmap(slope)
                    return stacked(blocks, inputs, targets, share, charge.cells)
                return _stacked(self.model, self.compute)(blocks, inputs, targets, share)
        with _products_in(self.compute):
            return _one_by_one(self.model, blocks, inputs, targets, share, charge)

    def slopes_at_one_point(
        self, blocks: Blocks, inputs: Tensor, targets: Tensor, share: Tensor
    ) -> tuple[Blocks, Tensor]:
        """Return every client's gradient at one shared point (``blocks`` with G = 1)."""
        if self.chain is not None:
            return chains.gradients_at_one_point(self.chain, blocks, inputs, targets, share)
        if self.name == "vmap":
            point = [block[0] for block in blocks]
            slope = torch.func.vmap(partial(_slope, self.model), in_dims=(None, 0, 0, 0))
            with _products_in(self.compute):
                return slope(point, inputs, targets, share)
        shared = [block.expand(len(inputs), *block.shape[1:]) for block in blocks]
        with _products_in(self.compute):
            return _one_by_one(self.model, shared, inputs, targets, share)

    def add_slopes_at_one_point(
        self,
        blocks: Blocks,
        inputs: Tensor,
        targets: Tensor,
        share: Tensor,
        *,
        into: Tensor,
        alpha: float,
        beta: float,
    ) -> Tensor:
        """Set ``into = beta * into + alpha * gradient``; return losses ``[clients, B]``.

        Args:
            blocks: The shared parameters, G = 1.
            inputs: Batches ``[clients, B, *S]``.
            targets: Classes ``[clients, B]``.
            share: What each example counts for in its client's mean ``[clients, B]``.
            into: Rows ``[clients, params]``, changed in place.
            alpha: What a gradient counts for.
            beta: What is left of what was there.
        """
        assert self.chain is not None
        views = list(self.model.views(into).values())
        return chains.add_gradients_at_one_point(
            self.chain, blocks, views, inputs, targets, share, alpha=alpha, beta=beta
        )


def _products_in(compute: Compute) -> AbstractContextManager[None]:
    """Let products and convolutions be computed in the precision asked for."""
    if compute.precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(compute.device).type, dtype=torch.bfloat16)


def _stacked(model: Model, compute: Compute) -> Callable[..., tuple[Blocks, Tensor]]:
    """Return the function that computes stacked clients' gradients."""
    stacked = torch.func.vmap(partial(_slope, model))
    if not compute.compile:
        return stacked
    # Kept by the module, so that whoever drops the model drops its compiled code.
    known = _COMPILED.setdefault(model.module, {})
    if compute.device not in known:
        # CUDA graphs replay a step as one launch; they and shapes that change do not go together.
        on_gpu = torch.device(compute.device).type == "cuda"
        mode = "reduce-overhead" if on_gpu else "default"
        known[compute.device] = torch.compile(stacked, mode=mode, dynamic=False)
    return known[compute.device]


_COMPILED: WeakKeyDictionary[nn.Module, dict[str, Callable[..., tuple[Blocks, Tensor]]]] = (
    WeakKeyDictionary()
)


def _loss(
    model: Model,
    parameters: Blocks,
    inputs: Tensor,
    targets: Tensor,
    share: Tensor | None,
    cells: Tensor | None = None,
    charge: Charge | None = None,
) -> tuple[Tensor, Tensor]:
    named = dict(zip(model.names, parameters, strict=True))
    outputs = torch.func.functional_call(model.module, named, (inputs,))
    losses = model.loss(outputs, targets)
    whole = losses.mean() if share is None else (losses * share).sum()
    if charge is not None and cells is not None:
        whole = whole + charge.penalty * gap(outputs, cells, charge.favorable)
    return whole, losses


def _slope(
    model: Model,
    parameters: Blocks,
    inputs: Tensor,
    targets: Tensor,
    share: Tensor,
    cells: Tensor | None = None,
    charge: Charge | None = None,
) -> tuple[Blocks, Tensor]:
    """Gradient and losses of one client, for ``vmap``."""

    def loss(parameters: Blocks) -> tuple[Tensor, Tensor]:
        return _loss(model, parameters, inputs, targets, share, cells, charge)

    found: tuple[Blocks, Tensor] = torch.func.grad(loss, has_aux=True)(parameters)
    return found


def _one_by_one(
    model: Model,
    blocks: Blocks,
    inputs: Tensor,
    targets: Tensor,
    share: Tensor | None,
    charge: Charge | None = None,
) -> tuple[Blocks, Tensor]:
    model.module.train()
    found, seen = [], []
    for client in range(len(inputs)):
        leaves = [block[client].detach().requires_grad_() for block in blocks]
        part = None if share is None else share[client]
        cells = None if charge is None else charge.cells[client]
        loss, losses = _loss(model, leaves, inputs[client], targets[client], part, cells, charge)
        # A weight that the outputs do not depend on has a slope of zero, not none.
        found.append(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
        seen.append(losses.detach())
    if len(found) == 1:
        return [slope.unsqueeze(0) for slope in found[0]], seen[0].unsqueeze(0)
    return [torch.stack(slopes) for slopes in zip(*found, strict=True)], torch.stack(seen)


def _draws(module: nn.Module) -> bool:
    kinds = (nn.modules.dropout._DropoutNd, nn.RReLU)
    return any(isinstance(part, kinds) for part in module.modules())


def choose(model: Model, compute: Compute, *, rank: int) -> Method:
    """Pick how to compute gradients by the rule at the top of this file.

    Args:
        model: What to train.
        compute: Where, and how if the user insists.
        rank: Dimensions of one example.

    Raises:
        ValueError: ``compute.method`` asks for a way this model cannot go.
    """
    on_cpu = compute.device == "cpu"
    chain = chain_of(model, rank)
    draws = _draws(model.module)
    can = {
        "flat": True,
        "vmap": not draws,
        "chain": chain is not None,
        "compiled": chain is not None
        and chain.dense
        and on_cpu
        and model.initial.dtype is torch.float32,
    }
    order = ("compiled", "chain", "flat") if on_cpu else ("vmap", "flat")
    name = compute.method
    if name == "auto":
        name = next(name for name in order if can[name])
    if not can[name]:
        able = ", ".join(way for way, fits in can.items() if fits)
        raise ValueError(f"compute.method={name} cannot train this model here: choose from {able}")
    group = 1
    if name == "vmap":
        most = CPU_ABREAST if on_cpu else min(max(_fitting(model, compute), 1), GPU_ABREAST)
        group = compute.group or most
    fused = chain if name in ("chain", "compiled") else None
    if fused is not None and compute.precision != "float32":
        raise ValueError(f"compute.precision={compute.precision} needs compute.method=vmap or flat")
    if compute.compile and name != "vmap":
        raise ValueError(f"compute.compile needs compute.method=vmap, and this run uses {name}")
    return Method(name, group, model, fused, draws, compute)


def _fitting(model: Model, compute: Compute) -> int:
    """Count the clients whose copies fit the memory."""
    return int(compute.memory * 2**30) // (COPIES * model.params * model.initial.itemsize)


def predict(model: Model, flat: Vector, inputs: Tensor, *, chunk: int = 500) -> Tensor:
    """Return outputs ``[examples, ...]`` of the model in evaluation mode, by the fastest way."""
    chain = chain_of(model, inputs.dim() - 1)
    with torch.inference_mode():
        if chain is None:
            parts = [model(flat, some) for some in inputs.split(chunk)]
        else:
            blocks = [chains.lay_out(each) for each in model.views(flat.unsqueeze(0)).values()]
            parts = [chains.predict(chain, blocks, some) for some in inputs.split(chunk)]
    return torch.cat(parts)
