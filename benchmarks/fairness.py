"""The studies of fairness: run what is left of one, and write its table and its figures.

    python benchmarks/fairness.py diversity|methods|robustness|privacy [--seeds 0 1 2] [--show]

Runs go to ``results/`` by the study's ``grid.yaml``; where they ended is kept, a row a run, in
``fairness.csv`` beside it. The tables and figures of its README are made from that file alone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from dai_lab.experiment.plans import study
from dai_lab.metrics import estimate
from dai_lab.report.figures import canvas, legend, rendered, styles, theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
else:
    DataFrame = Figure = Any

ROOT = Path(__file__).parent.parent
STUDIES = ("diversity", "methods", "robustness", "privacy")
AXES = ("world", "attack", "method")

METRICS = {
    "test_accuracy": "accuracy",
    "worst_group_accuracy": "worst group's accuracy",
    "equalized_odds_difference": "equalized-odds gap",
    "equal_opportunity_difference": "equal-opportunity gap",
    "demographic_parity_difference": "demographic-parity gap",
    "accuracy_difference": "accuracy gap",
    "client_accuracy": "clients' accuracy",
    "client_accuracy_worst10": "worst 10 % of clients",
    "client_equalized_odds_difference": "gap on clients' own data",
    "personal_accuracy": "accuracy of own models",
    "personal_accuracy_worst10": "worst 10 %, own models",
    "personal_equalized_odds_difference": "gap of own models",
    "privacy/record_epsilon": "epsilon",
}
"""What is kept of a run, and how it is called; shares of 1 but for the last."""

OPTION = re.compile(r"<!-- measured: ([^>]*) -->\n.*?<!-- end -->", re.S)


def place(name: str) -> Path:
    """Say where a study is."""
    return ROOT / "experiments" / f"fairness_{name}"


def collected(name: str, results: Path) -> DataFrame:
    """List the finished runs of a study, one a row."""
    from omegaconf import OmegaConf
    from pandas import DataFrame as Frame

    found = []
    for folder in sorted(results.glob(f"fairness_{name},*")):
        _, *where = folder.name.split(",")
        for summary in sorted(folder.glob("*/summary.json")):
            ends = json.loads(summary.read_text())
            seed = OmegaConf.load(summary.parent / "config.yaml").seed
            kept = {metric: ends.get(metric) for metric in METRICS}
            found.append({**dict(zip(AXES, where, strict=True)), "seed": seed, **kept})
    frame = Frame(found).dropna(axis=1, how="all").round(5)
    return frame.sort_values([*AXES, "seed"], kind="stable")


def measured(name: str) -> DataFrame:
    """Return what has been measured in a study."""
    from pandas import read_csv

    return read_csv(place(name) / "fairness.csv")


def ordered(name: str, axis: str, known: Sequence[str]) -> list[str]:
    """Put the names of an axis in the order of the grid."""
    from omegaconf import OmegaConf

    grid: Any = OmegaConf.load(place(name) / "grid.yaml")
    listed = grid[{"world": "worlds", "attack": "attacks", "method": "aggregators"}[axis]]
    return [str(one) for one in listed if str(one) in set(known)]


def spelled(values: Sequence[float], metric: str) -> str:
    """Write an interquartile mean over seeds and its 95 % interval, shares in percent."""
    known = [one for one in values if one == one]
    if not known:
        return ""
    found = estimate(known)
    if metric.endswith("epsilon"):
        return f"{found.value:.2f}"
    fewer = "" if len(known) == len(values) else f" ({len(known)} of {len(values)} seeds)"
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]{fewer}"


def table(name: str, frame: DataFrame, said: str) -> str:
    """Write a table: ``world=adult by=method of=test_accuracy,equalized_odds_difference``."""
    options = dict(word.split("=", 1) for word in said.split())
    by = options.pop("by", "method").split("+")
    metrics = options.pop("of", "test_accuracy,equalized_odds_difference").split(",")
    for axis, value in options.items():
        frame = frame[frame[axis].astype(str).isin(value.split("|"))]
    seeds = sorted(frame.groupby(list(AXES))["seed"].count().unique())
    lines = [[*by, *(METRICS[one] for one in metrics)], ["---"] * (len(by) + len(metrics))]
    known = [ordered(name, axis, frame[axis].astype(str).unique()) for axis in by]
    places: list[tuple[str, ...]] = [()]
    for axis in known:
        places = [(*before, one) for before in places for one in axis]
    for where in places:
        here = frame
        for axis, value in zip(by, where, strict=True):
            here = here[here[axis].astype(str) == value]
        if len(here):
            cells = [spelled(list(here[one]), one) if one in here else "" for one in metrics]
            lines.append([*where, *cells])
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{rows}\n\nPercent over {'/'.join(map(str, seeds))} seeds."


def filled(name: str, text: str, frame: DataFrame) -> str:
    """Put every table in its place in the README."""

    def one(found: re.Match[str]) -> str:
        body = table(name, frame, found[1])
        return f"<!-- measured: {found[1]} -->\n{body}\n<!-- end -->"

    return OPTION.sub(one, text)


def pareto(
    name: str,
    frame: DataFrame,
    *,
    gap: str = "equalized_odds_difference",
    panels: str = "world",
    points: str = "method",
    dark: bool = False,
) -> Figure:
    """Draw accuracy against a gap: a panel a world, a point a method, with both intervals."""
    from matplotlib.figure import Figure as Canvas

    worlds = ordered(name, panels, frame[panels].astype(str).unique())
    methods = ordered(name, points, frame[points].astype(str).unique())
    across = min(3, len(worlds))
    down = -(-len(worlds) // across)
    with theme(dark=dark):
        figure = canvas(Canvas(layout="constrained"), dark=dark)
        grid = figure.subplots(down, across, squeeze=False)
        for axes, world in zip(grid.flat, worlds, strict=False):
            for method, style in zip(methods, styles(len(methods), dark=dark), strict=True):
                here = frame[(frame[panels] == world) & (frame[points] == method)]
                pairs = here[["test_accuracy", gap]].dropna()
                if len(pairs):
                    x, y = (estimate(list(pairs[one])) for one in pairs)
                    axes.errorbar(
                        100 * y.value, 100 * x.value,
                        xerr=[[100 * (y.value - y.low)], [100 * (y.high - y.value)]],
                        yerr=[[100 * (x.value - x.low)], [100 * (x.high - x.value)]],
                        label=method, color=style["color"], marker=style["marker"],
                        linestyle="none", elinewidth=1,
                    )  # fmt: skip
            axes.set_title(world, loc="left")
            axes.set_xlabel(f"{METRICS[gap]}, points")
            axes.set_ylabel("accuracy, %")
        for axes in list(grid.flat)[len(worlds) :]:
            axes.set_visible(False)
        deep = legend(figure, {one: one for one in methods}, 3.6 * across)
        figure.set_size_inches(3.6 * across, 3.0 * down + 0.24 * deep + 0.2)
        figure.draw_without_rendering()
    return figure


def lines(
    name: str,
    frame: DataFrame,
    *,
    metrics: Sequence[str],
    along: str = "world",
    curves: str = "method",
    xlabel: str = "",
    dark: bool = False,
) -> Figure:
    """Draw metrics along an axis whose names are numbers or steps, a panel a metric."""
    from matplotlib.figure import Figure as Canvas

    steps = ordered(name, along, frame[along].astype(str).unique())
    named = ordered(name, curves, frame[curves].astype(str).unique())
    with theme(dark=dark):
        figure = canvas(Canvas(layout="constrained"), dark=dark)
        grid = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(grid, metrics, strict=True):
            for method, style in zip(named, styles(len(named), dark=dark), strict=True):
                here = frame[frame[curves].astype(str) == method]
                there = [step for step in steps if (here[along].astype(str) == step).any()]
                found = [
                    estimate(list(here[here[along].astype(str) == step][metric].dropna()))
                    for step in there
                ]
                places = [steps.index(step) for step in there]
                axes.plot(places, [100 * one.value for one in found], label=method, **style)
                axes.fill_between(
                    places, [100 * one.low for one in found], [100 * one.high for one in found],
                    color=style["color"], alpha=0.18, linewidth=0,
                )  # fmt: skip
            axes.set_xticks(range(len(steps)), steps, rotation=0 if len(steps) < 7 else 35)
            axes.set_xlabel(xlabel)
            axes.set_title(f"{METRICS[metric]}, %", loc="left")
        deep = legend(figure, {one: one for one in named}, 4.4 * len(metrics))
        figure.set_size_inches(4.4 * len(metrics), 3.4 + 0.24 * deep)
        figure.draw_without_rendering()
    return figure


def figures(name: str, frame: DataFrame, *, dark: bool) -> dict[str, Figure]:
    """Draw what a study's README shows."""
    if name == "methods":
        return {
            data: pareto(
                name, frame[frame["world"].str.startswith(f"{data}-")],
                gap="equalized_odds_difference", dark=dark,
            )
            for data in dict.fromkeys(one.partition("-")[0] for one in frame["world"])
        }  # fmt: skip
    gaps = ("test_accuracy", "equalized_odds_difference", "demographic_parity_difference")
    people = ("test_accuracy", "worst_group_accuracy", "accuracy_difference")  # no answer is better
    if name == "diversity":
        known = [one for one in frame["attack"].unique() if one != "planted"]
        return {
            f"diversity-{data}": lines(
                name, frame[frame["attack"] == data], xlabel="sources", dark=dark,
                metrics=people if data == "har-people" else gaps,
            )
            for data in known
        }  # fmt: skip
    if name == "privacy":
        return {
            data: lines(
                name, frame[frame["attack"] == data], along="method", curves="world",
                metrics=("test_accuracy", "accuracy_difference", "worst_group_accuracy"),
                xlabel="what is done to gradients", dark=dark,
            )
            for data in frame["attack"].unique()
        }  # fmt: skip
    return {
        f"robustness-{world}": pareto(
            name, frame[frame["world"] == world], gap="equal_opportunity_difference",
            panels="attack", dark=dark,
        )
        for world in ordered(name, "world", frame["world"].unique())
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seeds", nargs="*", type=int, default=[])
    parser.add_argument("--parts", nargs="*", default=[])
    parser.add_argument("--results", default=str(ROOT / "results"))
    parser.add_argument("--show", action="store_true", help="run nothing")
    said = parser.parse_args()
    folder = place(said.study)
    ends = []
    if not said.show:
        ends = study(folder, results=said.results, seeds=said.seeds, parts=said.parts)
    failed = [one for one in ends if isinstance(one, Exception)]
    frame = collected(said.study, Path(said.results))
    frame.to_csv(folder / "fairness.csv", index=False)
    frame = measured(said.study)
    for suffix, dark in (("", False), ("-dark", True)):
        for figure, drawn in figures(said.study, frame, dark=dark).items():
            (folder / f"{figure}{suffix}.svg").write_bytes(rendered(drawn, "svg", dark=dark))
    readme = folder / "README.md"
    if readme.exists():
        readme.write_text(filled(said.study, readme.read_text(), frame))
    print(f"{len(frame)} runs in {folder / 'fairness.csv'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
