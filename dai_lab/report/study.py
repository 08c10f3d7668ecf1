"""Keep a study: a small summary of its runs, from which its table can be made again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dai_lab.metrics import estimate, final, peak, rounds_to
from dai_lab.report.figures import draw_curves, rendered
from dai_lab.report.groups import grouped
from dai_lab.report.runs import runs

if TYPE_CHECKING:
    from pandas import DataFrame
else:
    DataFrame = Any

BLOCK = re.compile(r"(<!-- ours:([^>]*)-->\n)(.*?)(<!-- end -->)", re.DOTALL)
"""Where a study's README keeps its table; the targets stand behind the colon."""


def summarize(results: Path | str) -> DataFrame:
    """List the finished runs of a folder, one a row, with their accuracy over rounds.

    Raises:
        ValueError: There is no finished run, or some run is not finished.
    """
    from pandas import DataFrame

    found = runs(results)
    groups, _ = grouped(found)
    if broken := [run for run in found if run.problem]:
        raise ValueError(f"{broken[0].folder.name}: {broken[0].problem}: finish it, or delete it")
    return DataFrame(
        [
            {
                "group": group.label,
                "seed": run.config["seed"],
                "digest": run.folder.name,
                "commit": run.environment.get("commit"),
                "test_accuracy": [row.get("test_accuracy") for row in run.rounds],
                "megabytes_up": run.rounds[-1]["bytes_up"] / 1e6,
            }
            for group in groups
            for run in group.runs
        ]
    )


def tabulate(summary: DataFrame, targets: Sequence[float]) -> str:
    """Write a summary as a Markdown table whose every cell is an estimate over seeds."""
    reach = [f"rounds to {target:.0%}" for target in targets]
    head = ["", "seeds", "rounds", "final accuracy", "peak accuracy", *reach, "MB up"]
    lines = [head, ["---"] * len(head)]
    for label, group in summary.groupby("group", sort=False):
        curves = [
            [{"round": at, "test_accuracy": one} for at, one in enumerate(curve, 1)]
            for curve in group["test_accuracy"]
        ]
        ends = [[of(curve, "test_accuracy") for curve in curves] for of in (final, peak)]
        cells = [f"{estimate([_number(one) for one in each], missing='count')}" for each in ends]
        for target in targets:
            found = [rounds_to(curve, "test_accuracy", target) for curve in curves]
            hits = [float(rounds) for rounds in found if rounds is not None]
            never = f" ({len(found) - len(hits)} of {len(found)} never)" if None in found else ""
            cells.append(f"{estimate(hits):.1f}{never}" if hits else "never")
        rounds = "/".join(sorted({str(len(curve)) for curve in curves}))
        megabytes = f"{estimate(list(group['megabytes_up'])):.0f}"
        lines.append([str(label), str(len(curves)), rounds, *cells, megabytes])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def publish(results: Path | str, study: Path | str) -> Path:
    """Write a study's summary, its figures and the table in its README.

    Args:
        results: Folder of its finished runs.
        study: Its folder under ``experiments/``, whose README holds the lines
            ``<!-- ours: 0.8 0.88 -->`` (targets of accuracy) and ``<!-- end -->``.

    Returns:
        The README.

    Raises:
        ValueError: A run is not finished, or the README has no place for the table.
    """
    folder, readme = Path(study), Path(study, "README.md")
    if not readme.exists() or not BLOCK.search(readme.read_text()):
        raise ValueError(f"{readme} needs the lines <!-- ours: 0.8 --> and <!-- end -->")
    summary = summarize(results)
    filled = BLOCK.sub(lambda found: _filled(found, summary), readme.read_text())
    summary.to_parquet(folder / "summary.parquet", index=False)
    groups, _ = grouped(runs(results))
    for name, dark in (("curves.svg", False), ("curves-dark.svg", True)):
        figure = draw_curves(groups, metrics=("test_accuracy",), dark=dark)
        (folder / name).write_bytes(rendered(figure, "svg", dark=dark))
    readme.write_text(filled)
    return readme


def recomputed(study: Path | str) -> tuple[str, str]:
    """Return the table a study's README shows, and what its summary says it must be."""
    from pandas import read_parquet

    text = Path(study, "README.md").read_text()
    found = BLOCK.search(text)
    assert found is not None, f"{study} has no table"
    filled = _filled(found, read_parquet(Path(study, "summary.parquet")))
    return found.group(0), filled


def _number(value: float | None) -> float:
    return nan if value is None else value


def _filled(found: re.Match[str], summary: DataFrame) -> str:
    targets = [float(word) for word in found.group(2).split()]
    return f"{found.group(1)}{tabulate(summary, targets)}{found.group(4)}"
