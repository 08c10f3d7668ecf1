"""Heat maps of aggregators against attacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dai_lab.metrics import worst
from dai_lab.report.attacks import WHEN, curve
from dai_lab.report.figures import canvas, theme
from dai_lab.report.trials import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any

LOWEST = {"test_accuracy": True, "attack_success": False}
"""What is drawn, and whether the worst of it is the lowest."""

COLORS = "cividis"
"""Read alike by eyes that see all colors and by those that do not, and in gray."""

BRIGHT = 0.46
"""Accuracy above which black is easier to read on its color than white."""


def draw_heat(
    trials: Sequence[Trial],
    *,
    of: str = "final",
    metric: str = "test_accuracy",
    dark: bool = False,
) -> Figure:
    """Draw accuracies or successes, aggregators down and attacks across, a panel a world.

    The last column is the worst of each row; what was not tried stays empty, and an aggregator
    that was not tried at all in a world has no row there.

    Args:
        trials: One for each aggregator, world and attack.
        of: ``final`` value, or the ``peak`` of the mean over seeds.
        metric: ``test_accuracy``, whose worst is the lowest, or ``attack_success``, the highest.
        dark: Draw for a dark page.

    Raises:
        ValueError: Neither word, runs that are not named after attacks, or without the metric.
    """
    from matplotlib.figure import Figure

    if of not in WHEN:
        raise ValueError(f"heat: of must be final or peak, got {of}")
    if not all(trial.attack for trial in trials):
        raise ValueError("name must be <study>,<world>,<attack>,<aggregator> in every run")
    measured = [trial for trial in trials if trial.has(metric)]
    if metric not in LOWEST or not measured:
        raise ValueError(f"heat: no finished run has {metric} to draw: {', '.join(LOWEST)}")
    if metric != "test_accuracy":  # every run has that, unless it broke down before it was judged
        trials = measured
    worlds, attacks = (
        [*dict.fromkeys(getattr(trial, what) for trial in trials)] for what in ("world", "attack")
    )
    known = [*dict.fromkeys(trial.algorithm for trial in trials)]
    there = {(trial.world, trial.algorithm) for trial in trials}
    rows = {world: [name for name in known if (world, name) in there] for world in worlds}
    with theme(dark=dark):
        wide = 2.6 + 0.62 * (len(attacks) + 1)
        lines = [len(names) for names in rows.values()]
        deep = 1.2 + 0.34 * sum(lines) + 0.45 * len(lines)
        figure = canvas(Figure(figsize=(wide, deep), layout="constrained"), dark=dark)
        panels = figure.subplots(len(worlds), 1, squeeze=False, height_ratios=lines)[:, 0]
        for axes, (world, names) in zip(panels, rows.items(), strict=True):
            values = np.full((len(names), len(attacks) + 1), np.nan)
            for trial in trials:
                if trial.world == world:
                    _, found = worst([curve(trial, metric)], peak=of == "peak", resamples=1)
                    at = names.index(trial.algorithm), attacks.index(trial.attack)
                    values[at] = found.value
            tried = ~np.isnan(values).all(axis=1)
            worse = np.nanmin if LOWEST[metric] else np.nanmax
            values[tried, -1] = worse(values[tried, :-1], axis=1)
            axes.imshow(values, cmap=COLORS, vmin=0, vmax=1, aspect="auto")
            for (row, column), value in np.ndenumerate(values):
                if not np.isnan(value):
                    ink = "#000000" if value > BRIGHT else "#ffffff"
                    weight = "bold" if column == len(attacks) else "normal"
                    said = f"{value:.2f}".removeprefix("0") if value < 0.995 else "1.0"
                    axes.text(
                        column, row, said, color=ink, weight=weight, ha="center", va="center",
                        fontsize=9,
                    )  # fmt: skip
            axes.axvline(len(attacks) - 0.5, color=axes.get_facecolor(), lw=4)
            axes.set_xticks([])
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(length=0)
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            axes.set_title(f"{world}: {of} {metric.replace('_', ' ')}", loc="left")
        words = [*attacks, "worst"]
        panels[-1].set_xticks(range(len(words)), words, rotation=35, ha="right")
        figure.draw_without_rendering()
    return figure
