"""Forward and backward of a plain chain of layers, written out by hand on torch's own kernels.

Autograd spends most of a small step on bookkeeping. A chain of linear, convolution, pooling and
ReLU layers under cross-entropy needs none of it: images stay channels last, pooling comes before
ReLU, and every gradient lands where it is wanted.

Legend: G clients, B examples a batch, S the sizes of one example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dai_lab.learning.layers import Chain, Layer

Blocks = list[Tensor]
"""Parameters of G clients: one ``[G, *shape]`` tensor for each parameter of the model."""


def lay_out(block: Tensor) -> Tensor:
    """Store convolution weights ``[G, out, in, h, w]`` channels last, the faster order on a CPU."""
    if block.dim() != 5:
        return block.contiguous()
    return block.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def _images(inputs: Tensor) -> Tensor:
    """See a batch as channels last; one channel needs new strides, more need a copy."""
    batch, channels, height, width = inputs.shape
    if channels == 1:
        return inputs.view(batch, height, width, 1).permute(0, 3, 1, 2)
    return inputs.contiguous(memory_format=torch.channels_last)


def _ours(images: Tensor) -> bool:
    return images.device.type == "cpu" and images.dtype is torch.float32


def _forward(
    chain: Chain, blocks: Blocks, inputs: Tensor, clients: int = 1
) -> tuple[Tensor, list[Any]]:
    """Run one network (G = 1) on ``[B, *S]``; return logits and what going back needs.

    Of the examples of several ``clients`` in one batch, logits may depend on torch's threads.
    """
    here = inputs
    kept: list[Any] = []
    fresh = False  # whether ``here`` is a result of our own, free to be overwritten
    for at, layer in enumerate(chain.layers):
        match layer.kind:
            case "halve" if len(kept) > at:
                pass  # done together with the convolution below
            case "conv" if _starts_with(chain, at, blocks, here):
                from dai_lab.learning.first_layer import pooled_outputs

                bias = blocks[layer.first + 1][0] if layer.bias else None
                kept.append(here)
                weight, padding = blocks[layer.first][0], layer.knobs[1]
                here, *pooled = pooled_outputs(here, weight, bias, padding)
                kept.append(pooled)
            case "linear":
                kept.append(here)
                weight = blocks[layer.first][0]
                bias = blocks[layer.first + 1][0] if layer.bias else None
                if _ours(here):
                    from dai_lab.learning.products import linear

                    here = linear(here, weight, bias, shared=clients > 1)
                else:
                    here = functional.linear(here, weight, bias)
            case "conv":
                here = _images(here)
                kept.append(here)
                bias = blocks[layer.first + 1][0] if layer.bias else None
                stride, padding, dilation = layer.knobs
                here = torch.conv2d(here, blocks[layer.first][0], bias, stride, padding, dilation)
            case "pool":
                pooled, where = torch.ops.aten.max_pool2d_with_indices(here, *layer.knobs)
                kept.append((here, where))
                here = pooled
            case "halve" if _ours(here):
                from dai_lab.learning.halving import halve

                out, where = halve(here)
                kept.append((here, where))
                here = out
            case "halve":
                pooled, where = torch.ops.aten.max_pool2d_with_indices(here, *layer.knobs)
                kept.append((here, where, pooled.clamp_min_(0)))
                here = pooled
            case "relu":
                here = here.clamp_min_(0) if fresh else here.clamp_min(0)
                kept.append(here)
            case "flatten":
                kept.append(here)
                here = here.flatten(1)
        fresh = layer.kind != "flatten"
    return here, kept


def _starts_with(chain: Chain, at: int, blocks: Blocks, images: Tensor) -> bool:
    """Tell whether a convolution and the pooling above it have code of their own."""
    layer, above = chain.layers[at], chain.layers[at + 1]
    if above.kind != "halve" or not _ours(images):
        return False
    from dai_lab.learning.first_layer import fits

    return fits(blocks[layer.first][0], layer.knobs[0], layer.knobs[2])


def predict(chain: Chain, blocks: Blocks, inputs: Tensor) -> Tensor:
    """Return logits ``[B, classes]`` of one client's blocks (G = 1)."""
    return _forward(chain, blocks, inputs)[0]


def _at_logits(logits: Tensor, targets: Tensor, share: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return each example's loss ``[B]`` and the loss's slope at the logits.

    ``share`` ``[B]`` is what each example counts for; without it the slope is of the sum.
    """
    logs = functional.log_softmax(logits, dim=-1)
    at = targets.unsqueeze(-1)
    losses = logs.gather(-1, at).squeeze(-1).neg_()
    slope = logs.exp_()
    slope.scatter_add_(-1, at, slope.new_full((), -1.0).expand_as(at))
    if share is not None:
        slope.mul_(share.unsqueeze(-1))
    return losses, slope


def _backward(
    chain: Chain,
    blocks: Blocks,
    into: Blocks,
    kept: Sequence[Any],
    slope: Tensor,
    *,
    alpha: float,
    beta: float,
    clients: int,
) -> None:
    """Walk back, leaving ``into = beta * into + alpha * gradient``; ``into`` may be ``blocks``.

    One set of weights may have served the batches of many ``clients``, ``[clients * B, ...]``;
    each gets a gradient of its own.
    """
    lowest = next(at for at, layer in enumerate(chain.layers) if layer.first >= 0)
    for at in range(len(chain.layers) - 1, lowest - 1, -1):
        layer, was = chain.layers[at], kept[at]
        match layer.kind:
            case "linear":
                # The inputs' slope comes first, since ``into`` may be the weights.
                below = slope
                if at > lowest:
                    below = _slope_of_inputs(slope, blocks[layer.first][0], clients > 1)
                if _ours(slope):
                    from dai_lab.learning.products import add_slopes_of_weights

                    target = into[layer.first]
                    add_slopes_of_weights(target, slope, was, alpha=alpha, beta=beta)
                else:
                    rise, run = (each.unflatten(0, (clients, -1)) for each in (slope, was))
                    into[layer.first].baddbmm_(rise.mT, run, beta=beta, alpha=alpha)
                if layer.bias:
                    raised = slope.unflatten(0, (clients, -1)).sum(1)
                    _blend(into[layer.first + 1], raised, alpha, beta)
                slope = below
            case "relu":
                slope = torch.ops.aten.threshold_backward(slope, was, 0)
            case "flatten":
                slope = slope.view(was.shape)
                if was.dim() == 4:
                    slope = slope.contiguous(memory_format=torch.channels_last)
            case "halve" if _ours(slope):
                from dai_lab.learning.halving import unhalve

                before, where = was
                if clients == 1 and at - 1 == lowest and before.is_meta:
                    from dai_lab.learning.first_layer import slopes_of_weights

                    under = chain.layers[lowest]
                    side, padding = blocks[under.first].shape[-1], under.knobs[1]
                    found = slopes_of_weights(slope, where, kept[lowest], side, padding)
                    for offset, gradient in enumerate(found[: 1 + under.bias]):
                        _blend(into[under.first + offset][0], gradient, alpha, beta)
                    return
                slope = unhalve(slope, where, *before.shape[2:])
            case "halve":
                before, where, after = was
                slope = torch.ops.aten.threshold_backward(slope, after, 0)
                slope = torch.ops.aten.max_pool2d_with_indices_backward(
                    slope, before, *layer.knobs, False, where
                )
            case "pool":
                before, where = was
                slope = torch.ops.aten.max_pool2d_with_indices_backward(
                    slope, before, *layer.knobs, False, where
                )
            case "conv":
                slope = _conv_backward(
                    layer, blocks, into, was, slope, at > lowest, alpha, beta, clients
                )


def _slope_of_inputs(slope: Tensor, weight: Tensor, shared: bool) -> Tensor:
    if not _ours(slope):
        return slope @ weight
    from dai_lab.learning.products import slope_of_inputs

    return slope_of_inputs(slope, weight, shared=shared)


def _blend(into: Tensor, gradient: Tensor, alpha: float, beta: float) -> None:
    if beta == 0:  # whatever lies there, not a number perhaps
        torch.mul(gradient, alpha, out=into)
        return
    if beta != 1:
        into.mul_(beta)
    into.add_(gradient, alpha=alpha)


def _conv_backward(
    layer: Layer,
    blocks: Blocks,
    into: Blocks,
    was: Tensor,
    slope: Tensor,
    further: bool,
    alpha: float,
    beta: float,
    clients: int,
) -> Tensor:
    weight = blocks[layer.first][0]
    stride, padding, dilation = layer.knobs

    def back(rise: Tensor, run: Tensor, mask: tuple[bool, bool, bool]) -> list[Tensor | None]:
        bias_sizes = [len(weight)] if layer.bias else None
        return list(
            torch.ops.aten.convolution_backward(
                rise, run, weight, bias_sizes, stride, padding, dilation, False, [0, 0], 1, mask
            )
        )

    if clients == 1:
        below, *found = back(slope, was, (further, True, layer.bias))
        gradients = [found]
    else:
        below = back(slope, was, (True, False, False))[0] if further else None
        batches = zip(slope.chunk(clients), was.chunk(clients), strict=True)
        gradients = [back(rise, run, (False, True, layer.bias))[1:] for rise, run in batches]
    for client, of_client in enumerate(gradients):
        for offset, gradient in enumerate(of_client):
            if gradient is not None:
                _blend(into[layer.first + offset][client], gradient, alpha, beta)
    return slope if below is None else below


def descend(
    chain: Chain,
    blocks: Blocks,
    into: Blocks,
    inputs: Tensor,
    targets: Tensor,
    *,
    alpha: float,
    beta: float,
) -> Tensor:
    """Set ``into = beta * into + alpha * gradient`` for one client and return losses ``[1, B]``.

    With ``into = blocks``, ``alpha = -rate`` and ``beta = 1 - rate * weight_decay`` that is a
    whole step of SGD, part of it fused into the products themselves.

    Args:
        chain: The network.
        blocks: Parameters ``[1, *shape]``.
        into: What to change; the blocks themselves or others of their shape.
        inputs: A batch ``[1, B, *S]``.
        targets: Its classes ``[1, B]``.
        alpha: Factor of the gradient of the mean loss.
        beta: Factor of what ``into`` held before.
    """
    logits, kept = _forward(chain, blocks, inputs[0])
    losses, slope = _at_logits(logits, targets[0], None)
    alpha = alpha / targets.shape[1]
    _backward(chain, blocks, into, kept, slope, alpha=alpha, beta=beta, clients=1)
    return losses.unsqueeze(0)


def gradients_at_one_point(
    chain: Chain, blocks: Blocks, inputs: Tensor, targets: Tensor, share: Tensor
) -> tuple[Blocks, Tensor]:
    """Return every client's gradient at one shared point, from one pass over all batches.

    Args:
        chain: The network.
        blocks: The shared parameters, G = 1.
        inputs: Batches ``[clients, B, *S]``.
        targets: Classes ``[clients, B]``.
        share: What each example counts for in its client's mean ``[clients, B]``.

    Returns:
        Gradients ``[clients, *shape]`` and losses ``[clients, B]``.
    """
    into = [block.new_zeros((len(inputs), *block.shape[1:])) for block in blocks]
    losses = add_gradients_at_one_point(
        chain, blocks, into, inputs, targets, share, alpha=1.0, beta=0.0
    )
    return into, losses


def add_gradients_at_one_point(
    chain: Chain,
    blocks: Blocks,
    into: Blocks,
    inputs: Tensor,
    targets: Tensor,
    share: Tensor,
    *,
    alpha: float,
    beta: float,
) -> Tensor:
    """Set ``into = beta * into + alpha * gradient`` and return losses ``[clients, B]``.

    As ``gradients_at_one_point``, with ``into`` ``[clients, *shape]`` perhaps parts of rows.
    """
    clients = len(inputs)
    logits, kept = _forward(chain, blocks, inputs.flatten(0, 1), clients)
    losses, slope = _at_logits(logits, targets.flatten(), share.flatten())
    _backward(chain, blocks, into, kept, slope, alpha=alpha, beta=beta, clients=clients)
    return losses.view(clients, -1)
