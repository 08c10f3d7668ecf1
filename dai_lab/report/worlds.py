"""Figures of methods in worlds: what accuracy costs, and who ranks where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from dai_lab.report.figures import METRICS, canvas, legend, styles, theme
from dai_lab.report.groups import grouped
from dai_lab.report.measures import RESOURCES, unit
from dai_lab.report.ranking import reading, standing
from dai_lab.report.runs import runs
from dai_lab.report.trials import Trial, over, tried

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any

ABREAST = 4
"""Panels side by side, at most."""


def expenses(
    folder: Path | str,
    *,
    metrics: Sequence[str] = ("test_accuracy", "personal_accuracy"),
    dark: bool = False,
) -> Figure:
    """Draw accuracy against rounds, bytes, arithmetic and simulated time, where runs have them.

    Args:
        folder: Holds finished runs, at any depth.
        metrics: Entries of the records; one that no run has is left out.
        dark: Draw for a dark page.

    Raises:
        ValueError: No finished run has any of the metrics.
    """
    return draw_costs(tried(grouped(runs(folder))[0]), metrics=metrics, dark=dark)


def draw_costs(
    trials: Sequence[Trial],
    *,
    metrics: Sequence[str] = ("test_accuracy", "personal_accuracy"),
    resources: Sequence[str] = tuple(RESOURCES),
    targets: Mapping[str, float] | None = None,
    dark: bool = False,
) -> Figure:
    """Draw ``expenses`` of trials: a row of panels for each metric and world.

    Args:
        trials: One for each method and world.
        metrics: What is drawn upward; ``best`` is explained at ``standing``.
        resources: What is drawn to the right, where some run spent any of it. With one alone,
            panels of several worlds fill rows.
        targets: Draw a line at this accuracy, for each metric that has one.
        dark: Draw for a dark page.

    Raises:
        ValueError: No trial has any of the metrics.
    """
    from matplotlib.figure import Figure

    found = {
        (metric, world, resource): lines
        for metric in metrics
        for world in dict.fromkeys(trial.world for trial in trials)
        for resource in resources
        if (lines := _lines(trials, world, metric, resource))
    }
    if not found:
        raise ValueError(f"no finished run has any of {', '.join(metrics)}")
    rows = list(dict.fromkeys(key[:2] for key in found))
    columns = [one for one in resources if any(key[2] == one for key in found)]
    alone = len(columns) == 1
    worlds = len({world for _, world in rows})
    beside = worlds if worlds > 1 else len(rows)
    across = ceil(beside / ceil(beside / ABREAST)) if alone else len(columns)
    deep = len(rows) if not alone else ceil(len(rows) / across)
    names = list(dict.fromkeys(trial.algorithm for trial in trials))
    looks = dict(zip(names, styles(len(names), dark=dark), strict=True))
    wide = max(5.5, (4.6 if alone else 3.7) * across + 0.6)
    with theme(dark=dark):
        figure = canvas(Figure(layout="constrained"), dark=dark)
        grid = figure.subplots(deep, across, squeeze=False)
        free = list(grid.flat)
        panels = {}
        for at, (row, resource) in enumerate(product(rows, columns)):
            axes = free[at]
            if lines := found.get((*row, resource), {}):
                panels[row, resource] = axes
                _panel(axes, lines, resource, looks, target=(targets or {}).get(row[0]))
                # Beside the first panel of a row the others show the same.
                if alone or resource == columns[0]:
                    axes.set_title(_title(*row, alone=len(metrics) == 1), loc="left")
        for axes in free:
            if axes not in panels.values():
                axes.set_axis_off()
        _level(panels)
        lines_of_text = legend(figure, {name: fill(name, int(wide * 10)) for name in names}, wide)
        figure.set_size_inches(wide, (3.8 if alone else 2.9) * deep + 0.5 + 0.24 * lines_of_text)
        figure.draw_without_rendering()
    return figure


def draw_ranks(
    trials: Sequence[Trial], *, metric: str = "test_accuracy", dark: bool = False
) -> Figure:
    """Draw every method's mean rank with its interval, and its place in each world.

    Args:
        trials: One for each method and world.
        metric: What is ranked; see ``standing``.
        dark: Draw for a dark page.

    Raises:
        ValueError: No method has the metric in all worlds.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    found = standing(trials, metric)
    ranked = [name for name in found.algorithms if name in found.ranks]
    if not ranked:
        raise ValueError(f"ranking: no algorithm has {metric} in every world")
    looks = dict(zip(found.worlds, styles(len(found.worlds), dark=dark), strict=True))
    with theme(dark=dark):
        figure = canvas(
            Figure(figsize=(7.2, 1.9 + 0.3 * len(ranked)), layout="constrained"), dark=dark
        )
        axes = figure.subplots()
        ink = axes.xaxis.label.get_color()
        for y, name in enumerate(ranked):
            rank = found.ranks[name]
            axes.plot([rank.low, rank.high], [y, y], color=ink, lw=5, alpha=0.25)
            axes.plot(rank.value, y, "|", color=ink, ms=13, mew=2.2)
        # One world a little above the next, so that the same place hides nobody.
        count = len(looks)
        for number, (world, look) in enumerate(looks.items()):
            lift = 0.5 * ((number + 0.5) / count - 0.5)
            axes.plot(
                [found.places[world, name] for name in ranked],
                [y + lift for y in range(len(ranked))],
                look["marker"],
                color=look["color"],
                label=world,
                alpha=0.85,
            )
        axes.set_yticks(range(len(ranked)), ranked)
        axes.set(xlim=(0.4, len(ranked) + 0.6), ylim=(len(ranked) - 0.4, -0.6))
        axes.set_xlabel("place by final accuracy, 1 is best; bar: mean over worlds, 95 % interval")
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, {world: world for world in found.worlds}, 7.2)
        figure.draw_without_rendering()
    return figure


def _lines(
    trials: Sequence[Trial], world: str, metric: str, resource: str
) -> dict[str, tuple[Any, Any, bool]]:
    """Estimate a panel's curves, for every method that has one."""
    found = {}
    for trial in trials:
        if trial.world == world:
            line = over([*trial.seeds.values()], reading(trial, metric), resource)
            if line is not None:
                found[trial.algorithm] = line
    return found


def _panel(
    axes: Axes,
    lines: Mapping[str, tuple[Any, Any, bool]],
    resource: str,
    looks: Mapping[str, dict[str, Any]],
    *,
    target: float | None,
) -> None:
    from matplotlib.ticker import MaxNLocator

    most = max((grid[-1] for grid, _, _ in lines.values()), default=0.0)
    name, worth = unit(most, RESOURCES[resource].units)
    crowd = len(looks) > 7
    slim = {"linewidth": 1.2, "markersize": 4} if crowd else {}
    for number, (label, (grid, points, same)) in enumerate(lines.items()):
        look, amounts = {**looks[label], **slim}, grid / worth
        every = max(1, len(amounts) // 6)
        # Between amounts at which seeds were not judged alike, nothing is known but the last.
        stairs = "default" if same else "steps-post"
        axes.plot(
            amounts,
            [point.value for point in points],
            label=label,
            # In a crowd no two neighbors put their markers on the same place.
            markevery=(number % every, every) if crowd else every,
            drawstyle=stairs,
            **look,
        )
        axes.fill_between(
            amounts,
            [point.low for point in points],
            [point.high for point in points],
            step=None if same else "post",
            color=look["color"],
            alpha=0.1 if crowd else 0.18,
            linewidth=0,
        )
    if target is not None:
        axes.axhline(target, color=axes.xaxis.label.get_color(), lw=0.9, ls=(0, (2, 2)))
    axes.set_xlabel(RESOURCES[resource].axis.format(name))
    if resource == "round":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _title(metric: str, world: str, *, alone: bool) -> str:
    said = METRICS.get(metric, metric.replace("_", " "))
    if not world:
        return said
    return world if alone else f"{world}: {said}"


def _level(panels: Mapping[tuple[tuple[str, str], str], Axes]) -> None:
    """Give panels side by side one scale upward, and those of one world one scale across."""
    for (row, resource), axes in panels.items():
        beside = [other for (own, _), other in panels.items() if own == row]
        below = [
            other for (own, one), other in panels.items() if (own[1], one) == (row[1], resource)
        ]
        axes.set_ylim(
            min(other.get_ylim()[0] for other in beside),
            max(other.get_ylim()[1] for other in beside),
        )
        axes.set_xlim(0, max(other.get_xlim()[1] for other in below))
