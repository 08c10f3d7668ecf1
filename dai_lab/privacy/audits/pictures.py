"""How close pictures came that were read in a gradient, and a look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any

WINDOW, SPREAD = 11, 1.5
"""Pixels a side of the window in which ``ssim`` compares, and its standard deviation."""


def scaled(inputs: Float[Tensor, "..."], *, low: float, high: float) -> Float[Tensor, "..."]:
    """Bring pixels from ``low..high`` to 0..1; what lies outside is cut off."""
    if not low < high:
        raise ValueError(f"audit: low must be below high, got {low} and {high}")
    return ((inputs - low) / (high - low)).clamp(0, 1)


def psnr(
    found: Float[Tensor, "pictures ..."], real: Float[Tensor, "pictures ..."]
) -> Float[Tensor, "pictures"]:
    """Compare pictures one by one: peak signal-to-noise ratio, in decibels.

    Args:
        found: Pixels in 0..1.
        real: Pixels in 0..1.

    Returns:
        Infinite for equal pictures; 20 is close, and below 10 nothing is to be seen.
    """
    return (found - real).square().flatten(1).mean(1).log10().mul(-10)


def ssim(
    found: Float[Tensor, "pictures channels height width"],
    real: Float[Tensor, "pictures channels height width"],
) -> Float[Tensor, "pictures"]:
    """Compare pictures one by one: structural similarity, at most 1 for equal ones.

    Args:
        found: Pixels in 0..1, at least 11 a side.
        real: Pixels in 0..1.

    Raises:
        ValueError: Pictures smaller than the window.

    Source:
        Wang et al. 2004, "Image quality assessment: from error visibility to structural
        similarity", section III.B (Gaussian window, only where it fits).
    """
    if min(real.shape[-2:]) < WINDOW:
        raise ValueError(f"ssim needs {WINDOW} pixels a side, got {tuple(real.shape[-2:])}")
    line = torch.arange(WINDOW, dtype=real.dtype, device=real.device) - WINDOW // 2
    bell = (-0.5 * (line / SPREAD).square()).exp()
    window = (bell / bell.sum()).outer(bell / bell.sum())[None, None]

    def local(values: Tensor) -> Tensor:
        return functional.conv2d(values.flatten(0, 1)[:, None], window)[:, 0]

    means = local(found), local(real)
    spreads = [
        local(one.square()) - mean.square() for one, mean in zip((found, real), means, strict=True)
    ]
    shared = local(found * real) - means[0] * means[1]
    light, contrast = 0.01**2, 0.03**2
    likeness = (2 * means[0] * means[1] + light) * (2 * shared + contrast)
    likeness = likeness / (means[0].square() + means[1].square() + light)
    likeness = likeness / (spreads[0] + spreads[1] + contrast)
    overall: Tensor = likeness.unflatten(0, real.shape[:2]).flatten(1).mean(1)
    return overall


def matched(
    found: Float[Tensor, "found ..."], real: Float[Tensor, "real ..."]
) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "pairs"]]:
    """Pair what was found with what is real, for the least squared error in all.

    An attack on many says what was there, not in which order; as many pairs as the fewer allow.

    Args:
        found: Recovered pictures.
        real: The originals.

    Returns:
        Places in ``found`` and in ``real``, the latter ascending where all are paired.
    """
    from scipy.optimize import linear_sum_assignment

    apart = (found[:, None] - real[None]).square().flatten(2).mean(2)
    there, here = linear_sum_assignment(apart.detach().cpu().double().T.numpy())
    return torch.from_numpy(here), torch.from_numpy(there)


def beside(
    panels: Mapping[str, Mapping[str, Float[Tensor, "_ 1 height width"]]],
    *,
    notes: Mapping[tuple[str, str], str] | None = None,
    dark: bool = False,
) -> Figure:
    """Draw originals beside what was made of them: panels side by side, in each a row a kind.

    Args:
        panels: By title, then by row (``original``, ``no noise``), the same rows in each; gray
            pixels in 0..1, as many pictures in each row of a panel.
        notes: What to write below a row, by panel and row.
        dark: Draw for a dark page.

    Raises:
        ValueError: Panels with different rows, or none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    rows: Sequence[str] = list(next(iter(panels.values()), {}))
    if not rows or any(list(panel) != rows for panel in panels.values()):
        raise ValueError("audit: pictures need panels that all have the same rows")
    ink, ground = ("#e8e6e3", "#15181c") if dark else ("#1b1f24", "#ffffff")
    wide = [len(panel[rows[0]]) for panel in panels.values()]
    size = (1.3 + 0.85 * sum(wide) + 0.15 * len(wide), 0.4 + (1.2 if notes else 0.95) * len(rows))
    figure = Canvas(figsize=size, layout="constrained", facecolor=ground)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(panels), squeeze=False, width_ratios=wide)
    for column, (title, panel) in enumerate(panels.items()):
        for line, (row, pictures) in enumerate(panel.items()):
            axes = grid[line, column]
            _strip(axes, pictures)
            axes.set_xlabel((notes or {}).get((title, row), ""), color=ink, fontsize=8)
            if line == 0:
                axes.set_title(title, color=ink, fontsize=10)
            if column == 0:
                axes.set_ylabel(
                    row, color=ink, rotation=0, ha="right", va="center", fontsize=10
                )  # fmt: skip
    return figure


def _strip(axes: Axes, pictures: Float[Tensor, "pictures 1 height width"]) -> None:
    """Draw pictures in a row, a pixel apart."""
    tiles = functional.pad(pictures[:, 0].detach().cpu().float(), (0, 1), value=torch.nan)
    line = torch.cat(list(tiles), dim=1)[:, :-1]
    axes.imshow(line.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)
