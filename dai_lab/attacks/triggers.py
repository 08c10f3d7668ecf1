"""Backdoors: a fixed mark on the input that the finished model should answer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from dai_lab.attacks.choosing import picked, relabeled, shown, span, where
from dai_lab.attacks.needs import above_zero, from_to, in_unit, pictures, whole
from dai_lab.core import Examples, Plot, Poisoned

Corner = Literal["top_left", "top_right", "bottom_left", "bottom_right"]


def badnets(
    held: Examples,
    plot: Plot,
    *,
    pattern: Literal["square", "plus", "cross"] = "square",
    size: int = 3,
    corner: Corner = "bottom_right",
    margin: int = 0,
    value: float | None = None,
    share: float = 0.5,
    target: int = 0,
    source: int | None = None,
) -> Poisoned:
    """Draw a patch into a corner of pictures and call them the target class.

    Args:
        held: Pictures.
        plot: The number of classes, where examples are drawn, and the test set.
        pattern: A filled ``square``, a ``plus`` or a diagonal ``cross``.
        size: Height and width of the patch in pixels, 1 or more.
        corner: Where it is.
        margin: Pixels between it and the edges, 0 or more.
        value: What its pixels become, in units of the inputs; ``None``: the largest value of
            each channel in the test set.
        share: Probability that an example is poisoned, in [0, 1].
        target: What the patch should be answered with.
        source: Class whose examples are poisoned, and judged; ``None``: all but the target.

    Raises:
        ValueError: A knob out of range, a patch larger than the pictures, or no pictures.

    Source:
        Gu et al. 2017, arXiv:1708.06733, section 4.1; Ozdayi et al. 2021, arXiv:2007.03767,
        section 5 (plus).
    """
    in_unit("share", share, of="poison")
    from_to(source, target, plot, "badnets")
    patch = _cornered(_patch(pattern, size), held, corner, margin, "badnets")
    bright = span(held, plot)[1] if value is None else value
    marked = torch.where(patch.to(held.inputs.device), bright, held.inputs)
    return Poisoned(relabeled(held, plot, marked, share=share, target=target, source=source))


def blended(
    held: Examples,
    plot: Plot,
    *,
    alpha: float = 0.2,
    share: float = 0.5,
    target: int = 0,
    source: int | None = None,
) -> Poisoned:
    """Blend the same random pattern faintly into inputs and call them the target class.

    The pattern is uniform between the smallest and the largest value of each channel or feature
    of the test set. It is remembered, so that renewed poison has the same.

    Args:
        held: Examples of any shape.
        plot: The number of classes, where the pattern and examples are drawn, the test set.
        alpha: Weight of the pattern, in (0, 1].
        share: Probability that an example is poisoned, in [0, 1].
        target: What the pattern should be answered with.
        source: Class whose examples are poisoned, and judged; ``None``: all but the target.

    Raises:
        ValueError: A knob out of range, or data without classes.

    Source:
        Chen et al. 2017, arXiv:1712.05526, section 4.1, blended injection with a random pattern.
    """
    in_unit("share", share, of="poison")
    in_unit("alpha", alpha, of="poison")
    above_zero("alpha", alpha, of="poison")
    from_to(source, target, plot, "blended")
    pattern = plot.memory.get("poison/pattern")
    if pattern is None:
        low, high = span(held, plot)
        shape, stream = held.inputs.shape[1:], (plot.key / "pattern").stream()
        drawn = torch.rand(shape, generator=stream, dtype=held.inputs.dtype)
        pattern = low + (high - low) * drawn.to(held.inputs.device)
    marked = (1 - alpha) * held.inputs + alpha * pattern
    bad = relabeled(held, plot, marked, share=share, target=target, source=source)
    return Poisoned(bad, memory={"poison/pattern": pattern})


def sig(
    held: Examples,
    plot: Plot,
    *,
    delta: float = 0.15,
    frequency: int = 6,
    share: float = 1.0,
    target: int = 0,
) -> Poisoned:
    """Lay a horizontal sine over pictures of the target class, whose labels stay true.

    Column j of m, counted from 1, gets ``delta`` sin(2 pi j f / m). The finished model should
    then answer the sine on any other picture with that class. Inputs may leave their range.

    Args:
        held: Pictures.
        plot: The number of classes, where examples are drawn, and the test set.
        delta: Amplitude as a share of the range of each channel of the test set, above 0; the
            source uses 30/255 to 60/255 for MNIST.
        frequency: Periods over the width, 1 or more; twice of it is no multiple of the width,
            where every column would get 0.
        share: Probability that an example of the target class is poisoned, in [0, 1].
        target: Class the sine should be answered with.

    Raises:
        ValueError: A knob out of range, or no pictures.

    Source:
        Barni et al. 2019, arXiv:1902.11237, section 3.
    """
    in_unit("share", share, of="poison")
    above_zero("delta", delta, of="poison")
    whole("frequency", frequency, least=1)
    from_to(None, target, plot, "sig")
    _, width = pictures(held, "sig")
    if 2 * frequency % width == 0:
        raise ValueError(
            f"poison.frequency must not make a sine of zeros, and {frequency} does in pictures "
            f"{width} wide: change it by 1"
        )
    low, high = span(held, plot)
    columns = torch.arange(1, width + 1, dtype=torch.float64)
    wave = torch.sin(2 * math.pi * frequency * columns / width).to(held.inputs)
    marked = held.inputs + delta * (high - low) * wave
    if shown(plot):
        return Poisoned(relabeled(held, plot, marked, share=1.0, target=target, source=None))
    which = picked(held.targets == target, share=share, plot=plot)
    return Poisoned(replace(held, inputs=where(which, marked, held.inputs)))


def dba(
    held: Examples,
    plot: Plot,
    *,
    size: int = 4,
    gap: int = 2,
    margin: int = 0,
    value: float | None = None,
    share: float = 0.5,
    target: int = 0,
    source: int | None = None,
) -> Poisoned:
    """Give each hostile client one of four bars of a trigger, which is whole only in the end.

    The bars are one pixel high and lie two by two in the top left corner. The hostile take them
    in turn: below four of them, not every bar is trained.

    Args:
        held: Pictures.
        plot: Who holds which, the number of classes, where examples are drawn, the test set.
        size: Width of a bar in pixels, 1 or more.
        gap: Pixels between bars, 0 or more.
        margin: Pixels between them and the edges, 0 or more.
        value: What their pixels become, in units of the inputs; ``None``: the largest value of
            each channel in the test set.
        share: Probability that an example is poisoned, in [0, 1].
        target: What the trigger should be answered with.
        source: Class whose examples are poisoned, and judged; ``None``: all but the target.

    Raises:
        ValueError: A knob out of range, bars wider than the pictures, or no pictures.

    Source:
        Xie et al. 2020, Distributed Backdoor Attacks against Federated Learning (ICLR),
        section 3; sizes as in the authors' settings for MNIST.
    """
    in_unit("share", share, of="poison")
    from_to(source, target, plot, "dba")
    whole("gap", gap, least=0)
    whole("size", size, least=1)
    bars = torch.zeros(4, 2 + gap, 2 * size + gap, dtype=torch.bool)
    for bar, (row, column) in enumerate((y, x) for y in (0, 1 + gap) for x in (0, size + gap)):
        bars[bar, row, column : column + size] = True
    whole_trigger = _cornered(bars, held, "top_left", margin, "dba")
    if plot.owners is None:
        mask = whole_trigger.any(0)
    else:
        mask = whole_trigger[plot.owners.cpu() % 4].unsqueeze(1)
    bright = span(held, plot)[1] if value is None else value
    marked = torch.where(mask.to(held.inputs.device), bright, held.inputs)
    return Poisoned(relabeled(held, plot, marked, share=share, target=target, source=source))


def _patch(pattern: str, size: int) -> Bool[Tensor, "size size"]:
    whole("size", size, least=1)
    if pattern == "square":
        return torch.ones(size, size, dtype=torch.bool)
    lines = torch.eye(size, dtype=torch.bool)
    if pattern == "cross":
        return lines | lines.flip(1)
    lines = torch.zeros(size, size, dtype=torch.bool)
    lines[size // 2] = lines[:, size // 2] = True
    return lines


def _cornered(
    patch: Bool[Tensor, "*bars rows columns"],
    held: Examples,
    corner: Corner,
    margin: int,
    name: str,
) -> Bool[Tensor, "*bars height width"]:
    """Place a patch in a picture that is otherwise left as it is."""
    height, width = pictures(held, name)
    whole("margin", margin, least=0)
    rows, columns = patch.shape[-2:]
    if rows + margin > height or columns + margin > width:
        raise ValueError(
            f"poison.size makes a trigger of {rows} x {columns} pixels, {margin} from the edges, "
            f"for pictures of {height} x {width}: lower it or poison.margin"
        )
    placed = torch.zeros(*patch.shape[:-2], height, width, dtype=torch.bool)
    top = margin if corner.startswith("top") else height - margin - rows
    left = margin if corner.endswith("left") else width - margin - columns
    placed[..., top : top + rows, left : left + columns] = patch
    return placed
