"""Pictures of rows in two dimensions, with an aggregator's verdict on each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from dai_lab.core import Aggregate, Rows
from dai_lab.metrics import Plane, plane
from dai_lab.report.figures import canvas, theme
from dai_lab.report.groups import Group

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any

WIDE = 4
"""Panels side by side."""

SETTINGS = 6
"""Settings of a study that are drawn."""


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
    return _draw(panels, dark=dark)


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


def _draw(panels: Mapping[str, Plane], *, dark: bool, across: int = WIDE) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if not panels:
        raise ValueError("there are no rows to draw: no verdict, or no run with +watch=rows")
    across = min(across, len(panels))
    down = -(-len(panels) // across)
    honest, liar = ("#56B4E9", "#E69F00") if dark else ("#0072B2", "#D55E00")
    ink = "#e8e6e3" if dark else "#1b1f24"
    with theme(dark=dark):
        size = (2.9 * across + 0.3, 2.9 * down + 0.9)
        figure = canvas(Figure(figsize=size, layout="constrained"), dark=dark)
        for axes, (name, one) in zip(
            figure.subplots(down, across, squeeze=False).flat, panels.items(), strict=False
        ):
            for at, (x, y) in enumerate(one.places):
                lies = one.hostile[at]
                color = liar if lies else honest
                axes.plot(
                    x, y, "D" if one.far[at] else "s" if lies else "o", ms=6, mec=color, mew=1.3,
                    mfc=color if one.kept[at] else "none", alpha=0.85,
                )  # fmt: skip
                if one.suspected[at]:
                    axes.plot(x, y, "x", color=ink, ms=8, mew=1.4)
            axes.plot(*one.update, "*", color=ink, ms=13, mec=axes.get_facecolor(), mew=0.8)
            axes.set_title(fill(name, 30), loc="left")
            axes.set(aspect="equal", adjustable="datalim", xticks=[], yticks=[])
            axes.margins(0.15)
            if one.lost:
                axes.set_xlabel(f"{one.lost} not finite, left out")
        for axes in figure.axes[len(panels) :]:
            axes.remove()
        marks = {
            "honest, used": Line2D([], [], ls="", marker="o", mec=honest, mfc=honest),
            "honest, dropped": Line2D([], [], ls="", marker="o", mec=honest, mfc="none"),
            "hostile": Line2D([], [], ls="", marker="s", mec=liar, mfc=liar),
            "hostile, dropped": Line2D([], [], ls="", marker="s", mec=liar, mfc="none"),
            "far beyond the border": Line2D([], [], ls="", marker="D", mec=ink, mfc="none"),
            "accused": Line2D([], [], ls="", marker="x", color=ink),
            "update": Line2D([], [], ls="", marker="*", color=ink, ms=11),
        }
        figure.legend(
            marks.values(), marks, loc="outside lower center", ncols=min(7, max(2, across + 1))
        )
        figure.draw_without_rendering()
    return figure
