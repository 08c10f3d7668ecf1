"""Keep a study: a small summary of its runs, from which its tables can be made again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dai_lab.metrics import estimate, final, peak, rounds_to
from dai_lab.report.attacks import paired, poisoned, runtime, survival, worst_case
from dai_lab.report.figures import draw_curves, rendered
from dai_lab.report.groups import Group, by_size, grouped
from dai_lab.report.heat import draw_heat
from dai_lab.report.ranking import costs, ranking, rows
from dai_lab.report.runs import runs
from dai_lab.report.trials import recalled, records, spread_out
from dai_lab.report.worlds import draw_costs, draw_ranks

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
else:
    DataFrame = Figure = Any

BLOCK = re.compile(
    r"(<!-- (ours|ranking|cost|worst|paired|survives|poisoned|runtime):([^>]*)-->\n)"
    r"(.*?)(<!-- end -->)",
    re.DOTALL,
)
"""Where a study's README keeps a table; what it is to show stands behind the colon."""

AGAINST = {
    "worst": worst_case,
    "paired": paired,
    "survives": survival,
    "poisoned": poisoned,
    "runtime": runtime,
}
"""Tables of aggregators against attacks."""

OPTIONS = {
    "ranking": {"metric": "test_accuracy", "by": "world"},
    "cost": {"metric": "test_accuracy", "by": "world", "target": "", "of": "bytes"},
    "worst": {"of": "final"},
    "paired": {"against": "mean"},
    "survives": {"own": "adaptive", "none": "none"},
    "poisoned": {},
    "runtime": {},
}
"""What may stand behind the colon of a table of methods and worlds, and what it is if not."""


def summarize(results: Path | str, study: str = "") -> DataFrame:
    """List the finished runs of a folder, one a row, with their accuracy and costs over rounds.

    Where every run was named ``<study>,<world>,<algorithm>``, these words are columns.

    Args:
        results: Folder of the runs.
        study: Count only runs of this study, if some folder in there is named after it as above.

    Raises:
        ValueError: There is no finished run, or some run is not finished.
    """
    return spread_out(_finished(results, study))


def _finished(results: Path | str, study: str) -> list[Group]:
    named = sorted(Path(results).glob(f"{study},*,*")) if study else []
    found = [run for place in named or [Path(results)] for run in runs(place)]
    if broken := [run for run in found if run.problem]:
        raise ValueError(f"{broken[0].folder.name}: {broken[0].problem}: finish it, or delete it")
    return grouped(found)[0]


def tabulate(summary: DataFrame, targets: Sequence[float]) -> str:
    """Write a summary as a Markdown table whose every cell is an estimate over seeds."""
    reach = [f"rounds to {target:.0%}" for target in targets]
    lines = [["", "seeds", "rounds", "final accuracy", "peak accuracy", *reach, "MB up"]]
    for label, group in summary.groupby("group", sort=False):
        curves = [records(row) for row in group.to_dict("records")]
        ends = [[of(curve, "test_accuracy") for curve in curves] for of in (final, peak)]
        cells = [f"{estimate([_number(one) for one in each], missing='count')}" for each in ends]
        for target in targets:
            found = [rounds_to(curve, "test_accuracy", target) for curve in curves]
            hits = [float(rounds) for rounds in found if rounds is not None]
            never = f" ({len(found) - len(hits)} of {len(found)} never)" if None in found else ""
            cells.append(f"{estimate(hits):.1f}{never}" if hits else "never")
        rounds = "/".join(sorted({str(curve[-1]["round"]) for curve in curves}))
        megabytes = f"{estimate(list(group['megabytes_up'])):.0f}"
        lines.append([str(label), str(len(curves)), rounds, *cells, megabytes])
    return rows(lines)


def publish(results: Path | str, study: Path | str) -> Path:
    """Write a study's summary, its figures and the tables in its README.

    A table stands between two comments, and is written anew:

    - ``<!-- ours: 0.8 0.88 -->`` (targets of accuracy) to ``<!-- end -->``: a row a setting;
    - ``<!-- ranking: metric=test_accuracy by=world -->``: methods by worlds, with their mean rank;
      see :func:`dai_lab.report.ranking` for the metrics;
    - ``<!-- cost: target=0.8 of=bytes -->``: what it took to get there, also as
      ``target=iid:0.9,skewed:0.7`` and of ``round``, ``flops`` or ``simulated_seconds``;
    - ``<!-- worst: of=final -->`` (or ``peak``), ``<!-- paired: against=mean -->``,
      ``<!-- survives: own=adaptive -->``, ``<!-- poisoned: -->``, ``<!-- runtime: -->``:
      aggregators against attacks, where runs were named
      ``<study>,<world>,<attack>,<aggregator>``; see ``dai_lab.report.attacks``.

    Rankings and costs need runs that were named ``<study>,<world>,<algorithm>``. Of runs named so,
    those published before are kept where ``results`` has none of the same world, attack and
    algorithm, or only other seeds of the same settings, so that a study can grow where its first
    part was never run. To forget what was published, delete ``summary.parquet``.

    Args:
        results: Folder of its finished runs. Of a folder of many studies only the runs named
            after this one, as above, are counted.
        study: Its folder under ``experiments/``, whose README has at least one such place.

    Returns:
        The README.

    Raises:
        ValueError: A run is not finished, or the README has no place for the table.
    """
    folder, readme = Path(study), Path(study, "README.md")
    if not readme.exists() or not BLOCK.search(readme.read_text()):
        raise ValueError(f"{readme} needs the lines <!-- ours: 0.8 --> and <!-- end -->")
    groups = _finished(results, folder.resolve().name)
    summary = _joined(folder / "summary.parquet", spread_out(groups))
    text = readme.read_text()
    filled = BLOCK.sub(lambda found: _filled(found, summary), text)
    figures = _figures(groups, summary, text)
    spread = summary.to_parquet(index=False, compression="zstd")
    (folder / "summary.parquet").write_bytes(spread)
    for name, drawn in figures.items():
        for suffix, dark in (("", False), ("-dark", True)):
            (folder / f"{name}{suffix}.svg").write_bytes(rendered(drawn[dark], "svg", dark=dark))
    readme.write_text(filled)
    return readme


def _joined(earlier: Path, fresh: DataFrame) -> DataFrame:
    """Keep what was published before of other cells than these, or of other seeds."""
    from pandas import concat, read_parquet

    if "world" not in fresh or not earlier.exists():
        return fresh
    before = read_parquet(earlier)
    words = [name for name in ("world", "attack", "algorithm") if name in fresh]
    if not {*words, "seed", "digest"} <= {*before}:
        return fresh

    def cell(row: Mapping[Any, Any]) -> tuple[str, ...]:
        return tuple(str(row[word]) for word in words)

    new: list[dict[Any, Any]] = fresh.to_dict("records")
    settings = {cell(row): row["settings"] for row in new}
    done = {row["digest"] for row in new} | {(*cell(row), row["seed"]) for row in new}
    stays = [
        row["digest"] not in done
        and (*cell(row), row["seed"]) not in done
        and settings.get(cell(row)) in (None, row.get("settings"))
        for row in before.to_dict("records")
    ]
    if not any(stays):
        return fresh
    print(f"{sum(stays)} of {len(before)} runs published before are not among these, and stay")
    both = concat([before[stays], fresh], ignore_index=True)
    cells = [cell(row) for row in both.to_dict("records")]
    order = sorted(range(len(both)), key=lambda at: (by_size(cells[at]), int(both["seed"][at])))
    labels = [", ".join(one) for one in cells]
    return both.assign(group=labels).iloc[order].reset_index(drop=True)


def recomputed(study: Path | str) -> tuple[str, str]:
    """Return the tables a study's README shows, and what its summary says they must be."""
    from pandas import read_parquet

    found = list(BLOCK.finditer(Path(study, "README.md").read_text()))
    assert found, f"{study} has no table"
    summary = read_parquet(Path(study, "summary.parquet"))
    filled = [_filled(one, summary) for one in found]
    return "\n".join(one.group(0) for one in found), "\n".join(filled)


def _figures(groups: Sequence[Group], summary: DataFrame, text: str) -> dict[str, list[Figure]]:
    """Draw what a README's tables are about, each on a light and a dark ground."""
    named = "world" in summary
    if not named:
        both = [
            draw_curves(groups, metrics=("test_accuracy",), dark=dark) for dark in (False, True)
        ]
        return {"curves": both}
    trials = recalled(summary)
    if "attack" in summary:
        grounds = (False, True)
        figures = {
            f"heat-{of}": [draw_heat(trials, of=of, dark=dark) for dark in grounds]
            for of in ("final", "peak")
        }
        if any(trial.has("attack_success") for trial in trials):
            figures["heat-success"] = [
                draw_heat(trials, metric="attack_success", dark=dark) for dark in grounds
            ]
        return figures
    found = [_options(one)["metric"] for one in BLOCK.finditer(text) if one.group(2) == "ranking"]
    figures = {}
    for metric in dict.fromkeys(["test_accuracy", *found]):
        suffix = "" if metric == "test_accuracy" else f"-{metric.replace('_', '-')}"
        grounds = (False, True)
        figures[f"curves{suffix}"] = [
            draw_costs(trials, metrics=(metric,), resources=("round",), dark=dark)
            for dark in grounds
        ]
        if metric in found:
            figures[f"ranking{suffix}"] = [
                draw_ranks(trials, metric=metric, dark=dark) for dark in grounds
            ]
    return figures


def _number(value: float | None) -> float:
    return nan if value is None else value


def _options(found: re.Match[str]) -> dict[str, str]:
    kind, known = found.group(2), OPTIONS[found.group(2)]
    said = dict(word.partition("=")[::2] for word in found.group(3).split())
    if strange := [name for name in said if name not in known]:
        raise ValueError(f"{kind}: there is no {strange[0]}: it takes {', '.join(known)}")
    if said.get("by", "world") != "world":
        raise ValueError(f"{kind}: by must be world, got {said['by']}")
    return {**known, **said}


def _targets(said: str) -> Mapping[str, float]:
    """Read ``0.8``, or ``iid:0.9,skewed:0.7``, which may hold one without a world for the rest."""
    pairs = [word.rpartition(":")[::2] for word in said.split(",")]
    try:
        return {world: float(target) for world, target in pairs}
    except ValueError:
        raise ValueError(f"cost: target must be 0.8 or <world>:0.8,..., got {said!r}") from None


def _filled(found: re.Match[str], summary: DataFrame) -> str:
    start, kind, said, _, end = found.groups()
    if kind == "ours":
        body = tabulate(summary, [float(word) for word in said.split()])
    elif kind in AGAINST:
        body = AGAINST[kind](recalled(summary), **_options(found))
    elif kind == "ranking":
        body = ranking(recalled(summary), _options(found)["metric"])
    else:
        options = _options(found)
        aims = _targets(options["target"])
        body = costs(recalled(summary), aims, metric=options["metric"], resource=options["of"])
    return f"{start}{body}{end}"
