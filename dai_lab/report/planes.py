"""Pictures of rows in two dimensions, with an aggregator's verdict on each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from textwrap import fill
from typing import TYPE_CHECKING, Any

from dai_lab.core import Aggregate, Rows
from dai_lab.metrics import Plane, plane
from dai_lab.report.figures import canvas, theme
from dai_lab.report.groups import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
else:
    Axes = Figure = Line2D = Any

WIDE = 4
"""Panels side by side."""

SETTINGS = 6
"""Settings of a study that are drawn."""

ENTRY = 1.95
"""Inches that one mark and its meaning take in a legend."""


def draw_rows(
    rows: Rows,
    verdicts: Mapping[str, Aggregate],
    *,
    hostile: Collection[int] = (),
    dark: bool = False,
) -> Figure:
    """Draw what each rule makes of the same rows, a panel for each.

    Args:
        rows: ``[n, d]``; rows of two numbers are drawn where they are, others on the two
            directions in which they differ most.
        verdicts: From a title to what an aggregator returned for these rows.
        hostile: Which rows lie, from 0.
        dark: Draw for a dark page.

    Raises:
        ValueError: There is no verdict.
    """
    panels = {name: plane(rows, verdict, hostile) for name, verdict in verdicts.items()}
    return _draw(panels, dark=dark, together=True)


def pictured(groups: Sequence[Group]) -> dict[str, Plane]:
    """Find the first and last picture of rows in the first run of each setting."""
    found: dict[str, Plane] = {}
    for group in groups[:SETTINGS]:
        kept = [(one["round"], line) for one in group.runs[0].rounds if (line := _line(one))]
        for number, line in dict([kept[0], kept[-1]] if kept else []).items():
            try:
                name = f"{group.label}, round {number}" if group.label else f"round {number}"
                found[name] = Plane.read(line)
            except ValueError:
                continue  # written by something else under this name
    return found


def draw_planes(groups: Sequence[Group], *, dark: bool = False) -> Figure:
    """Draw the pictures of rows that runs kept (``+watch=rows``)."""
    return _draw(pictured(groups), dark=dark, across=2)


def _line(record: Mapping[str, Any]) -> str | None:
    found = [record[name] for name in record if name.endswith("/plane")]
    return found[0] if found and isinstance(found[0], str) else None


def _view(panels: Sequence[Plane]) -> tuple[list[float], float]:
    """Give the middle of a square that holds all there is to see, and half its side."""
    spots = [spot for one in panels for spot in [*one.places, one.update]]
    spots = [spot for spot in spots if all(map(isfinite, spot))] or [[0.0, 0.0]]
    ends = [(min(numbers), max(numbers)) for numbers in zip(*spots, strict=True)]
    reach = max(high - low for low, high in ends) / 2
    return [(low + high) / 2 for low, high in ends], 1.15 * reach or 1.0


def _draw(
    panels: Mapping[str, Plane], *, dark: bool, across: int = WIDE, together: bool = False
) -> Figure:
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("there are no rows to draw: no verdict, or no run with +watch=rows")
    across = min(across, len(panels))
    down = -(-len(panels) // across)
    with theme(dark=dark):
        figure = canvas(Figure(layout="constrained"), dark=dark)
        for axes, (name, one) in zip(
            figure.subplots(down, across, squeeze=False).flat, panels.items(), strict=False
        ):
            _panel(axes, one, dark=dark)
            axes.set_title(fill(name, 30), loc="left")
            (x, y), reach = _view([*panels.values()] if together else [one])
            axes.set(xlim=(x - reach, x + reach), ylim=(y - reach, y + reach))
            axes.set(aspect="equal", xticks=[], yticks=[])
            if one.lost:
                axes.set_xlabel(f"{one.lost} not finite, left out")
        for axes in figure.axes[len(panels) :]:
            axes.remove()
        marks = _marks(dark=dark)
        wide = max(2.9 * across, 4.2) + 0.3
        columns = min(len(marks), int(wide / ENTRY))
        figure.legend(marks.values(), marks, loc="outside lower center", ncols=columns)
        lines = -(-len(marks) // columns)
        figure.set_size_inches(wide, 2.9 * down + 0.4 + 0.25 * lines)
        figure.draw_without_rendering()
    return figure


def _colors(*, dark: bool) -> tuple[str, str, str]:
    """Give the colors of the honest, of liars, and of what was thought of them."""
    return ("#56B4E9", "#E69F00", "#e8e6e3") if dark else ("#0072B2", "#D55E00", "#1b1f24")


def _panel(axes: Axes, one: Plane, *, dark: bool) -> None:
    honest, liar, ink = _colors(dark=dark)
    for (x, y), kept, accused, lies, far in zip(
        one.places, one.kept, one.suspected, one.hostile, one.far, strict=True
    ):
        color = liar if lies else honest
        face = color if kept else "none"
        mark = "D" if far else "s" if lies else "o"
        axes.plot(x, y, mark, ms=6, mec=color, mew=1.3, mfc=face, alpha=0.85)
        if accused:
            axes.plot(x, y, "x", color=ink, ms=8, mew=1.4)
    axes.plot(*one.update, "*", color=ink, ms=13, mec=axes.get_facecolor(), mew=0.8)
    if one.astray:
        axes.plot(*one.update, "D", ms=14, mec=ink, mew=1.2, mfc="none")


def _marks(*, dark: bool) -> dict[str, Line2D]:
    """Show what each mark means."""
    from matplotlib.lines import Line2D

    honest, liar, ink = _colors(dark=dark)
    looks: dict[str, dict[str, Any]] = {
        "honest, used": {"marker": "o", "mec": honest, "mfc": honest},
        "honest, dropped": {"marker": "o", "mec": honest, "mfc": "none"},
        "hostile, used": {"marker": "s", "mec": liar, "mfc": liar},
        "hostile, dropped": {"marker": "s", "mec": liar, "mfc": "none"},
        "beyond the border": {"marker": "D", "mec": ink, "mfc": "none"},
        "accused": {"marker": "x", "color": ink},
        "update": {"marker": "*", "color": ink, "ms": 11},
    }
    return {name: Line2D([], [], ls="", **look) for name, look in looks.items()}
