"""Figures of a study: how it went over rounds, and where it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle, islice
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from dai_lab.metrics import band, estimate, final
from dai_lab.report.groups import Group, grouped
from dai_lab.report.runs import runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any

# Okabe and Ito's colors, told apart by colorblind eyes; the palest go last on each ground.
ON_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ON_DARK = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#FFFFFF")
STROKES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

METRICS = {
    "test_accuracy": "test accuracy",
    "personal_accuracy": "accuracy of clients' own models",
    "test_loss": "test loss",
    "client_accuracy_worst10": "accuracy of the worst 10 % of clients",
}
"""What is drawn over rounds, where a study has it, and how it is called."""


@contextmanager
def theme(*, dark: bool = False) -> Iterator[None]:
    """Draw for a light or a dark page; matplotlib's own settings come back afterwards."""
    import matplotlib

    ink, faint = ("#e8e6e3", "#4a4f57") if dark else ("#1b1f24", "#d0d4da")
    ground = "#15181c" if dark else "#ffffff"
    settings: Any = {
        "figure.facecolor": ground,
        "axes.facecolor": ground,
        "savefig.facecolor": "auto",
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "grid.color": faint,
        "grid.linewidth": 0.6,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 11,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "axes.titlesize": "medium",
        "figure.constrained_layout.h_pad": 0.1,
        "figure.constrained_layout.w_pad": 0.1,
        "legend.frameon": False,
        # Same records, same bytes.
        "svg.hashsalt": "dai_lab",
    }
    with matplotlib.rc_context(settings):
        yield


def styles(count: int, *, dark: bool = False) -> list[dict[str, Any]]:
    """Give every curve its own color, stroke and marker; no pair repeats for 280 curves."""
    both = zip(cycle(ON_DARK if dark else ON_LIGHT), cycle(STROKES), cycle(MARKERS), strict=False)
    return [
        {"color": color, "linestyle": stroke, "marker": marker}
        for color, stroke, marker in islice(both, count)
    ]


def curves(
    folder: Path | str, *, metrics: Sequence[str] = tuple(METRICS), dark: bool = False
) -> Figure:
    """Draw metrics over rounds, one line per setting and its 95 % interval over seeds.

    Args:
        folder: Holds finished runs, at any depth.
        metrics: Entries of the records; one that no run has is left out.
        dark: Draw for a dark page.

    Raises:
        ValueError: No finished run has any of the metrics.
    """
    return draw_curves(grouped(runs(folder))[0], metrics=metrics, dark=dark)


def finals(folder: Path | str, *, metric: str = "test_accuracy", dark: bool = False) -> Figure:
    """Draw where every setting ended, with its interval and a dot for each seed.

    Args:
        folder: Holds finished runs, at any depth.
        metric: Entry of the records.
        dark: Draw for a dark page.

    Raises:
        ValueError: No finished run has the metric.
    """
    return draw_finals(grouped(runs(folder))[0], metric=metric, dark=dark)


def draw_curves(
    groups: Sequence[Group], *, metrics: Sequence[str] = tuple(METRICS), dark: bool = False
) -> Figure:
    """Draw ``curves`` of groups that were read already."""
    from matplotlib.figure import Figure

    shown = [metric for metric in metrics if any(_has(group, metric) for group in groups)]
    if not shown:
        raise ValueError(f"no finished run has any of {', '.join(metrics)}")
    with theme(dark=dark):
        wide = 4.6 * len(shown)
        wide = max(5.5, wide)
        names = {group.label: fill(group.label, int(wide * 10)) for group in groups}
        figure = canvas(Figure(layout="constrained"), dark=dark)
        for axes, metric in zip(
            figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
        ):
            for group, style in zip(groups, styles(len(groups), dark=dark), strict=True):
                if _has(group, metric):
                    _line(axes, group, metric, style)
            axes.set_xlabel("round")
            axes.set_title(METRICS.get(metric, metric), loc="left")
            axes.xaxis.get_major_locator().set_params(integer=True)
        deep = legend(figure, names, wide)
        figure.set_size_inches(wide, 3.4 + 0.24 * deep)
        # Ticks take their colors when they are first needed, which must not be after the theme.
        figure.draw_without_rendering()
    return figure


def draw_finals(
    groups: Sequence[Group], *, metric: str = "test_accuracy", dark: bool = False
) -> Figure:
    """Draw ``finals`` of groups that were read already."""
    from matplotlib.figure import Figure

    ends: dict[str, tuple[list[float], dict[str, Any]]] = {}
    for group, look in zip(groups, styles(len(groups), dark=dark), strict=True):
        found = [final(run.rounds, metric) for run in group.runs]
        if values := [value for value in found if value is not None]:
            ends[group.label] = (values, look)
    if not ends:
        raise ValueError(f"no finished run has {metric}")
    with theme(dark=dark):
        names = [fill(label, 48) for label in ends]
        wide = 4.8 + 0.09 * max(len(line) for name in names for line in name.splitlines())
        height = 1.3 + sum(0.2 + 0.2 * (name.count("\n") + 1) for name in names)
        figure = canvas(Figure(figsize=(wide, height), layout="constrained"), dark=dark)
        axes = figure.subplots()
        for place, (values, look) in enumerate(ends.values()):
            center = estimate(values)
            axes.plot(values, [place] * len(values), "|", color=look["color"], alpha=0.6, ms=9)
            axes.plot([center.low, center.high], [place] * 2, color=look["color"], lw=2.5)
            axes.plot(center.value, place, look["marker"], color=look["color"], ms=6)
        axes.set_yticks(range(len(ends)), names)
        axes.set(xlabel=f"final {METRICS.get(metric, metric)}", ylim=(len(ends) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        figure.draw_without_rendering()
    return figure


def rendered(figure: Figure, kind: str, *, dark: bool = False) -> bytes:
    """Write a figure as ``svg`` or ``png``, without the date and with no address in it."""
    blank: Mapping[str, Any] = {
        "svg": {name: None for name in ("Creator", "Date", "Format", "Type")},
        "png": {"Software": None},
    }[kind]
    out = BytesIO()
    with theme(dark=dark):
        figure.savefig(out, format=kind, dpi=150, metadata=dict(blank))
    return out.getvalue()


def legend(figure: Figure, names: Mapping[str, str], wide: float) -> int:
    """Name the curves of all panels once, below them; return how many lines of text that takes.

    Args:
        figure: Its panels' curves have labels.
        names: How each label is written.
        wide: Inches to fill.
    """
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    shown = [label for label in names if label in handles]
    texts = [names[label] for label in shown]
    columns = _columns(texts, wide)
    figure.legend(
        [handles[label] for label in shown], texts, loc="outside lower center", ncols=columns
    )
    return ceil(sum(text.count("\n") + 1 for text in texts) / columns)


def canvas(figure: Figure, *, dark: bool) -> Figure:
    """Attach the canvas that draws without a screen, and let a notebook show the figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure._repr_png_ = lambda: rendered(figure, "png", dark=dark)  # type: ignore[attr-defined]
    return figure


def _line(axes: Axes, group: Group, metric: str, style: dict[str, Any]) -> None:
    from pandas import DataFrame

    seeds = [
        {record["round"]: record[metric] for record in run.rounds if metric in record}
        for run in group.runs
    ]
    known = DataFrame(seeds).sort_index(axis=1).astype(float)
    known = known.loc[:, known.notna().any()]
    points = band(known.to_numpy())
    rounds = [int(number) for number in known.columns]
    every = max(1, len(rounds) // 8)
    axes.plot(
        rounds, [point.value for point in points], label=group.label, markevery=every, **style
    )
    axes.fill_between(
        rounds,
        [point.low for point in points],
        [point.high for point in points],
        color=style["color"],
        alpha=0.18,
        linewidth=0,
    )


def _has(group: Group, metric: str) -> bool:
    return any(
        isinstance(record.get(metric), (int, float)) for run in group.runs for record in run.rounds
    )


def _columns(labels: Sequence[str], inches: float) -> int:
    """How many legend entries fit side by side at about 12 characters an inch."""
    return max(1, min(len(labels), int(inches * 12 // (max(map(len, labels)) + 8))))
